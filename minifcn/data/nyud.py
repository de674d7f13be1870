"""NYUDv2: rooms in colour and depth, with 40 classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minifcn.data.dataset import DataError
from minifcn.data.depth import read_hha, read_log_depth
from minifcn.data.files import Files, Item, Reader, check_folders
from minifcn.data.images import read_image
from minifcn.data.mat import read_mat_map
from minifcn.data.numbering import from_one
from minifcn.data.preprocessing import NYUD, NYUD_HHA, UNIT, Preprocessing
from minifcn.data.splits import check_disjoint, check_held_out, read_ids, split_files

NYUD_CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror"),
    *("floor mat", "clothes", "ceiling", "books", "refridgerator", "television", "paper", "towel"),
    *("shower curtain", "box", "whiteboard", "person", "night stand", "toilet", "sink", "lamp"),
    *("bathtub", "bag", "otherstructure", "otherfurniture", "otherprop"),
)
"""In the published order and spelling."""

NYUD_PUBLISHED = {"train": 381, "val": 414, "trainval": 795, "test": 654}

LAYOUT = """
  {path}/
    train.txt, val.txt, test.txt    numbers, one a line: 5003
    data/images/img_5003.png        colour
    data/depth/img_5003.png         16-bit gray: depth in mm (for input depth and rgbd)
    data/hha/img_5003.png           depth as HHA (for input hha and color+hha)
    segmentation/img_5003.mat       segmentation: 1 to 40, 0 = not labelled
NYU Depth V2 is published by Silberman et al. (cs.nyu.edu); data in this layout are named by
data/nyud/README.md of the repository shelhamer/fcn.berkeleyvision.org on GitHub."""


class Input(NamedTuple):
    """What a net is shown of each room."""

    folders: tuple[str, ...]
    read: tuple[Reader, ...]
    streams: Mapping[str, int]
    presets: Mapping[str, Preprocessing]


# log(mm) is 7.844 in the mean, and 6.5 to 9.2 between 0.7 and 10 m: -2 to 2 with this std.
LOG_MEAN, LOG_STD = 7.844, 0.65

INPUTS = {
    "color": Input(("images",), (read_image,), {"": 3}, {"published": NYUD}),
    "depth": Input(
        ("depth",),
        (read_log_depth,),
        {"": 1},
        {
            "published": Preprocessing("RGB", 1, (LOG_MEAN,), (1,)),
            "unit": Preprocessing("RGB", 1, (LOG_MEAN,), (LOG_STD,)),
        },
    ),
    "hha": Input(("hha",), (read_hha,), {"": 3}, {"published": NYUD_HHA}),
    "rgbd": Input(  # early fusion: one net sees all four channels
        ("images", "depth"),
        (read_image, read_log_depth),
        {"": 4},
        {
            "published": Preprocessing("BGR", 1, (*NYUD.mean, LOG_MEAN), (*NYUD.std, 1)),
            "unit": Preprocessing("RGB", 1, (*[127.5] * 3, LOG_MEAN), (*[63.75] * 3, LOG_STD)),
        },
    ),
    "color+hha": Input(  # late fusion: a net for each
        ("images", "hha"),
        (read_image, read_hha),
        {"color": 3, "hha": 3},
        {
            "published": Preprocessing(
                "BGR", 1, NYUD.mean + NYUD_HHA.mean, NYUD.std + NYUD_HHA.std
            ),
            "unit": Preprocessing("RGB", UNIT.scale, UNIT.mean * 2, UNIT.std * 2),
        },
    ),
}


def nyud(path: str | Path, split: str, input: str = "color") -> Files:
    """Return a split of NYUDv2.

    Parameters
    ----------
    path
        The folder with ``data``, ``segmentation`` and the split files.
    split
        ``"train"``, ``"val"``, ``"test"`` or another NAME for which there is a ``NAME.txt``;
        ``"trainval"`` is train and val where it has no file.
    input
        ``"color"``; ``"depth"``: the logarithm of the depth in mm, float32 (H, W, 1); ``"hha"``:
        depth as three channels; ``"rgbd"``: colour and log depth, float32 (H, W, 4), for one net
        (early fusion); ``"color+hha"``: both, uint8 (H, W, 6), for a net each (late fusion).

    Raises
    ------
    DataError
        If anything is missing or does not fit; the message names the file and the rule. Labels and
        depth are checked when they are read.

    Examples
    --------
    >>> nyud("data/nyud", "trainval", input="color+hha")  # doctest: +SKIP
    """
    if input not in INPUTS:
        raise DataError(f"nyud: unknown input {input!r}: choose one of {', '.join(INPUTS)}")
    path, chosen = Path(path), INPUTS[input]
    check_folders(path, [*(f"data/{name}" for name in chosen.folders), "segmentation"], LAYOUT)
    items = [
        Item(
            number,
            tuple(path / "data" / folder / f"img_{number}.png" for folder in chosen.folders),
            (path / "segmentation" / f"img_{number}.mat",),
        )
        for number in _ids(path, split)
    ]
    return Files(
        f"NYUDv2 {split}" + (f" {input}" if input != "color" else ""),
        items,
        NYUD_CLASSES,
        read_images=chosen.read,
        read_labels=read_nyud_label,
        streams=chosen.streams,
        presets=chosen.presets,
    )


def nyud_splits(path: str | Path, input: str = "color") -> list[str]:
    """Return the names of the splits that can be read: those on disk, and trainval of two."""
    check_folders(Path(path), ["segmentation"], LAYOUT)
    found = set(split_files(Path(path)))
    return [split for split in NYUD_PUBLISHED if split in found or _is_both(found, split)]


def read_nyud_label(file: Path) -> np.ndarray:
    """Return the class numbers in a label file, uint8 (H, W): 0 to 39, and 255 where it has 0."""
    return from_one(read_mat_map(file, "segmentation"), len(NYUD_CLASSES), (0,), file)


def _ids(folder: Path, split: str) -> list[str]:
    """Return the numbers of the images of a split, which it may not share with others."""
    if _is_both(set(split_files(folder)), split):
        train, val = read_ids(folder, "train"), read_ids(folder, "val")
        check_disjoint(f"{folder}: train", train, "val", val)
        ids = train + val
    else:
        ids = read_ids(folder, split)
    check_held_out(folder, split, ids)
    return ids


def _is_both(found: set[str], split: str) -> bool:
    """Tell whether a split is to be made of train and val."""
    return split == "trainval" and split not in found and {"train", "val"} <= found
