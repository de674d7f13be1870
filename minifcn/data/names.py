"""Names from data sets: of samples and classes, and the files that results of them go to."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from minifcn.data.dataset import DataError
from minifcn.plain_text import HIDDEN

LONGEST_CLASS = 200  # letters: longer names could not be drawn beside a picture
LONGEST_FILE = 255  # bytes of the name of a file or folder, on the file systems in use
ENDING = "_overlay.png"  # the longest that is put behind a name


class UnsafeNameError(DataError):
    """A name of an image that no file of results can have."""


def check_text(source: object, what: str, name: str) -> None:
    r"""Refuse a name that cannot be shown as it is.

    Raises
    ------
    DataError
        If it is empty, or has a character that a terminal or page obeys instead of showing it.

    Examples
    --------
    >>> check_text("classes.txt", "class", "night sky")
    >>> check_text("classes.txt", "class", "sky\x07")
    Traceback (most recent call last):
    minifcn.data.dataset.DataError: classes.txt: class 'sky\x07' has a control character...
    """
    if not name.strip():
        raise DataError(f"{source}: {what} {name!r} is empty: give it a name")
    if HIDDEN.search(name):
        raise DataError(
            f"{source}: {what} {name!a} has a control character, or one that is no UTF-8: rename it"
        )


def check_class_names(source: object, names: Iterable[str]) -> None:
    """Refuse names of classes that cannot be shown, or are longer than 200 letters."""
    for name in names:
        if len(name) > LONGEST_CLASS:
            raise DataError(
                f"{source}: class {name[:20]!r}... has a name of {len(name):,} letters: it may "
                f"have {LONGEST_CLASS}"
            )
        check_text(source, "class", name)


def file_parts(name: str) -> tuple[str, ...]:
    r"""Return the folders of a sample's name, and the last part of it, if files may be called so.

    The rules are those of all systems, so that a folder of results can be copied to any of them.

    Raises
    ------
    UnsafeNameError
        If the name is empty, absolute, has a drive, ``..``, a backslash or a control character, or
        a part of it is too long for a file.

    Examples
    --------
    >>> file_parts("aachen/aachen_000000")
    ('aachen', 'aachen_000000')
    >>> file_parts("../../etc/passwd")
    Traceback (most recent call last):
    minifcn.data.names.UnsafeNameError: image name '../../etc/passwd': it leads out of the folder...
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if not posix.parts or posix.anchor or windows.anchor or ".." in windows.parts or "\\" in name:
        raise UnsafeNameError(
            f"image name {name!a}: it leads out of the folder for results, or is empty: "
            "rename the image"
        )
    if HIDDEN.search(name):
        raise UnsafeNameError(
            f"image name {name!a}: it has a control character, or one that is no UTF-8: "
            "rename the image"
        )
    for part in posix.parts:
        if (size := len(os.fsencode(part)) + len(ENDING)) > LONGEST_FILE:
            raise UnsafeNameError(
                f"image name '{part[:20]}...': with {ENDING} behind it it has {size} bytes, and "
                f"the name of a file may have {LONGEST_FILE}: rename the image"
            )
    return posix.parts


def check_inside(folder: Path, file: Path) -> None:
    """Refuse a file to write whose place is not in a folder: a link in it may lead elsewhere.

    Raises
    ------
    UnsafeNameError
        With both places.
    """
    real = file.parent.resolve() / file.name
    if not real.is_relative_to(folder.resolve()):
        raise UnsafeNameError(f"{file}: leads to {real}, which is not in {folder}")


def same_file_key(path: PurePath | str) -> str:
    """Return what two paths share that some system takes for one: capitals and accents aside.

    >>> same_file_key("out/Sea.png") == same_file_key("out/sea.png")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())
