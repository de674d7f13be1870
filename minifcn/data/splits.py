"""Lists of names in text files: what is learnt from, and what is held out."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from minifcn.data.dataset import DataError

LONGEST = 4096  # letters of a name, the folders in it counted
LARGEST = 64 << 20  # bytes of a list; the longest published ones have a hundredth of that


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones.

    Ends of lines may be those of any system, and a byte-order mark is passed over.

    Raises
    ------
    DataError
        If there is no such file, or it is no UTF-8 text.
    """
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise DataError(f"{file}: {size} bytes: a list of names may have {LARGEST}")
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{file}: a folder, not a list") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text: byte {error.start} cannot be read") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_table(file: Path, lines: Sequence[str], divider: str = ",") -> list[list[str]]:
    """Return the stripped cells of each line of a CSV file.

    >>> read_table(Path("a.csv"), ['name , r', '"a,b",1'])
    [['name', 'r'], ['a,b', '1']]

    Raises
    ------
    DataError
        If a line is no CSV, or has a cell of more than 131,072 letters.
    """
    try:
        rows = csv.reader(lines, delimiter=divider, strict=True)
        return [[cell.strip() for cell in row] for row in rows]
    except csv.Error as error:
        raise DataError(f"{file}: no CSV file: {error}") from None


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
    for name in names:
        if len(name) > LONGEST:
            raise DataError(f"{file}: a name of {len(name)} letters: it may have {LONGEST}")
    if len(set(names)) < len(names):
        first = next(name for name, count in Counter(names).items() if count > 1)
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
        images = f"{len(both)} image{'s' * (len(both) > 1)}"
        raise DataError(
            f"{what} and {other} share {images}, {both[0]!r} first: held-out images must not be "
            "trained on"
        )


def split_files(folder: Path) -> dict[str, Path]:
    """Return the split files NAME.txt in a folder, by NAME."""
    files = sorted(file for file in folder.glob("*.txt") if not file.name.startswith("."))
    return {file.stem: file for file in files}


def read_ids(folder: Path, split: str) -> list[str]:
    """Return the names in a folder's split file ``split``.txt, which name files without a folder.

    Raises
    ------
    DataError
        If there is no such split, it is empty or lists a name twice, or a line is a path.
    """
    files = split_files(folder)
    if split not in files:
        known = ", ".join(files) or "none"
        raise DataError(
            f"{folder}: unknown split {split!r}: there is no {split}.txt; known are {known}"
        )
    names = read_split(files[split])
    for name in names:
        if "/" in name or "\\" in name or name == "..":
            raise DataError(
                f"{files[split]}: {name!r} is a path: each line must be the name of an image, "
                "without folder and ending"
            )
    return names


def check_train_val(folder: Path) -> None:
    """Refuse a folder whose train.txt and val.txt, where both exist, share images."""
    files = split_files(folder)
    if "train" in files and "val" in files:
        train, val = read_split(files["train"]), read_split(files["val"])
        check_disjoint(str(files["train"]), train, files["val"].name, val)


# Splits with these names share no images with these others.
HELD_OUT = {
    "train": ("val", "test"),
    "val": ("train", "test"),
    "trainval": ("test",),
    "test": ("train", "val", "trainval"),
}


def check_held_out(folder: Path, split: str, ids: Iterable[str]) -> None:
    """Refuse a split with images of another that it must not share any with, as train and test.

    Only splits are looked at that have a file in the folder.

    Raises
    ------
    DataError
        With the number of shared images, and the first.
    """
    ids, files = list(ids), split_files(folder)
    for other in HELD_OUT.get(split, ()):
        if other in files:
            check_disjoint(f"{folder}: {split}", ids, other, read_split(files[other]))
