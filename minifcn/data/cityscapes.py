"""Cityscapes: street scenes from 50 cities, with fine labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minifcn.data.dataset import IGNORE, DataError, Head
from minifcn.data.files import Files, Item, wrong_layout
from minifcn.data.label_codes import LabelCode

CITYSCAPES_PUBLISHED = {"train": 2975, "val": 500}

CITYSCAPES_CLASSES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
"""The 19 classes that are scored, in the order of their training numbers: label id and colour."""

IDS = 34  # label ids are 0 to 33; those of no class here are not scored
KINDS = {"ids": "labelIds", "trainids": "labelTrainIds"}

LAYOUT = """
  {path}/
    leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png
    gtFine/SPLIT/CITY/ID_gtFine_labelIds.png    (or ID_gtFine_labelTrainIds.png)
SPLIT is train or val. The files leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip are
published on the page of the Cityscapes Dataset (cityscapes-dataset.com), after registration."""


def cityscapes(path: str | Path, split: str, *, labels: str = "auto") -> Files:
    """Return Cityscapes with its fine labels of 19 classes; all else is ignored.

    Parameters
    ----------
    path
        The folder of ``leftImg8bit`` and ``gtFine``.
    split
        ``"train"`` or ``"val"``. The labels of the test images are not published.
    labels
        ``"ids"``: read the files ``labelIds``, with 34 kinds of things; ``"trainids"``: the files
        ``labelTrainIds``, with the numbers of the 19 classes and 255; ``"auto"``: the latter if the
        first image has one.

    Raises
    ------
    DataError
        If the folder is not laid out so, or the split has no labels.
    """
    path = Path(path)
    splits = cityscapes_splits(path)
    if labels not in ("auto", *KINDS):
        raise DataError(f"labels={labels}: it must be one of auto, {', '.join(KINDS)}")
    if split == "test":
        raise DataError(
            f"{path}: the labels of Cityscapes' test images are not published; the files that are "
            "there hold none of the 19 classes: use val (the server of Cityscapes scores the test "
            "images)"
        )
    if split not in splits:
        raise DataError(f"{path}: no split {split!r}: there is {', '.join(splits)}")
    images = path / "leftImg8bit" / split
    ids = {
        file.name.removesuffix("_leftImg8bit.png"): file
        for file in sorted(images.glob("*/*_leftImg8bit.png"))
    }
    if not ids:
        raise DataError(f"{images}: holds no files CITY/ID_leftImg8bit.png")
    places = {name: path / "gtFine" / split / file.parent.name for name, file in ids.items()}
    if labels == "auto":
        name, place = next(iter(places.items()))
        labels = "trainids" if (place / f"{name}_gtFine_labelTrainIds.png").exists() else "ids"
    ending = f"_gtFine_{KINDS[labels]}.png"
    items = [Item(name, (file,), (places[name] / f"{name}{ending}",)) for name, file in ids.items()]
    values = dict.fromkeys(range(IDS), IGNORE) if labels == "ids" else None
    for number, (label_id, _) in enumerate(CITYSCAPES_CLASSES.values()):
        if values is not None:
            values[label_id] = number
    palette = np.array([colour for _, colour in CITYSCAPES_CLASSES.values()], np.uint8)
    head = Head(tuple(CITYSCAPES_CLASSES), palette)
    code = LabelCode(len(head.classes), values=values)
    return Files(f"cityscapes {split}", items, {"": head}, read_labels=code)


def cityscapes_splits(path: str | Path, **options: str) -> list[str]:
    """Return the names of the splits that are there and have labels."""
    path = Path(path)
    missing = [part for part in ("leftImg8bit", "gtFine") if not (path / part).is_dir()]
    if missing:
        raise wrong_layout(path, missing, "Cityscapes looks like this", LAYOUT)
    return [name for name in ("train", "val") if (path / "leftImg8bit" / name).is_dir()]
