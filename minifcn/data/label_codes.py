"""What the pixels of a label file mean: class numbers, other numbers, or colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minifcn.data.colours import ClassTable, Colours, show
from minifcn.data.dataset import IGNORE, DataError, check_label
from minifcn.data.images import read_label_pixels
from minifcn.plain_text import one_line

LARGEST = 65535  # of a 16-bit image
CODES = ("auto", "numbers", "colours")
LABEL_OPTIONS = ("ignore", "values", "codes")  # of all data sets whose labels are a user's own


@dataclass(frozen=True, eq=False)
class LabelCode:
    """Reads label files that hold classes in one of several ways; call it with a file.

    Parameters
    ----------
    classes
        The number of classes.
    ignore
        Label values of pixels to ignore, besides 255.
    values
        The class of each label value; None if values are the class numbers.
    colours
        What colours mean; None if labels must hold numbers.
    codes
        ``"numbers"``: a palette image is read by its indices; ``"colours"``: by what it shows;
        ``"auto"``: by its indices, but refused if its colours say other classes.
    """

    classes: int
    ignore: tuple[int, ...] = ()
    values: Mapping[int, int] | None = None
    colours: Colours | None = None
    codes: str = "auto"

    def __call__(self, file: Path) -> np.ndarray:
        """Return the class numbers of a label file, uint8 (H, W).

        Raises
        ------
        DataError
            If it cannot be read, or holds something that has no meaning.
        """
        pixels, palette = read_label_pixels(file, colours=self.colours is not None)
        if self.colours is not None and (pixels.ndim == 3 or palette is not None):
            if pixels.ndim == 3:
                return self._by_colour(self.colours, pixels, file)
            if self.codes == "colours":
                return self._by_colour(self.colours, _painted(pixels, palette), file)
            if self.codes == "auto" and not self.ignore and not self.values:
                _check_palette(self.colours, pixels, palette, file)
        return self._by_number(pixels, file)

    def _by_colour(self, colours: Colours, pixels: np.ndarray, file: Path) -> np.ndarray:
        if self.ignore or self.values:
            raise DataError(
                f"{file}: label is an RGB image: the options ignore and values are for labels that "
                "hold numbers (for a colour to ignore, the list of classes has a line "
                "'ignore R G B')"
            )
        return colours.classes_of(pixels, file)

    def _by_number(self, pixels: np.ndarray, file: Path) -> np.ndarray:
        if self.values is None:
            if self.ignore:
                pixels = np.where(np.isin(pixels, self.ignore), IGNORE, pixels)
            check_label(pixels, self.classes, file)
            return pixels.astype(np.uint8, copy=False)
        table = np.full(LARGEST + 1, -1, np.int16)  # of each value the class, -1 if it has none
        table[[IGNORE, *self.ignore]] = IGNORE
        table[list(self.values)] = list(self.values.values())
        numbers = table[pixels]
        if (numbers < 0).any():
            row, column = np.argwhere(numbers < 0)[0].tolist()
            raise DataError(
                f"{file}: label value {pixels[row, column]} at row {row}, column {column} "
                f"({int((numbers < 0).sum())} such pixels) is not among the values that were given "
                f"a class ({', '.join(map(str, sorted(self.values)))}), and not ignored"
            )
        return numbers.astype(np.uint8)


def label_code(
    table: ClassTable, ignore: str = "", values: str = "", codes: str = "auto"
) -> LabelCode:
    """Return the reader of labels for a table of classes and the options that a user gave.

    Parameters
    ----------
    table
        The classes, perhaps with colours.
    ignore
        ``"0,255"``: label values of pixels to ignore; 255 always is one, unless it has a class.
    values
        ``"0:0,255:1"``: the class number of each label value.
    codes
        As for `LabelCode`.

    Raises
    ------
    DataError
        If an option cannot be understood, or ``codes=colours`` lacks colours.

    Examples
    --------
    >>> from minifcn.data.dataset import Head
    >>> from minifcn.data.images import voc_palette
    >>> masks = ClassTable(Head(("back", "front"), voc_palette(2)), None)
    >>> label_code(masks, values="0:0,255:1").values
    {0: 0, 255: 1}
    """
    count = len(table.head.classes)
    if codes not in CODES:
        raise DataError(f"codes={codes}: it must be one of {', '.join(CODES)}")
    if codes == "colours" and table.colours is None:
        raise DataError("codes=colours: the list of classes names no colours")
    ignored = tuple(_value("ignore", part) for part in ignore.split(",") if ignore)
    given: dict[int, int] = {}
    for part in values.split(",") if values else ():
        value, colon, number = part.partition(":")
        if not colon or not _is_number(number) or int(number) >= count:
            raise DataError(
                f"values={one_line(values)}: {one_line(part)!r} must be VALUE:CLASS, with a class "
                f"number from 0 to {count - 1}, as values=0:0,255:1"
            )
        if _value("values", value) in given:
            raise DataError(f"values={values}: the value {value} is given twice")
        given[_value("values", value)] = int(number)
    both = sorted(set(ignored) & set(given))
    if both:
        raise DataError(f"the label value {both[0]} has a class (values=), and is to be ignored")
    return LabelCode(count, ignored, given or None, table.colours, codes)


def check_mask(code: LabelCode, files: list[Path], names: tuple[str, ...]) -> None:
    """Refuse labels of two classes that hold 0 and 255 only: as they are, class 1 is never there.

    In many programs 255 is the second class of a mask, but here it means that a pixel is ignored.
    Nothing would fail, so it has to be found before: some files are read, until one has class 1.

    Raises
    ------
    DataError
        If no file has class 1, and one has pixels to ignore; it tells both ways out.
    """
    if code.classes != 2 or code.values is not None or code.ignore or code.colours is not None:
        return
    seen: set[int] = set()
    for file in files[:16]:
        try:
            seen.update(np.unique(code(file)).tolist())
        except DataError:
            return  # to read this sample will say so
        if 1 in seen:
            return
    if seen == {0, IGNORE}:
        raise DataError(
            f"{files[0].parent}: labels hold 0 and {IGNORE} only, and {IGNORE} means that a pixel "
            f"is ignored, so {names[1]!r} is nowhere: if {IGNORE} is {names[1]!r}, add "
            f"?values=0:0,{IGNORE}:1; if not, ?values=0:0,1:1"
        )


def _is_number(text: str) -> bool:
    """Tell whether a text is a whole number; of one with thousands of digits Python makes none."""
    return text.strip().isdecimal() and len(text) < 20


def _value(option: str, text: str) -> int:
    """Return a label value of an option."""
    if not _is_number(text) or int(text) > LARGEST:
        raise DataError(
            f"{option}: {one_line(text)!r} is no label value: it must be a number from 0 to 65535"
        )
    return int(text)


def _painted(pixels: np.ndarray, palette: np.ndarray | None) -> np.ndarray:
    """Return what an image with a palette shows, uint8 (H, W, 3)."""
    colours = np.zeros((256, 3), np.uint8)  # a value beyond the palette's end is shown black
    if palette is not None:
        colours[: len(palette)] = palette
    return colours[pixels]


def _check_palette(
    known: Colours, pixels: np.ndarray, palette: np.ndarray | None, file: Path
) -> None:
    """Refuse an image with a palette that shows classes other than its indices say.

    Programs that make files smaller turn a colour image into one with a palette, with numbers of
    their own choice. Colours that are those of no class say nothing.
    """
    found = np.setdiff1d(pixels, [IGNORE])  # what is ignored may be shown in any colour
    same = (_painted(found, palette)[:, None] == known.colours).all(axis=2)  # (values, colours)
    if not same.any(axis=1).all():
        return
    for value, at in zip(found.tolist(), same.argmax(axis=1).tolist(), strict=True):
        if known.numbers[at] != value:
            colour = show(known.colours[at])
            raise DataError(
                f"{file}: pixels with the palette index {value} are shown in {colour}, the "
                f"colour of {known.names[at]!r} (class {known.numbers[at]}): add ?codes=colours if "
                "the colours are right, ?codes=numbers if the indices are"
            )
