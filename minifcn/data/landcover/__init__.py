"""Bundled real data: satellite image tiles with the land cover of every pixel.

The image is NASA's Blue Marble, the labels are NASA's MODIS land cover map, and the README in this
folder says where both come from and how the tiles were chosen and split.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import numpy as np

from minifcn.data.dataset import IGNORE, DataError, Sample
from minifcn.data.images import read_image, read_label

FOLDER = Path(__file__).parent
IMAGE_FILE, LABEL_FILE, TILES_FILE = "blue_marble.jpg", "landcover.png", "tiles.csv"

CLASSES: tuple[str, ...] = (
    "water",
    "forest",
    "shrubland",
    "savanna",
    "grassland",
    "cropland",
    "snow and ice",
    "barren",
)
PALETTE = np.array(
    [
        (38, 84, 150),  # water: blue
        (20, 100, 40),  # forest: dark green
        (196, 136, 84),  # shrubland: brown
        (140, 186, 80),  # savanna: light green
        (226, 220, 120),  # grassland: straw
        (236, 130, 46),  # cropland: orange
        (244, 246, 255),  # snow and ice: white
        (166, 156, 150),  # barren: grey
    ],
    np.uint8,
)


class LandCover:
    """The tiles of one split; see :func:`landcover`."""

    ignore_index = IGNORE

    def __init__(self, split: str) -> None:
        with (FOLDER / TILES_FILE).open(newline="", encoding="utf-8") as file:
            tiles = list(csv.DictReader(file))
        splits = sorted({tile["split"] for tile in tiles})
        if split not in splits:
            raise DataError(f"landcover has no split {split!r}: choose one of {', '.join(splits)}")
        self.name = f"landcover {split}"
        self.classes = CLASSES
        self.palette = PALETTE
        self.tiles = [tile for tile in tiles if tile["split"] == split]

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> Sample:
        tile = self.tiles[index]
        y, x, size = int(tile["row"]), int(tile["column"]), int(tile["size"])
        image, label = whole_map()
        window = np.s_[y : y + size, x : x + size]
        return Sample(image[window], label[window], tile["name"])


def landcover(split: str) -> LandCover:
    """Return the bundled land cover data set: real satellite tiles of 128 x 128 pixels.

    Eight classes: water, forest, shrubland, savanna, grassland, cropland, snow and ice, barren.
    The tiles are read-only views of one image of the globe, which is decoded once, at the first
    sample.

    Parameters
    ----------
    split
        ``"train"`` or ``"val"``. The held-out tiles lie in other longitudes than those trained on.

    Raises
    ------
    DataError
        If there is no such split.

    Examples
    --------
    >>> tiles = landcover("val")
    >>> image, label, name = tiles[0]
    >>> image.shape, label.shape
    ((128, 128, 3), (128, 128))
    """
    return LandCover(split)


@functools.cache
def whole_map() -> tuple[np.ndarray, np.ndarray]:
    """Return the image (2700, 5400, 3) and labels (2700, 5400) of the whole globe, read-only.

    Row 0 is the north pole, column 0 the 180th meridian, and 15 pixels make one degree.
    """
    image, label = read_image(FOLDER / IMAGE_FILE), read_label(FOLDER / LABEL_FILE)
    image.setflags(write=False)
    label.setflags(write=False)
    return image, label
