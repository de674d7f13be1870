"""SIFT Flow: outdoor scenes, each pixel labelled twice: what it is, and how it stands in space."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minifcn.data.dataset import DataError, Head
from minifcn.data.files import Files, Item, Reader, check_folders
from minifcn.data.images import voc_palette
from minifcn.data.mat import read_mat_map
from minifcn.data.numbering import from_one
from minifcn.data.preprocessing import SIFTFLOW
from minifcn.data.splits import check_held_out, read_ids, split_files

SIFTFLOW_CLASSES = (
    *("awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk"),
    *("desert", "door", "fence", "field", "grass", "moon", "mountain", "person", "plant", "pole"),
    *("river", "road", "rock", "sand", "sea", "sidewalk", "sign", "sky", "staircase"),
    *("streetlight", "sun", "tree", "window"),
)
"""What a pixel is."""

SIFTFLOW_GEOMETRY = ("sky", "horizontal", "vertical")
"""How it stands in space."""

SIFTFLOW_PUBLISHED = {"trainval": 2486, "test": 200}

NOT_LABELLED = ("highway_bost181", "street_urb506")

SCENES = "spatial_envelope_256x256_static_8outdoorcategories"

LAYOUT = """
  {path}/
    trainval.txt, test.txt                          names, one a line: coast_natu975
    Images/{scenes}/NAME.jpg
    SemanticLabels/{scenes}/NAME.mat    S: 1 to 33, 0 = not labelled
    GeoLabels/{scenes}/NAME.mat         S: 1 to 3, -1 = not labelled
The images are published by Liu, Yuen and Torralba (SIFT Flow, MIT), with both kinds of labels by
Tighe and Lazebnik (SuperParsing); data/sift-flow of the repository
shelhamer/fcn.berkeleyvision.org on GitHub has the split files.""".replace("{scenes}", SCENES)


def siftflow(path: str | Path, split: str, labels: str = "both") -> Files:
    """Return a split of SIFT Flow.

    Parameters
    ----------
    path
        The folder with ``Images``, ``SemanticLabels``, ``GeoLabels`` and the split files.
    split
        ``"trainval"``, ``"test"`` or another NAME for which there is a ``NAME.txt``.
    labels
        ``"both"``, for a net with two heads: labels are (H, W, 2); or one of them, ``"semantic"``
        (33 classes) or ``"geometric"`` (3 classes). The heads are called ``"sem"`` and ``"geo"``,
        as in the published nets.

    Raises
    ------
    DataError
        If anything is missing or does not fit; the message names the file and the rule. Labels are
        checked when they are read.

    Examples
    --------
    >>> list(siftflow("data/SiftFlow", "test").heads)  # doctest: +SKIP
    ['sem', 'geo']
    """
    if labels != "both" and labels not in KINDS:
        known = ", ".join(["both", *KINDS])
        raise DataError(f"siftflow: unknown labels {labels!r}: choose one of {known}")
    path = Path(path)
    chosen = list(KINDS) if labels == "both" else [labels]
    folders = {kind: f"{KINDS[kind][0]}/{SCENES}" for kind in chosen}
    check_folders(path, [f"Images/{SCENES}", *folders.values()], LAYOUT)
    ids = read_ids(path, split)
    check_held_out(path, split, ids)
    for name in NOT_LABELLED:
        if name in ids:
            raise DataError(
                f"{path / split}.txt: {name!r} was never labelled, so the published lists leave it "
                "out: take out this line"
            )
    items = [
        Item(
            name,
            (path / "Images" / SCENES / f"{name}.jpg",),
            tuple(path / folder / f"{name}.mat" for folder in folders.values()),
        )
        for name in ids
    ]
    heads = {}
    for kind in chosen:
        _, _, classes, head = KINDS[kind]
        heads[head] = Head(classes, voc_palette(len(classes)))
    return Files(
        f"SIFT Flow {split}" + (f" {labels}" if labels != "both" else ""),
        items,
        heads if labels == "both" else {"": next(iter(heads.values()))},
        read_labels=[KINDS[kind][1] for kind in chosen],
        presets={"published": SIFTFLOW},
    )


def siftflow_splits(path: str | Path, labels: str = "both") -> list[str]:
    """Return the names of the splits on disk."""
    check_folders(Path(path), [f"Images/{SCENES}"], LAYOUT)
    found = split_files(Path(path))
    return [split for split in ("train", "val", *SIFTFLOW_PUBLISHED) if split in found]


def read_semantic(file: Path) -> np.ndarray:
    """Return the class numbers in a file of semantic labels, uint8 (H, W): 255 where it has 0."""
    return from_one(read_mat_map(file, "S"), len(SIFTFLOW_CLASSES), (0,), file)


def read_geometric(file: Path) -> np.ndarray:
    """Return the class numbers in a file of geometric labels, uint8 (H, W): 255 where it has -1.

    A 0 is taken for -1, as published nets were trained.
    """
    return from_one(read_mat_map(file, "S"), len(SIFTFLOW_GEOMETRY), (-1, 0), file)


# The folder, reader and classes of each kind of labels, and what published nets call its head.
KINDS: dict[str, tuple[str, Reader, tuple[str, ...], str]] = {
    "semantic": ("SemanticLabels", read_semantic, SIFTFLOW_CLASSES, "sem"),
    "geometric": ("GeoLabels", read_geometric, SIFTFLOW_GEOMETRY, "geo"),
}
