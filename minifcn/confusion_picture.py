"""A confusion matrix as a picture: what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .metrics import ConfusionMatrix
from .viz import FAINT, FRAME, INK, PAPER, PictureError, font_for

DEEP = (16, 78, 139)  # the colour of a cell that holds all of a row's pixels
LARGEST, SMALLEST = 44, 24  # side of a cell in pixels


def confusion_picture(matrix: ConfusionMatrix, classes: Sequence[str]) -> Image.Image:
    """Return a picture of a confusion matrix, each row as shares of the true class's pixels.

    The row is the true class, the column the predicted one: cell (i, j) is n[i, j] / t[i], in per
    cent, the darker the more. So the diagonal holds the classes' accuracies, and a dark cell beside
    it tells which class is taken for which. The row of a class without pixels stays empty.

    Parameters
    ----------
    matrix
        What was counted.
    classes
        A name for each class. From 2 to 60 or so can be read.

    Raises
    ------
    PictureError
        If there are not as many names as classes.

    Examples
    --------
    >>> matrix = ConfusionMatrix(2)
    >>> matrix.update(np.array([0, 0, 1]), np.array([0, 0, 0]))
    >>> picture = confusion_picture(matrix, ["sea", "land"])
    """
    count = matrix.num_classes
    if len(classes) != count:
        raise PictureError(f"{len(classes)} names for a confusion matrix of {count} classes")
    true = matrix.matrix.sum(axis=1)
    shares = matrix.matrix / np.maximum(1, true)[:, None]
    cell = int(np.clip(900 // count, SMALLEST, LARGEST))
    font, small = font_for(14, "".join(classes)), font_for(round(0.42 * cell), "100")
    names = round(max(font.getlength(name) for name in classes))
    margin, gap = 20, 8
    left, top = margin + names + gap, margin + 20 + gap + names + gap
    side = count * cell
    title = "rows: true class, columns: predicted class, per cent of the row's pixels"
    note = font_for(14, title)
    right = max(left + side, margin + round(note.getlength(title)))
    paper = Image.new("RGB", (right + margin, top + side + margin), PAPER)
    pen = ImageDraw.Draw(paper)
    pen.text((margin, margin), title, fill=FAINT, font=note)
    paper.paste(_upright(classes, cell, names, font), (left, top - gap - names))
    for i, name in enumerate(classes):
        y = top + i * cell
        pen.text((left - gap, y + cell // 2), name, fill=INK, font=font, anchor="rm")
        for j in range(count):
            x, share = left + j * cell, shares[i, j]
            pen.rectangle((x, y, x + cell, y + cell), fill=shade(share), outline=FRAME)
            if share >= 0.005:  # less is rounded to nothing
                ink = PAPER if share > 0.5 else INK
                place = (x + cell / 2, y + cell / 2)
                pen.text(place, f"{100 * share:.0f}", fill=ink, font=small, anchor="mm")
    return paper


def shade(share: float) -> tuple[int, int, int]:
    """Return the colour for a share from 0 (paper) to 1 (deep blue).

    >>> shade(0), shade(1)
    ((255, 255, 255), (16, 78, 139))
    """
    red, green, blue = (round(p + share * (d - p)) for p, d in zip(PAPER, DEEP, strict=True))
    return red, green, blue


def _upright(classes: Sequence[str], cell: int, length: int, font: object) -> Image.Image:
    """Return the names of the columns, written from the bottom up."""
    lying = Image.new("RGB", (length, len(classes) * cell), PAPER)
    pen = ImageDraw.Draw(lying)
    for number, name in enumerate(classes):
        place = (0, number * cell + cell // 2)
        pen.text(place, name, fill=INK, font=font, anchor="lm")  # type: ignore[arg-type]
    # Turned to the left by 90 degrees: the first line then stands at the left, as its column does.
    return lying.transpose(Image.Transpose.ROTATE_90)
