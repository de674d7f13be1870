"""Tables of classes and their colours, and labels that show classes as colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minifcn.data.dataset import IGNORE, DataError, Head
from minifcn.data.images import voc_palette
from minifcn.data.names import check_class_names
from minifcn.data.splits import read_lines, read_table
from minifcn.plain_text import one_line

Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Colours:
    """What each colour of a label stands for.

    Several colours may stand for one class, and some for pixels to ignore.

    Attributes
    ----------
    names
        What each colour shows.
    colours
        uint8 (M, 3), red, green, blue; no colour twice.
    numbers
        uint8 (M,), the class number of each, or 255.
    """

    names: tuple[str, ...]
    colours: np.ndarray
    numbers: np.ndarray

    def classes_of(self, pixels: np.ndarray, source: object) -> np.ndarray:
        """Return the class number of each pixel, uint8 (H, W), from its colour, uint8 (H, W, 3).

        Raises
        ------
        DataError
            If a colour is none of those known; with the first place where it stands, and the
            class of the nearest colour.
        """
        known = _codes(self.colours)
        order = np.argsort(known)
        codes = _codes(pixels)
        place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        found = order[place]
        wrong = known[found] != codes
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            colour = pixels[row, column]
            distance = np.abs(self.colours.astype(int) - colour).sum(axis=1)
            near = int(distance.argmin())
            raise DataError(
                f"{source}: colour {show(colour)} at row {row}, column {column} "
                f"({int(wrong.sum())} such pixels) is the colour of no class; the nearest is "
                f"{show(self.colours[near])}, {self.names[near]!r}: labels must not be smoothed, "
                "resized with interpolation or saved as JPEG"
            )
        return self.numbers[found]


@dataclass(frozen=True, eq=False)
class ClassTable:
    """The classes of a data set, and their colours if it says them.

    Attributes
    ----------
    head
        Names and colours; those of PASCAL VOC where the table has none.
    colours
        What the colours of labels stand for; None where the table has none.
    """

    head: Head
    colours: Colours | None


def show(colour: Iterable[int]) -> str:
    """Return a colour as text.

    >>> show([128, 64, 0])
    '(128, 64, 0)'
    """
    return f"({', '.join(str(int(part)) for part in colour)})"


def read_classes(file: Path) -> ClassTable:
    """Read ``classes.txt``, a class a line, or ``classes.csv``, with the columns name, r, g, b.

    A line is ``name``, or ``name R G B`` with its colour, and then all lines must have one.
    A line ``ignore R G B`` is no class: pixels of that colour are ignored.

    Raises
    ------
    DataError
        If there are too few or too many classes, or a name or colour comes twice or is missing.
    """
    rows = _csv_rows(file) if file.suffix.lower() == ".csv" else _text_rows(file)
    plain = [name for name, colour in rows if colour is None]
    if plain and len(plain) < len(rows):
        raise DataError(
            f"{file}: {plain[0]!r} has no colour, but other classes have one: give all of them a "
            "colour, or none"
        )
    if "ignore" in plain:
        raise DataError(
            f"{file}: 'ignore' is no class: leave out the line, and label pixels to ignore {IGNORE}"
        )
    names = [name for name, _ in rows if name != "ignore"]
    check_class_names(file, names)
    if not 2 <= len(names) <= IGNORE:
        raise DataError(f"{file}: names {len(names)} classes: there must be 2 to {IGNORE}")
    _check_once(file, "class", names, "named")
    if plain:
        return ClassTable(Head(tuple(names), voc_palette(len(names))), None)
    given = [(name, colour) for name, colour in rows if colour is not None]
    _check_once(file, "colour", [colour for _, colour in given], "given")
    numbers = [IGNORE if name == "ignore" else names.index(name) for name, _ in given]
    colours = np.array([colour for _, colour in given], np.uint8)
    classes = np.array(numbers, np.uint8)
    palette = colours[classes != IGNORE]
    known = Colours(tuple(name for name, _ in given), colours, classes)
    return ClassTable(Head(tuple(names), palette), known)


def classes_text(head: Head) -> str:
    """Return the text of a ``classes.txt`` with colours; without where two classes share one.

    >>> print(classes_text(Head(("sky", "my road"), voc_palette(2))), end="")
    sky 0 0 0
    my road 128 0 0
    """
    if len(np.unique(head.palette, axis=0)) < len(head.classes):
        return "".join(f"{name}\n" for name in head.classes)
    rows = zip(head.classes, head.palette.tolist(), strict=True)
    return "".join(f"{name} {red} {green} {blue}\n" for name, (red, green, blue) in rows)


def _codes(colours: np.ndarray) -> np.ndarray:
    """Return each colour (..., 3) as one number."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def _text_rows(file: Path) -> list[tuple[str, Colour | None]]:
    rows: list[tuple[str, Colour | None]] = []
    for line in read_lines(file):
        *name, red, green, blue = ["", "", "", *line.split()]
        numbers = [red, green, blue]
        if all(part.isdecimal() for part in numbers) and any(name):
            rows.append((" ".join(filter(None, name)), _colour(file, line, numbers)))
        else:
            rows.append((line, None))
    return rows


def _csv_rows(file: Path) -> list[tuple[str, Colour | None]]:
    header, *lines = read_table(file, read_lines(file)) or [[]]
    titles = [title.lower() for title in header]
    if sorted(titles) != sorted(("name", "r", "g", "b")):
        raise DataError(
            f"{file}: the first line is {one_line(','.join(header))!r}: it must be 'name,r,g,b'"
        )
    rows: list[tuple[str, Colour | None]] = []
    for line in lines:
        if len(line) != len(titles):
            raise DataError(
                f"{file}: {one_line(','.join(line))!r}: each line must be a name and three numbers"
            )
        cells = dict(zip(titles, line, strict=True))
        rows.append((cells["name"], _colour(file, ",".join(line), [cells[key] for key in "rgb"])))
    return rows


def _colour(file: Path, line: str, parts: Sequence[str]) -> Colour:
    if not all(part.isdecimal() and len(part) < 20 and int(part) <= 255 for part in parts):
        raise DataError(f"{file}: {one_line(line)!r}: a colour must be three numbers from 0 to 255")
    red, green, blue = map(int, parts)
    return red, green, blue


def _check_once(file: Path, what: str, found: Sequence[object], verb: str) -> None:
    """Make sure that nothing comes twice."""
    first = next((one for number, one in enumerate(found) if one in found[:number]), None)
    if first is not None:
        text = first if isinstance(first, tuple) else repr(first)
        raise DataError(f"{file}: {what} {text} is {verb} twice: each {_KIND[what]} must be unique")


_KIND = {"class": "name", "colour": "colour"}
