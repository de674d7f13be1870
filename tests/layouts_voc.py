"""PASCAL VOC, SBD and PASCAL-Context on disk as they are published, with a few small images each.

The three share images, as the published ones do: SBD's train holds an image of VOC's val.
"""

import zlib

import numpy as np
import scipy.io
from PIL import Image

from minifcn import data

VOC = {
    "train": ["2007_000032", "2007_000039", "2008_000008", "2009_000015"],
    "val": ["2007_000033", "2007_000042", "2010_000003", "2011_000006"],
}
SBD = {
    "train": ["2007_000032", "2008_000021", "2010_000003", "2009_000020"],
    "val": ["2007_000039", "2011_000006", "2010_000030"],
}
CONTEXT = {
    "train": ["2008_000002", "2008_000003", "2008_000007"],
    "val": ["2008_000009", "2008_000016", "2008_000021"],
}
SEG11VALID = ["2007_000033", "2007_000042", "2011_000006"]  # VOC val without SBD train
TRAINAUG = sorted([*VOC["train"], "2008_000021", "2009_000020", "2010_000030"])

# The numbers of the 59 classes among the 459 of labels.txt, in the order of the classes.
CONTEXT_NUMBERS = [
    *(2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427),
    *(9, 18, 22, 33, 44, 46, 68, 80, 85, 104, 115, 144, 158, 159, 162, 187, 189, 220, 232, 259),
    *(260, 105, 296, 355, 295, 324, 326, 349, 354, 360, 366, 19, 415, 420, 424, 440, 445, 454),
    458,
]


def picture(name, classes=21):
    """Return an image and its class numbers, two rectangles on background; the same for a name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    height, width = rng.integers(40, 71, size=2)
    label = np.zeros((height, width), np.uint8)
    for row, column in ((4, 3), (20, 18)):
        label[row : row + 14, column : column + 16] = rng.integers(1, classes)
    image = rng.integers(0, 40, (height, width, 3)) + 3 * data.voc_palette(classes)[label] // 4
    return image.astype(np.uint8), label


def write_jpeg(file, name):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(name)[0]).save(file, quality=95)


def write_list(file, names):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def write_voc_label(file, name):
    """Write a palette PNG whose objects have the border of 255 that VOC draws around each."""
    label = picture(name)[1]
    inner = np.pad(label, 1, mode="edge")
    neighbours = [inner[:-2, 1:-1], inner[2:, 1:-1], inner[1:-1, :-2], inner[1:-1, 2:]]
    border = np.any([label != neighbour for neighbour in neighbours], axis=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    data.save_label(file, np.where(border, np.uint8(255), label), data.voc_palette(256))


def write_sbd_label(file, name):
    """Write the struct ``GTcls`` as SBD has it: 1 x 1, with boundaries for each of 20 classes."""
    label = picture(name)[1]
    struct = np.empty(
        (1, 1), [(field, object) for field in ("Boundaries", "Segmentation", "CategoriesPresent")]
    )
    boundaries = np.empty((20, 1), object)
    for number in range(20):
        boundaries[number, 0] = (label == number + 1).astype(np.uint8)
    present = np.setdiff1d(label, [0]).astype(np.uint8)
    struct[0, 0] = (boundaries, label, present[:, None])
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, {"GTcls": struct}, do_compression=True)


def make_voc(root, year="VOC2011"):
    """Write one year of VOC's devkit below ``root``; return the data set's name."""
    place = root / "VOCdevkit" / year
    for split, names in VOC.items():
        write_list(place / "ImageSets" / "Segmentation" / f"{split}.txt", names)
        for name in names:
            write_jpeg(place / "JPEGImages" / f"{name}.jpg", name)
            write_voc_label(place / "SegmentationClass" / f"{name}.png", name)
    both = sorted([*VOC["train"], *VOC["val"]])
    write_list(place / "ImageSets" / "Segmentation" / "trainval.txt", both)
    return f"voc:{place}"


def make_sbd(root):
    """Write SBD's release below ``root``; return the data set's name."""
    place = root / "benchmark_RELEASE" / "dataset"
    for split, names in SBD.items():
        write_list(place / f"{split}.txt", names)
        for name in names:
            write_jpeg(place / "img" / f"{name}.jpg", name)
            write_sbd_label(place / "cls" / f"{name}.mat", name)
    return f"sbd:{place}"


def make_trainaug(root, year="VOC2012"):
    """Write VOC and SBD below ``root``; return the name of the data set that is made of both."""
    return f"{make_voc(root, year)}?sbd={make_sbd(root).removeprefix('sbd:')}"


def make_context(root):
    """Write PASCAL-Context and VOC2010 below ``root``; return the data set's name."""
    place, images = root / "context", root / "VOCdevkit" / "VOC2010"
    names = {number: f"other thing {number}" for number in range(1, 460)}
    spelt = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
    for number, name in zip(CONTEXT_NUMBERS, data.CONTEXT_CLASSES, strict=True):
        names[number] = spelt.get(name, name)
    write_list(place / "labels.txt", [f"{number}: {name}" for number, name in names.items()])
    for split, ids in CONTEXT.items():
        write_list(images / "ImageSets" / "Main" / f"{split}.txt", ids)
        write_list(images / "ImageSets" / "Main" / f"cat_{split}.txt", [f"{i} -1" for i in ids])
        for name in ids:
            write_jpeg(images / "JPEGImages" / f"{name}.jpg", name)
            write_context_label(place / "trainval" / f"{name}.mat", name)
    return f"context:{place}?voc={images}"


def write_context_label(file, name):
    """Write ``LabelMap``: uint16, every number of the 459 that stands for a class, and others."""
    numbers = np.array([1, *CONTEXT_NUMBERS])[picture(name, classes=60)[1]]
    numbers[-1, :3] = (397, 80, 459)  # table, cloth, and one that is no class
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, {"LabelMap": numbers.astype(np.uint16)}, do_compression=True)
