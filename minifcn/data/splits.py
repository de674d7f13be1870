"""Lists of names in text files: what is learnt from, and what is held out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minifcn.data.dataset import DataError


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones.

    Ends of lines may be those of any system, and a byte-order mark is passed over.

    Raises
    ------
    DataError
        If there is no such file, or it is no UTF-8 text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text: byte {error.start} cannot be read") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_split(file: Path) -> list[str]:
    """Return the names in a split file: one a line, at least one, none twice.

    Raises
    ------
    DataError
        If the file is missing, empty or names something twice.
    """
    names = read_lines(file)
    if not names:
        raise DataError(f"{file}: the split is empty: it must name images, one a line")
    if len(set(names)) < len(names):
        first = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{file}: {first!r} is listed twice: each image must come once")
    return names


def check_disjoint(what: str, ours: Iterable[str], other: str, theirs: Iterable[str]) -> None:
    """Refuse two splits that share images.

    >>> check_disjoint("train", ["a", "b"], "val", ["c"])

    Raises
    ------
    DataError
        With the number of shared images, and the first.
    """
    both = sorted(set(ours) & set(theirs))
    if both:
        raise DataError(
            f"{what} and {other} share {len(both)} images, {both[0]!r} first: held-out images must "
            "not be trained on"
        )
