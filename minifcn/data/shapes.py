"""Circles, squares and triangles drawn on the fly: a task that a small net learns in seconds."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from minifcn.data.dataset import IGNORE, DataError, Sample
from minifcn.data.images import voc_palette

CLASSES: tuple[str, ...] = ("background", "circle", "square", "triangle")
LENGTHS = {"train": 200, "val": 50}
COLOURS = np.array([(110, 110, 110), (200, 90, 80), (80, 170, 90), (90, 110, 200)], np.float64)


class Shapes:
    """Drawn shapes; see :func:`shapes`."""

    classes = CLASSES
    palette = voc_palette(len(CLASSES))
    ignore_index = IGNORE

    def __init__(self, split: str, length: int, size: int, seed: int) -> None:
        self.name = f"shapes {split}"
        self.split = split
        self.length = length
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not -self.length <= index < self.length:
            raise IndexError(f"{self.name} has {self.length} samples: no sample {index}")
        index %= self.length
        rng = np.random.default_rng([self.seed, list(LENGTHS).index(self.split), index])
        label = self._draw(rng)
        # Class colours that differ from shape to shape and are covered with noise.
        tint = COLOURS + rng.uniform(-35, 35, COLOURS.shape)
        noisy = tint[label] + rng.normal(0, 20, (self.size, self.size, 3))
        image = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        return Sample(image, label, f"{self.split}-{index:04d}")

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw two to four shapes at random places; a later one may cover an earlier one."""
        picture = Image.new("L", (self.size, self.size))
        pen = ImageDraw.Draw(picture)
        for _ in range(rng.integers(2, 5)):
            radius = float(rng.uniform(0.12, 0.25)) * self.size
            x, y = rng.uniform(radius, self.size - radius, 2).tolist()
            box = (x - radius, y - radius, x + radius, y + radius)
            number = int(rng.integers(1, len(CLASSES)))
            if CLASSES[number] == "circle":
                pen.ellipse(box, fill=number)
            elif CLASSES[number] == "square":
                pen.rectangle(box, fill=number)
            else:
                corners = [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)]
                pen.polygon(corners, fill=number)
        return np.array(picture)


def shapes(split: str, length: int | None = None, size: int = 64, seed: int = 0) -> Shapes:
    """Return a data set of coloured circles, squares and triangles on a noisy background.

    Sample i is drawn anew each time it is asked for and depends only on seed, split and i.

    Parameters
    ----------
    split
        ``"train"`` or ``"val"``; they share no image.
    length
        Number of samples: 200 for train and 50 for val where not given.
    size
        Height and width in pixels, 16 or more.
    seed
        Another seed, another data set.

    Raises
    ------
    DataError
        If there is no such split, or a number is out of range.

    Examples
    --------
    >>> image, label, name = shapes("train", length=10)[3]
    >>> image.shape, label.shape, name
    ((64, 64, 3), (64, 64), 'train-0003')
    """
    if split not in LENGTHS:
        raise DataError(f"shapes has no split {split!r}: choose one of {', '.join(LENGTHS)}")
    length = LENGTHS[split] if length is None else length
    for name, value, least in (("length", length, 1), ("size", size, 16), ("seed", seed, 0)):
        if value < least:
            raise DataError(f"shapes: {name} is {value}: it must be at least {least}")
    return Shapes(split, length, size, seed)
