"""Your own images and labels, in a folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection
from pathlib import Path

from minifcn.data.colours import ClassTable, read_classes
from minifcn.data.dataset import DataError
from minifcn.data.files import Files, Item, wrong_layout
from minifcn.data.label_codes import LABEL_OPTIONS, check_mask, label_code
from minifcn.data.splits import check_disjoint, read_split

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm")
FOLDER_OPTIONS = ("images", "labels", "label_suffix", "recursive", *LABEL_OPTIONS)
LONGEST_LINE = 4096  # letters at the beginning of a list that are looked at
CLASS_FILES = ("classes.txt", "classes.csv")

LAYOUT = """
  {path}/
    classes.txt        one class name a line; line 1 is class 0; for RGB labels: name R G B
    images/NAME.jpg    (or .png, .tif, ...)
    labels/NAME.png    class numbers as palette indices or gray; 255 = ignore
    train.txt          optional: the NAMEs to train on, one a line
    val.txt            optional: the NAMEs held out"""


def folder(
    path: str | Path,
    split: str,
    *,
    images: str = "images",
    labels: str = "labels",
    label_suffix: str = "",
    recursive: str = "no",
    ignore: str = "",
    values: str = "",
    codes: str = "auto",
) -> Files:
    """Return a data set of your own images and labels.

    The folder holds ``classes.txt`` (one class name a line), ``images/NAME.jpg`` (or another
    format) and ``labels/NAME.png`` of the same size and name, whose palette indices or gray values
    are class numbers from 0; 255 marks pixels to ignore. If the lines of ``classes.txt`` are
    ``name R G B``, labels may be RGB images of these colours. ``train.txt`` and ``val.txt`` list
    the NAMEs of each split, one a line.

    Parameters
    ----------
    path
        The folder.
    split
        ``"train"``, ``"val"`` or another name NAME for which there is a ``NAME.txt``; ``"all"`` is
        every image. Where only one of ``train.txt`` and ``val.txt`` exists, the other split is the
        rest; where neither does, ``"train"`` is every image and ``"val"`` is an error.
    images, labels
        Other names of the two folders.
    label_suffix
        What the names of labels have more: ``"_mask"`` if they are called ``NAME_mask.png``.
    recursive
        ``"yes"``: images and labels lie in subfolders, and a NAME is ``subfolder/name``.
    ignore, values, codes
        What label values mean, as for `minifcn.data.label_codes.label_code`.

    Raises
    ------
    DataError
        If anything is missing or does not fit; the message names the file and the rule. Labels are
        checked against their image and the classes when they are read.
    """
    path = Path(path)
    _check_parts(path, images, labels)
    table = class_table(path)
    code = label_code(table, ignore, values, codes)
    found = find_images(path / images, recursive)
    names = choose(path, split, found)
    if not names:
        raise DataError(f"{path}: split {split!r} is empty: no image is left for it")
    items = [
        Item(name, (found[name],), (path / labels / f"{name}{label_suffix}.png",)) for name in names
    ]
    _check_labels(items, label_suffix)
    check_mask(code, [item.labels[0] for item in items], table.head.classes)
    return Files(f"{path} {split}", items, {"": table.head}, read_labels=code)


def folder_splits(path: str | Path, **options: str) -> list[str]:
    """Return the names of the splits of a folder; the options are those of `folder`."""
    path = Path(path)
    images = options.get("images", "images")
    _check_parts(path, images, options.get("labels", "labels"))
    return list_splits(path, find_images(path / images, options.get("recursive", "no")))


def class_table(path: Path) -> ClassTable:
    """Return the classes of a folder, from its ``classes.txt`` or ``classes.csv``."""
    files = [path / name for name in CLASS_FILES if (path / name).exists()]
    if len(files) > 1:
        raise DataError(f"{path}: has both {' and '.join(CLASS_FILES)}: remove one of them")
    return read_classes(files[0])


def find_images(path: Path, recursive: str = "no") -> dict[str, Path]:
    """Return the image files in a folder by their name without the ending, sorted.

    With ``recursive="yes"`` those in subfolders, too, as ``subfolder/name``.
    """
    if recursive not in ("yes", "no"):
        raise DataError(f"recursive={recursive}: it must be yes or no")
    images: dict[str, Path] = {}
    for file in sorted(_files_below(path) if recursive == "yes" else path.iterdir()):
        if file.suffix.lower() not in IMAGE_ENDINGS or file.name.startswith("."):
            continue
        name = file.relative_to(path).with_suffix("").as_posix()
        if name in images:
            raise DataError(
                f"{images[name]} and {file.name} would share one label, "
                f"labels/{name}.png: rename one of them"
            )
        images[name] = file
    if not images:
        endings = " ".join(IMAGE_ENDINGS)
        nested = recursive == "no" and any(file.is_dir() for file in path.iterdir())
        hint = "; it has subfolders: add ?recursive=yes" if nested else ""
        raise DataError(f"{path}: holds no images (files ending in {endings}){hint}")
    return images


def choose(path: Path, split: str, images: Collection[str]) -> list[str]:
    """Return the names of the images of one split, from the lists in a folder."""
    if split == "all":
        return list(images)
    lists = {name: read_names(path, name, images) for name in ("train", "val") if _has(path, name)}
    if len(lists) == 2:
        check_disjoint(str(path / "train.txt"), lists["train"], str(path / "val.txt"), lists["val"])
    if split in lists:
        return lists[split]
    other = {"train": "val", "val": "train"}.get(split)
    if other in lists:
        held = set(lists[other])
        return [name for name in images if name not in held]
    if split == "train":
        return list(images)
    if split == "val":
        raise DataError(
            f"{path}: no val.txt: write one, with the names of held-out images, one a line"
        )
    if _has(path, split):
        return read_names(path, split, images)
    known = ", ".join(list_splits(path, images))
    raise DataError(f"{path}: unknown split {split!r}: there is no {split}.txt; known are {known}")


def list_splits(path: Path, images: Collection[str]) -> list[str]:
    """Return the splits that `choose` knows: text files that begin with an image's name."""
    spelling = _spelling(images)
    others = []
    for file in sorted(path.glob("*.txt")):
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            begin = lines.read(LONGEST_LINE).split("\n")
        first = next((line.strip() for line in begin if line.strip()), "")
        if file.stem not in ("train", "val", "all", "classes") and _normal(first) in spelling:
            others.append(file.stem)
    held_out = ["val"] if _has(path, "train") or _has(path, "val") else []
    return ["train", *held_out, *others, "all"]


def read_names(path: Path, split: str, images: Collection[str]) -> list[str]:
    """Return the names in a split's file, of images that there are."""
    file = path / f"{split}.txt"
    spelling = _spelling(images)
    names = read_split(file)
    for name in names:
        if _normal(name) not in spelling:
            plain = Path(name).with_suffix("").as_posix()
            hint = " (leave out the file ending)" if _normal(plain) in spelling else ""
            raise DataError(f"{file}: {name!r} is no image in {path}{hint}")
    return [spelling[_normal(name)] for name in names]


def _normal(name: str) -> str:
    """Return a name with its accents in one form: file systems and editors differ in that."""
    return unicodedata.normalize("NFC", name)


def _spelling(images: Collection[str]) -> dict[str, str]:
    return {_normal(name): name for name in images}


def _has(path: Path, split: str) -> bool:
    return (path / f"{split}.txt").is_file()


def _check_parts(path: Path, images: str, labels: str) -> None:
    """Make sure that the folder holds its parts; show how it has to look if it does not."""
    missing = [part for part in (images, labels) if not (path / part).is_dir()]
    if not any((path / name).exists() for name in CLASS_FILES):
        missing.insert(0, CLASS_FILES[0])
    if missing:
        raise wrong_layout(path, missing, "a data set folder looks like this", LAYOUT)


def _check_labels(items: list[Item], suffix: str) -> None:
    """Make sure that each image has its label, and say what there is instead."""
    for _, (image,), (label,) in items:
        if label.is_file():
            continue
        stem = label.stem.removesuffix(suffix)
        near = sorted(file.name for file in label.parent.glob(f"{_literal(stem)}*"))
        hint = ""
        if near:
            hint = f"; there is {near[0]}"
            more = near[0].removesuffix(".png").removeprefix(stem)
            if near[0].endswith(".png"):
                hint += f": add ?label_suffix={more}" if more else ": leave out label_suffix"
            elif Path(near[0]).suffix.lower() in (".jpg", ".jpeg"):
                hint += ": JPEG changes pixel values, so labels must be PNG files"
        raise DataError(f"{label}: no such label file for the image {image}{hint}")


def _literal(stem: str) -> str:
    """Return a file name as a pattern that means just itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)


def _files_below(path: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, which may be links."""
    files: list[Path] = []
    seen: set[Path] = set()  # a link may lead back to a folder above it
    for place, folders, names in os.walk(path, followlinks=True):
        here = Path(place).resolve()
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        files += [Path(place) / name for name in names]
    return files
