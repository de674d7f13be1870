"""Your own images and labels, in a folder."""

from __future__ import annotations

from pathlib import Path

from minifcn.data.dataset import IGNORE, DataError, Sample, check_label
from minifcn.data.images import read_image, read_label, voc_palette

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm")

LAYOUT = """
  {path}/
    classes.txt        one class name a line; line 1 is class 0
    images/NAME.jpg    (or .png, .tif, ...)
    labels/NAME.png    class numbers as palette indices or 8-bit gray; 255 = ignore
    train.txt          optional: the NAMEs to train on, one a line
    val.txt            optional: the NAMEs held out"""


class Folder:
    """Images and labels in a folder; see :func:`folder`."""

    ignore_index = IGNORE

    def __init__(self, path: Path, split: str) -> None:
        self.path = path
        self.name = f"{path} {split}"
        self.classes = read_classes(path)
        self.palette = voc_palette(len(self.classes))
        images = find_images(path)
        self.files = [
            (images[stem], _label_of(images[stem])) for stem in choose(path, split, images)
        ]
        if not self.files:
            raise DataError(f"{path}: split {split!r} is empty: no image is left for it")
        for image, label in self.files:
            if not label.is_file():
                raise DataError(f"{label}: no such label file for the image {image}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image_file, label_file = self.files[index]
        image, label = read_image(image_file), read_label(label_file)
        if image.shape[:2] != label.shape:
            raise DataError(
                f"{label_file}: label is {label.shape[0]} x {label.shape[1]}, its image "
                f"{image_file.name} is {image.shape[0]} x {image.shape[1]} (height x width): both "
                "must have one size (resize labels with nearest neighbour only)"
            )
        check_label(label, len(self.classes), label_file)
        return Sample(image, label, image_file.stem)


def folder(path: str | Path, split: str) -> Folder:
    """Return a data set of your own images and labels.

    The folder holds ``classes.txt`` (one class name a line), ``images/NAME.jpg`` (or another
    format) and ``labels/NAME.png`` of the same size and name, whose palette indices or 8-bit gray
    values are class numbers from 0; 255 marks pixels to ignore (so a 0/255 mask must be rewritten
    as 0/1). ``train.txt`` and ``val.txt`` list the NAMEs of each split, one a line.

    Parameters
    ----------
    path
        The folder.
    split
        ``"train"``, ``"val"`` or another name NAME for which there is a ``NAME.txt``; ``"all"`` is
        every image. Where only one of ``train.txt`` and ``val.txt`` exists, the other split is the
        rest; where neither does, ``"train"`` is every image and ``"val"`` is an error.

    Raises
    ------
    DataError
        If anything is missing or does not fit; the message names the file and the rule. Labels are
        checked against their image and the classes when they are read.
    """
    path = Path(path)
    missing = [part for part in ("classes.txt", "images", "labels") if not (path / part).exists()]
    if missing:
        found = "is not a folder" if not path.is_dir() else f"has no {' and no '.join(missing)}"
        raise DataError(
            f"{path} {found}; a data set folder looks like this:" + LAYOUT.format(path=path)
        )
    return Folder(path, split)


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the class names in ``classes.txt``: two or more, no name twice."""
    file = path / "classes.txt"
    classes = _read_lines(file)
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise DataError(f"{file}: class {repeated[0]!r} is named twice: each name must be unique")
    if not 2 <= len(classes) <= IGNORE:
        raise DataError(f"{file}: names {len(classes)} classes: there must be 2 to {IGNORE}")
    return tuple(classes)


def find_images(path: Path) -> dict[str, Path]:
    """Return the image files by their name without the ending, sorted."""
    images: dict[str, Path] = {}
    for file in sorted((path / "images").iterdir()):
        if file.suffix.lower() not in IMAGE_ENDINGS or file.name.startswith("."):
            continue
        if file.stem in images:
            raise DataError(
                f"{images[file.stem]} and {file.name} would share one label, "
                f"labels/{file.stem}.png: rename one of them"
            )
        images[file.stem] = file
    if not images:
        endings = " ".join(IMAGE_ENDINGS)
        raise DataError(f"{path / 'images'}: holds no images (files ending in {endings})")
    return images


def choose(path: Path, split: str, images: dict[str, Path]) -> list[str]:
    """Return the names of the images of one split."""
    if split == "all":
        return list(images)
    lists = {
        file.stem: _read_split(file, images)
        for file in sorted(path.glob("*.txt"))
        if file.name != "classes.txt"
    }
    both = sorted(set(lists.get("train", ())) & set(lists.get("val", ())))
    if both:
        raise DataError(
            f"{path}: {len(both)} names stand in both train.txt and val.txt, {both[0]!r} first: "
            "held-out images must not be trained on"
        )
    if split in lists:
        return lists[split]
    other = {"train": "val", "val": "train"}.get(split)
    if other in lists:
        return [stem for stem in images if stem not in set(lists[other])]
    if split == "train":
        return list(images)
    if split == "val":
        raise DataError(
            f"{path}: no val.txt: write one, with the names of held-out images, one a line"
        )
    known = ", ".join(sorted({"train", "val", "all", *lists}))
    raise DataError(f"{path}: unknown split {split!r}: there is no {split}.txt; known are {known}")


def _read_split(file: Path, images: dict[str, Path]) -> list[str]:
    names = _read_lines(file)
    for name in names:
        if name not in images:
            hint = " (leave out the file ending)" if Path(name).stem in images else ""
            raise DataError(f"{file}: {name!r} is no image in {file.parent / 'images'}{hint}")
    return names


def _read_lines(file: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text: byte {error.start} cannot be read") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _label_of(image: Path) -> Path:
    return image.parent.parent / "labels" / f"{image.stem}.png"
