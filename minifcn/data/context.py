"""PASCAL-Context: every pixel of VOC2010's images labelled, things and their surroundings."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np

from minifcn.data.dataset import DataError, Head
from minifcn.data.files import Files, Item, wrong_layout
from minifcn.data.images import voc_palette
from minifcn.data.mat import read_mat_map
from minifcn.data.preprocessing import CAFFE
from minifcn.data.splits import check_train_val, read_ids, read_lines, split_files
from minifcn.data.voc import find_voc
from minifcn.data.voc_classes import VOC_CLASSES

CONTEXT_PUBLISHED = {"train": 4998, "val": 5105, "trainval": 10103}

CONTEXT_CLASSES = (
    *VOC_CLASSES[1:],
    "bag",
    "bed",
    "bench",
    "book",
    "building",
    "cabinet",
    "ceiling",
    "clothes",
    "computer",
    "cup",
    "door",
    "fence",
    "floor",
    "flower",
    "food",
    "grass",
    "ground",
    "keyboard",
    "light",
    "mountain",
    "mouse",
    "curtain",
    "platform",
    "sign",
    "plate",
    "road",
    "rock",
    "shelves",
    "sidewalk",
    "sky",
    "snow",
    "bedcloth",
    "track",
    "tree",
    "truck",
    "wall",
    "water",
    "window",
    "wood",
)
"""The 59 classes of the published task, in the order of published nets (after background, 0)."""

# What three of them are called in the list of all 459 names.
OTHER_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}

LAYOUT = """
  {path}/
    labels.txt            "NUMBER: NAME", all 459 names in the labels
    trainval/NAME.mat     LabelMap: numbers of labels.txt
  and, given as ?voc=PATH, PASCAL VOC of 2010:
  VOCdevkit/VOC2010/
    ImageSets/Main/train.txt, val.txt    names, one a line
    JPEGImages/NAME.jpg
It is published on the page of PASCAL-Context (Mottaghi et al. 2014), cs.stanford.edu/~roozbeh,
and by the PASCAL VOC project, host.robots.ox.ac.uk/pascal/VOC"""


def context(
    path: str | Path, split: str, voc: str | Path | None = None, background: str = "class"
) -> Files:
    """Return a split of PASCAL-Context, with its 59 commonest classes.

    The label files hold 459 kinds of things. Those of the 59 classes are found by their name in
    ``labels.txt``, and all others are background.

    Parameters
    ----------
    path
        The folder with ``labels.txt`` and ``trainval``.
    split
        ``"train"``, ``"val"`` or ``"trainval"``: a list in VOC2010's ``ImageSets/Main``.
    voc
        ``VOCdevkit/VOC2010``, which has the images.
    background
        ``"class"``: background is class 0 of 60, as for the published nets. ``"ignore"``: its
        pixels are ignored, and there are 59 classes.

    Raises
    ------
    DataError
        If anything is missing or does not fit; the message names the file and the rule.
    """
    if background not in ("class", "ignore"):
        raise DataError(
            f"PASCAL-Context: background is {background!r}: it must be 'class' or 'ignore'"
        )
    path = Path(path)
    images = _find(path, voc)
    lists = images / "ImageSets" / "Main"
    check_train_val(lists)
    items = [
        Item(
            name,
            (images / "JPEGImages" / f"{name}.jpg",),
            (path / "trainval" / f"{name}.mat",),
        )
        for name in read_ids(lists, split)
    ]
    table = class_of_label(path / "labels.txt")
    if background == "class":
        head = Head(("background", *CONTEXT_CLASSES), voc_palette(60))
    else:
        head = Head(CONTEXT_CLASSES, voc_palette(60)[1:])
        table = table - np.uint8(1)  # in uint8, 0 - 1 is 255: ignored
    return Files(
        f"PASCAL-Context {split}",
        items,
        {"": head},
        read_labels=functools.partial(read_context_label, table=table),
        presets={"published": CAFFE},
    )


def context_splits(
    path: str | Path, voc: str | Path | None = None, background: str = "class"
) -> list[str]:
    """Return the names of the splits on disk."""
    lists = _find(Path(path), voc) / "ImageSets" / "Main"
    # The other lists there are one for each of VOC's kinds of things, with a mark on each line.
    return [name for name in split_files(lists) if name in CONTEXT_PUBLISHED]


def class_of_label(file: Path) -> np.ndarray:
    """Return the class, 1 to 59, of each number in label files, or 0; uint8, by the number.

    Parameters
    ----------
    file
        ``labels.txt``, with a number and a name on each line. Spaces in names do not count.

    Raises
    ------
    DataError
        If a line is something else, a number comes twice, or one of the 59 names is missing.
    """
    wanted = [OTHER_NAMES.get(name, name) for name in CONTEXT_CLASSES]
    names: dict[int, str] = {}
    number_of: dict[str, int] = {}
    for line in read_lines(file):
        match = re.fullmatch(r"(\d{1,5})\s*:(.+)", line)
        if not match:
            raise DataError(f"{file}: {line!r}: each line must be a number and a name, '9: bag'")
        number, name = int(match[1]), match[2].replace(" ", "")
        if number in names or (name in wanted and name in number_of):
            raise DataError(f"{file}: {line!r}: this number or name has come before")
        names[number] = name
        number_of[name] = number
    missing = [name for name in wanted if name not in number_of]
    if missing:
        raise DataError(
            f"{file}: {len(missing)} of the 59 classes are not among its {len(names)} names: "
            f"{', '.join(missing[:5])}: it must be the list of all 459 names"
        )
    table = np.zeros(max(names) + 1, np.uint8)
    for label, name in enumerate(wanted, start=1):
        table[number_of[name]] = label
    return table


def read_context_label(file: Path, table: np.ndarray) -> np.ndarray:
    """Return the classes in a label file, uint8 (H, W): ``table`` of the numbers in it."""
    numbers = read_mat_map(file, "LabelMap")
    wrong = (numbers < 0) | (numbers >= len(table))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise DataError(
            f"{file}: LabelMap is {numbers[row, column]} at row {row}, column {column}: it must be "
            f"0 to {len(table) - 1}, the numbers of labels.txt"
        )
    return table[numbers]


def _find(path: Path, voc: str | Path | None) -> Path:
    """Return the folder of VOC2010, once both folders are there."""
    missing = [part for part in ("labels.txt", "trainval") if not (path / part).exists()]
    if missing:
        raise wrong_layout(path, missing, "PASCAL-Context looks like this", LAYOUT)
    if voc is None:
        raise DataError(
            f"{path}: PASCAL-Context has labels only: add ?voc=PATH of the images, "
            "VOCdevkit/VOC2010"
        )
    images = find_voc(Path(voc).expanduser(), "Main")
    year = images.resolve().name
    if re.fullmatch(r"VOC\d{4}", year) and year != "VOC2010":
        raise DataError(
            f"{images}: PASCAL-Context labels the images of VOC2010, and the lists of {year} are "
            "others: give the folder VOC2010"
        )
    return images
