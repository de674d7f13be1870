"""SBD: labels in MATLAB files for 11,355 of PASCAL VOC's images, 8,498 of them to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minifcn.data.dataset import DataError
from minifcn.data.files import Files, Item, wrong_layout
from minifcn.data.images import read_label
from minifcn.data.mat import read_mat_map
from minifcn.data.preprocessing import CAFFE
from minifcn.data.splits import check_train_val, read_ids, split_files
from minifcn.data.voc_classes import VOC_CLASSES

SBD_PUBLISHED = {"train": 8498, "val": 2857}

LAYOUT = """
  benchmark_RELEASE/dataset/
    train.txt, val.txt    names, one a line
    img/NAME.jpg
    cls/NAME.mat          GTcls.Segmentation: class numbers 0 to 20 (or a converted NAME.png)
It is published as SBD, the Semantic Boundaries Dataset (Hariharan et al. 2011), Berkeley."""


def sbd(path: str | Path, split: str) -> Files:
    """Return a split of SBD, with the 21 classes of PASCAL VOC.

    A label is read from ``cls/NAME.png`` where there is one, which takes no SciPy, or else from
    ``cls/NAME.mat``. Many images of its ``train`` are in VOC's ``val``: score a net trained on them
    on VOC's ``seg11valid`` only, or train on VOC's ``trainaug``; see `minifcn.data.voc`.

    Parameters
    ----------
    path
        ``benchmark_RELEASE/dataset``, or a folder that holds it.
    split
        ``"train"``, ``"val"``, or another NAME for which there is a ``NAME.txt``.

    Raises
    ------
    DataError
        If anything is missing or does not fit; the message names the file and the rule.
    """
    root = find_sbd(Path(path))
    check_train_val(root)
    return Files(
        f"SBD {split}",
        [sbd_item(root, name) for name in read_ids(root, split)],
        VOC_CLASSES,
        read_labels=read_sbd_label,
        presets={"published": CAFFE},
    )


def sbd_splits(path: str | Path) -> list[str]:
    """Return the names of the splits on disk."""
    return list(split_files(find_sbd(Path(path))))


def find_sbd(path: Path) -> Path:
    """Return the folder that holds ``img`` and ``cls``: ``path``, or one of two below it."""
    for root in (path, path / "dataset", path / "benchmark_RELEASE" / "dataset"):
        if (root / "img").is_dir() and (root / "cls").is_dir():
            return root
    raise wrong_layout(path, ["img and cls"], "SBD looks like this", LAYOUT)


def sbd_item(root: Path, name: str) -> Item:
    """Return the files of an image: the label as PNG if it has been converted."""
    converted = root / "cls" / f"{name}.png"
    label = converted if converted.is_file() else converted.with_suffix(".mat")
    return Item(name, (root / "img" / f"{name}.jpg",), (label,))


def read_sbd_label(file: Path) -> np.ndarray:
    """Return the class numbers in a label file of SBD, uint8 (H, W); any PNG is read, too.

    In the .mat file they lie in a struct of 1 x 1: ``GTcls(1).Segmentation``.

    Raises
    ------
    DataError
        If the file is damaged, or holds no class numbers there.
    """
    if file.suffix != ".mat":
        return read_label(file)
    values = read_mat_map(file, "GTcls.Segmentation")
    if values.min() < 0 or values.max() > 255:
        raise DataError(
            f"{file}: GTcls.Segmentation holds {values.min()} to {values.max()}: class numbers are "
            "0 to 20, and 255 for pixels to ignore"
        )
    return values.astype(np.uint8)
