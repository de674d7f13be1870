"""A labelled image that shows itself: the image, the colours over it, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as Pillow

from ..report import percent
from ..viz import Picture, legend_entries, overlay
from .page import Html, block, heading, picture, swatch, table

SIDE = 320  # pixels: the longer side of each picture, about
LISTED = 4  # classes in the plain text


class Labelled:
    """An image and the class of each of its pixels.

    Parameters
    ----------
    image
        uint8 (H, W, 3), red, green, blue; or a Pillow image.
    label
        Integers (H, W): class numbers, and 255 for ignored pixels.
    classes, palette
        The name of each class, and its colour, uint8 (K, 3).

    Raises
    ------
    PictureError
        If they do not fit together.

    Examples
    --------
    >>> image, label = np.zeros((2, 2, 3), np.uint8), np.array([[0, 0], [0, 1]])
    >>> Labelled(image, label, ["sea", "land"], np.array([(0, 0, 255), (0, 99, 0)], np.uint8))
    Labelled(2 x 2 pixels: sea 75.0 %, land 25.0 %)
    """

    def __init__(
        self, image: Picture, label: np.ndarray, classes: Sequence[str], palette: np.ndarray
    ) -> None:
        self.image, self.label, self.classes, self.palette = image, label, classes, palette
        self.overlay = overlay(image, label, palette)
        self.entries = legend_entries(classes, palette, label)

    def __repr__(self) -> str:
        shares = [f"{entry.name} {percent(entry.share or 0.0)}" for entry in self.entries]
        if len(shares) > LISTED:
            shares[LISTED:] = [f"{len(shares) - LISTED} more"]
        height, width = self.label.shape
        return f"Labelled({height} x {width} pixels: {', '.join(shares)})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: image, overlay, and the classes that occur."""
        height, width = self.label.shape
        image = self.image
        shown_image = Pillow.fromarray(image) if isinstance(image, np.ndarray) else image
        pictures = []
        commonest = ", ".join(entry.name for entry in self.entries[:LISTED])
        for drawn, told, caption in (
            (shown_image, "the image", "image"),
            (self.overlay, f"the image under the colours of its classes: {commonest}", "labelled"),
        ):
            if max(drawn.size) > 2 * SIDE:  # keep notebooks small
                drawn = drawn.copy()
                drawn.thumbnail((2 * SIDE, 2 * SIDE), Pillow.Resampling.BOX)
            scale = SIDE / max(drawn.size)
            shown = drawn.width * int(scale) if scale >= 1 else round(drawn.width * scale)
            pictures.append(picture(drawn, told, caption, max(1, shown)))
        rows = [(swatch(e.colour), e.name, percent(e.share or 0.0)) for e in self.entries]
        return block(
            heading("Labelled", f"{height} x {width} pixels"),
            Html(f"<div>{''.join(pictures)}</div>"),
            table(["", "class", ">share"], rows),
        )
