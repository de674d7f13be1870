"""Pictures of images and labels: colours, overlays, legends, and panels to compare nets.

Everything is drawn with Pillow and its own font, so it looks the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .backend import Error
from .data import IGNORE

Picture: TypeAlias = Image.Image | np.ndarray  # an array is uint8 (H, W, 3), red, green, blue

IGNORED_COLOUR = (224, 224, 192)  # PASCAL VOC's own colour for pixels that do not count
PAPER, INK = (255, 255, 255), (34, 38, 42)
FAINT, FRAME = (112, 118, 124), (208, 212, 216)
SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Arial Unicode.ttf")
LEAST_SIDE = 384  # a smaller picture is enlarged to about this before a legend is put beside it


class PictureError(Error, ValueError):
    """Images, labels and colours that do not fit together."""


class Entry(NamedTuple):
    """One line of a legend."""

    name: str
    colour: tuple[int, int, int]
    share: float | None  # of all pixels, 0 to 1


def colour_label(label: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Return class numbers as colours; ignored pixels (255) in a pale gray-yellow.

    Parameters
    ----------
    label
        Integers (H, W): class numbers, and 255 for ignored pixels.
    palette
        uint8 (K, 3), the colour of each class.

    Raises
    ------
    PictureError
        If there is a number without a colour.

    Examples
    --------
    >>> palette = np.array([(0, 0, 0), (9, 8, 7)], np.uint8)
    >>> colour_label(np.array([[1, 255]]), palette).getpixel((0, 0))
    (9, 8, 7)
    """
    if label.ndim != 2 or label.dtype.kind not in "ui" or label.size == 0:
        raise PictureError(
            f"label is {label.dtype} of shape {label.shape}: it must be integers of shape (H, W), "
            "with at least one pixel"
        )
    highest = int(np.max(label, where=label != IGNORE, initial=0))
    if highest >= len(palette) or label.min() < 0:
        wrong = highest if highest >= len(palette) else label.min()
        raise PictureError(
            f"label holds the number {wrong}, but the palette has colours for 0 to "
            f"{len(palette) - 1} (and {IGNORE} is drawn as ignored)"
        )
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE] = IGNORED_COLOUR
    return Image.fromarray(colours[label])


def overlay(
    image: Picture, label: np.ndarray, palette: np.ndarray, strength: float = 0.5
) -> Image.Image:
    """Return an image with the classes' colours laid over it: (1 - s) · image + s · colour.

    >>> image = np.full((1, 1, 3), 100, np.uint8)
    >>> overlay(image, np.zeros((1, 1), int), np.full((1, 3), 200, np.uint8)).getpixel((0, 0))
    (150, 150, 150)
    """
    picture, colours = _picture(image), colour_label(label, palette)
    if picture.size != colours.size:
        raise PictureError(
            f"image is {picture.height} x {picture.width}, label {colours.height} x "
            f"{colours.width} (height x width): both must have one size"
        )
    return Image.blend(picture, colours, strength)


def legend_entries(
    classes: Sequence[str],
    palette: np.ndarray,
    label: np.ndarray | None = None,
    *,
    ignored: bool = False,
) -> list[Entry]:
    """Return what a legend lists: all classes, or those in a label with their share of its pixels.

    With a label the commonest class comes first. Ignored pixels come last, as ``ignored``: if the
    label has some or, without a label, where asked for.

    >>> palette = np.zeros((2, 3), np.uint8)
    >>> legend_entries(["sea", "land"], palette, np.array([[1, 1]]))
    [Entry(name='land', colour=(0, 0, 0), share=1.0)]
    """
    if len(classes) > len(palette):
        raise PictureError(f"{len(classes)} classes, but a palette of {len(palette)} colours")
    colours = [(int(r), int(g), int(b)) for r, g, b in palette]
    if label is None:
        every = [Entry(name, colour, None) for name, colour in zip(classes, colours, strict=False)]
        return [*every, Entry("ignored", IGNORED_COLOUR, None)] if ignored else every
    shares = np.bincount(label.reshape(-1), minlength=IGNORE + 1) / max(1, label.size)
    order = [int(k) for k in np.argsort(-shares, kind="stable") if shares[k] and k != IGNORE]
    if order and max(order) >= len(classes):
        raise PictureError(
            f"label holds the number {max(order)}, but there are {len(classes)} classes"
        )
    found = [Entry(classes[k], colours[k], float(shares[k])) for k in order]
    rest = Entry("ignored", IGNORED_COLOUR, float(shares[IGNORE]))
    return [*found, rest] if rest.share else found


def legend(
    classes: Sequence[str],
    palette: np.ndarray,
    label: np.ndarray | None = None,
    *,
    ignored: bool = False,
    size: int = 14,
    max_width: int | None = None,
    max_height: int | None = None,
) -> Image.Image:
    """Return a picture of the classes' colours and names; see `legend_entries` for the choice.

    Parameters
    ----------
    classes, palette
        The name and colour of each class.
    label
        If given, only classes in it are listed, each with its share of the pixels in per cent.
    ignored
        Whether to list ignored pixels, if there is no label that tells.
    size
        Font size in pixels.
    max_width, max_height
        The entries stand below each other, in as many columns as fit into ``max_width``, or as are
        needed to keep to ``max_height``.

    Examples
    --------
    >>> picture = legend(["sea", "land"], np.array([(0, 0, 255), (0, 128, 0)], np.uint8))
    >>> picture.getpixel((8, 10))
    (0, 0, 255)
    """
    entries = legend_entries(classes, palette, label, ignored=ignored)
    shares = [_percent(entry.share) for entry in entries]
    font = font_for(size, "".join(entry.name for entry in entries))
    line, gap = round(1.6 * size), round(0.6 * size)
    name_width = max((font.getlength(entry.name) for entry in entries), default=0)
    share_width = max((font.getlength(share) for share in shares), default=0)
    cell = round(size + gap + name_width + (share_width and 2 * gap + share_width))
    step = cell + 2 * size  # from column to column
    if max_width is not None:
        columns = max(1, min(len(entries), (max_width + 2 * size) // step))
    else:
        columns = -(-len(entries) // max(1, (max_height or 10**9) // line))
    rows = -(-len(entries) // max(1, columns))
    paper = Image.new("RGB", (max(1, columns * step - 2 * size), max(1, rows * line)), PAPER)
    pen = ImageDraw.Draw(paper)
    for i, (entry, share) in enumerate(zip(entries, shares, strict=True)):
        column, row = divmod(i, rows)
        x, middle = column * step, row * line + line // 2
        top = middle - size // 2
        pen.rectangle((x, top, x + size - 1, top + size - 1), fill=entry.colour, outline=FAINT)
        pen.text((x + size + gap, middle), entry.name, fill=INK, font=font, anchor="lm")
        pen.text((x + cell, middle), share, fill=FAINT, font=font, anchor="rm")
    return paper


def annotated(
    image: Picture, label: np.ndarray, classes: Sequence[str], palette: np.ndarray
) -> Image.Image:
    """Return an overlay with a legend beside it: the classes that occur, their colours and shares.

    A picture of less than about 400 pixels is enlarged by a whole factor, so that it can be seen.

    >>> image, label = np.zeros((400, 400, 3), np.uint8), np.zeros((400, 400), int)
    >>> annotated(image, label, ["sea"], np.array([(0, 0, 255)], np.uint8)).height
    432
    """
    picture = overlay(image, label, palette)
    picture = _resized(picture, picture.width * max(1, LEAST_SIDE // max(picture.size)))
    size = min(40, max(16, min(picture.size) // 32))
    key = legend(classes, palette, label, size=size, max_height=max(picture.height, 24 * size))
    height = max(picture.height, key.height)
    paper = Image.new("RGB", (picture.width + key.width + 3 * size, height + 2 * size), PAPER)
    paper.paste(picture, (size, size))
    paper.paste(key, (picture.width + 2 * size, size))
    return paper


def panel(
    rows: Sequence[Sequence[Picture]],
    titles: Sequence[str],
    *,
    names: Sequence[str] = (),
    legend: Image.Image | None = None,
    width: int = 256,
) -> Image.Image:
    """Return pictures in rows and columns, to compare: image, truth, 32s, 16s, 8s.

    Parameters
    ----------
    rows
        For each row its pictures, one for each title.
    titles
        What stands above the columns.
    names
        What stands left of the rows; none where not given.
    legend
        A picture to put below, as from `legend` with ``max_width``.
    width
        The width of each picture. Small ones are enlarged without smoothing: pixels stay visible.

    Raises
    ------
    PictureError
        If the number of pictures or names does not fit.

    Examples
    --------
    >>> gray = np.full((4, 4, 3), 128, np.uint8)
    >>> panel([[gray, gray]], ["image", "truth"], width=50).size
    (150, 116)
    """
    if not rows or {len(row) for row in rows} != {len(titles)} or len(names) not in (0, len(rows)):
        raise PictureError(
            f"panel of {len(rows)} rows with {', '.join(str(len(row)) for row in rows) or 'no'} "
            f"pictures: there are {len(titles)} titles and {len(names)} names, and there must be "
            "a title for each picture of a row, and a name for each row or none"
        )
    margin, gap, size = 20, 10, 16
    font, small = font_for(size, "".join(titles)), font_for(size - 2, "".join(names))
    cells = [[_resized(_picture(picture), width) for picture in row] for row in rows]
    left = margin + max((round(small.getlength(name)) + gap for name in names), default=0)
    right = left + len(titles) * (width + gap) - gap
    top = margin + size + gap
    heights = [max(cell.height for cell in row) for row in cells]
    bottom = top + sum(heights) + gap * (len(rows) - 1)
    key = (legend.width, legend.height + margin) if legend else (0, 0)
    whole = (max(right, left + key[0]) + margin, bottom + key[1] + margin)
    paper = Image.new("RGB", whole, PAPER)
    pen = ImageDraw.Draw(paper)
    for column, title in enumerate(titles):
        middle = left + column * (width + gap) + width // 2
        pen.text((middle, margin + size), title, fill=INK, font=font, anchor="ms")
    y = top
    for number, (row, height) in enumerate(zip(cells, heights, strict=True)):
        if names:
            place = (left - gap, y + height // 2)
            pen.text(place, names[number], fill=FAINT, font=small, anchor="rm")
        for column, cell in enumerate(row):
            x = left + column * (width + gap)
            paper.paste(cell, (x, y))
            # A frame around the picture: snow on white paper would have no edge.
            pen.rectangle((x - 1, y - 1, x + width, y + cell.height), outline=FRAME)
        y += height + gap
    if legend:
        paper.paste(legend, (left, bottom + margin))
    return paper


def _picture(picture: Picture) -> Image.Image:
    """Return an image or array as an RGB image."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise PictureError(
            f"picture is {picture.dtype} of shape {picture.shape}: it must be uint8 (H, W, 3)"
        )
    return Image.fromarray(np.ascontiguousarray(picture))


def _resized(picture: Image.Image, width: int) -> Image.Image:
    """Return a picture of this width: enlarged pixel by pixel, or made smaller by averaging."""
    height = max(1, round(picture.height * width / picture.width))
    enlarge = width >= picture.width
    method = Image.Resampling.NEAREST if enlarge else Image.Resampling.BOX
    return picture if width == picture.width else picture.resize((width, height), method)


def _percent(share: float | None) -> str:
    if share is None:
        return ""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{share:.1%}".replace("%", " %")


def font_for(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font; it has plain ASCII only, so for other text one of the system.

    >>> font_for(14, "sea").getlength("sea") > 10
    True
    """
    for name in () if text.isascii() else SYSTEM_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:  # not on this machine
            continue
    return ImageFont.load_default(size)
