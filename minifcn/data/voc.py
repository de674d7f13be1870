"""PASCAL VOC's segmentation task, and the splits of it that papers made with SBD's labels."""

from __future__ import annotations

from pathlib import Path

from minifcn.data.dataset import DataError
from minifcn.data.files import Files, Item, wrong_layout
from minifcn.data.preprocessing import CAFFE
from minifcn.data.sbd import find_sbd, read_sbd_label, sbd_item
from minifcn.data.splits import check_disjoint, check_train_val, read_ids, split_files
from minifcn.data.voc_classes import VOC_CLASSES

VOC_PUBLISHED = {
    "VOC2011 train": 1112,
    "VOC2011 val": 1111,
    "VOC2011 trainval": 2223,
    "VOC2012 train": 1464,
    "VOC2012 val": 1449,
    "VOC2012 trainval": 2913,
    "VOC2012 trainaug": 10582,
    "seg11valid": 736,
}

OWN_LABELS = "SegmentationClass"

LAYOUT = """
  VOCdevkit/VOC2012/
    ImageSets/{lists}/train.txt, val.txt    names, one a line
    JPEGImages/NAME.jpg
    SegmentationClass/NAME.png    class numbers 0 to 20 as palette indices, 255 = ignore
It is published by the PASCAL VOC project, host.robots.ox.ac.uk/pascal/VOC"""


def voc(
    path: str | Path, split: str, sbd: str | Path | None = None, labels: str = OWN_LABELS
) -> Files:
    """Return a split of PASCAL VOC's segmentation task: 20 kinds of things and background.

    Two splits are made of other lists, unless ``ImageSets/Segmentation`` has a file for them:

    - ``seg11valid``, on which the published FCNs are scored: the images of VOC2011's ``val`` that
      are not in SBD's ``train``.
    - ``trainaug``: VOC's ``train``, with VOC's labels, and the images of SBD's ``train`` and
      ``val``, with SBD's labels, without those of VOC's ``val``.

    Parameters
    ----------
    path
        ``VOCdevkit/VOC2012`` or of another year, or ``VOCdevkit`` if only one year is in it.
    split
        ``"train"``, ``"val"``, ``"trainval"`` or another NAME with a list
        ``ImageSets/Segmentation/NAME.txt``; or one of the two above.
    sbd
        The folder of SBD, as for `minifcn.data.sbd`. Its ``train`` must not share images with a
        ``seg11valid.txt``.
    labels
        The folder of the label PNGs: ``"SegmentationClassAug"`` where ``trainaug`` was converted to
        PNGs, with a list ``trainaug.txt``.

    Raises
    ------
    DataError
        If anything is missing or does not fit; the message names the file and the rule.
    """
    root = find_voc(Path(path))
    lists = root / "ImageSets" / "Segmentation"
    check_train_val(lists)
    if not (root / labels).is_dir():
        raise DataError(f"{root}: has no folder {labels!r} of labels")
    if not labels.startswith(OWN_LABELS):
        raise DataError(
            f"{root}: labels is {labels!r}: it must be the folder SegmentationClass or "
            "SegmentationClassAug (SegmentationObject holds numbers of objects, not of classes)"
        )
    benchmark = None if sbd is None else find_sbd(Path(sbd).expanduser())
    if split == "trainaug":
        items = _trainaug(root, labels, benchmark)
    elif split == "seg11valid":
        items = [_item(root, labels, name) for name in _seg11valid(root, benchmark)]
    else:
        items = [_item(root, labels, name) for name in read_ids(lists, split)]
    if split == "test" and not any(item.labels[0].is_file() for item in items):
        raise DataError(
            f"{root}: the labels of the test images are not published: the project's server "
            "scores predictions of them"
        )
    return Files(
        f"{_year(root)} {split}",
        items,
        VOC_CLASSES,
        read_labels=read_sbd_label,
        presets={"published": CAFFE},
    )


def voc_splits(
    path: str | Path, sbd: str | Path | None = None, labels: str = OWN_LABELS
) -> list[str]:
    """Return the names of the splits that can be read: those on disk, and those made of them."""
    root = find_voc(Path(path))
    found = set(split_files(root / "ImageSets" / "Segmentation"))
    if labels == OWN_LABELS:  # a list trainaug.txt alone lacks most of its labels
        found.discard("trainaug")
        if sbd is not None:
            found.add("trainaug")
    if sbd is not None and _year(root) == "VOC2011":
        found.add("seg11valid")
    if "test" in found:
        first = read_ids(root / "ImageSets" / "Segmentation", "test")[0]
        if not (root / labels / f"{first}.png").is_file():
            found.discard("test")  # most years' labels are not published
    return sorted(found)


def find_voc(path: Path, lists: str = "Segmentation") -> Path:
    """Return the folder of one year: ``path``, or the only one in it, with these image lists."""
    if (path / "ImageSets" / lists).is_dir():
        return path
    years = [f for f in sorted(path.glob("VOC[0-9]*")) if (f / "ImageSets" / lists).is_dir()]
    if len(years) > 1:
        raise DataError(
            f"{path}: holds {', '.join(year.name for year in years)}: name one of them: {years[-1]}"
        )
    if not years:
        layout = LAYOUT.format(lists=lists)
        raise wrong_layout(path, [f"ImageSets/{lists}"], "PASCAL VOC looks like this", layout)
    return years[0]


def _item(root: Path, labels: str, name: str) -> Item:
    image, label = root / "JPEGImages" / f"{name}.jpg", root / labels / f"{name}.png"
    return Item(name, (image,), (label,))


def _year(root: Path) -> str:
    return root.resolve().name


def _trainaug(root: Path, labels: str, benchmark: Path | None) -> list[Item]:
    """Return the images of VOC's train and of SBD that are not in VOC's val."""
    lists = root / "ImageSets" / "Segmentation"
    val = read_ids(lists, "val")
    if labels != OWN_LABELS:
        ids = read_ids(lists, "trainaug")
        check_disjoint(str(lists / "trainaug.txt"), ids, "val.txt", val)
        return [_item(root, labels, name) for name in ids]
    if benchmark is None:
        raise DataError(
            f"{root}: split 'trainaug' needs SBD's labels: add ?sbd=PATH of "
            "benchmark_RELEASE/dataset, or ?labels=SegmentationClassAug where they are PNGs there"
        )
    check_train_val(benchmark)
    own = read_ids(lists, "train")
    theirs = {*read_ids(benchmark, "train"), *read_ids(benchmark, "val")} - {*own, *val}
    items = [_item(root, labels, name) for name in own]
    return sorted([*items, *(sbd_item(benchmark, name) for name in theirs)])


def _seg11valid(root: Path, benchmark: Path | None) -> list[str]:
    """Return the images of VOC2011's val that are not in SBD's train."""
    lists = root / "ImageSets" / "Segmentation"
    file = lists / "seg11valid.txt"
    trained = set() if benchmark is None else set(read_ids(benchmark, "train"))
    if file.is_file():
        ids = read_ids(lists, "seg11valid")
        check_disjoint(str(file), ids, "the train.txt of SBD", trained)
        return ids
    if _year(root) != "VOC2011":
        raise DataError(
            f"{root}: split 'seg11valid' is made of the val.txt of VOC2011, and this is "
            f"{_year(root)}, whose val.txt lists others: give the folder VOC2011 and ?sbd=PATH, or "
            f"save the published list as {file}"
        )
    if benchmark is None:
        raise DataError(
            f"{root}: split 'seg11valid' is val without the images that SBD's train lists: add "
            f"?sbd=PATH of benchmark_RELEASE/dataset, or save the published list as {file}"
        )
    return [name for name in read_ids(lists, "val") if name not in trained]
