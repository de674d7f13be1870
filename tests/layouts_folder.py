"""Small trees of files in the layouts of folders of one's own, CamVid and Cityscapes.

Each function fills a folder and returns the name of the data set, without a split.
"""

import numpy as np
from PIL import Image

from minifcn.data import CAMVID_CLASSES, CITYSCAPES_CLASSES, save_label
from minifcn.data.camvid import CAMVID_COLOURS

FOLDER_CLASSES = {"sky": (70, 130, 180), "road": (128, 64, 128), "my car": (0, 0, 142)}
FOLDER_NAMES = {"train": ["a", "tree 2", "straße"], "val": ["b", "c.d", "e"]}


def blocks(rng, height, width, numbers):
    """Return a label map (height, width) of rectangles, which holds each number."""
    small = rng.permutation(np.resize(numbers, 3 * max(3, -(-len(numbers) // 3))))
    rows, columns = 3, len(small) // 3
    # (rows, columns) -> (height, width), by the nearest
    return small.reshape(rows, columns)[
        np.arange(height)[:, None] * rows // height, np.arange(width) * columns // width
    ].astype(np.uint8)


def photograph(rng, label, colours):
    """Return an image in which each class has a colour of its own, covered with noise."""
    noisy = np.asarray(colours)[np.minimum(label, len(colours) - 1)]
    return np.clip(noisy + rng.normal(0, 20, noisy.shape), 0, 255).astype(np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_folder(root):
    """``folder:``, six images of different sizes with labels of indices and a border of 255."""
    rng = np.random.default_rng(1)
    palette = np.array(list(FOLDER_CLASSES.values()), np.uint8)
    (root / "labels").mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in FOLDER_CLASSES))
    for split, names in FOLDER_NAMES.items():
        lines = "".join(f"{name}\r\n" for name in names)
        (root / f"{split}.txt").write_text(lines, encoding="utf-8", newline="")
        for name in names:
            label = blocks(rng, *rng.integers(40, 70, 2), [0, 1, 2])
            ending = "png" if name == "a" else "jpg"
            save(root / "images" / f"{name}.{ending}", photograph(rng, label, palette))
            label[:2] = 255
            save_label(root / "labels" / f"{name}.png", label, palette)
    return f"folder:{root}"


def make_colour_folder(root):
    """``folder:``, as above, with RGB images as labels, of which one colour is to be ignored."""
    spec = make_folder(root)
    rows = [*FOLDER_CLASSES.items(), ("ignore", (255, 255, 255))]
    (root / "classes.txt").write_text("".join(f"{n} {r} {g} {b}\n" for n, (r, g, b) in rows))
    colours = np.full((256, 3), 255, np.uint8)
    colours[:3] = list(FOLDER_CLASSES.values())
    for file in sorted((root / "labels").iterdir()):
        save(file, colours[np.asarray(Image.open(file))])
    return spec


def make_csv(root):
    """``csv:``, the pairs in a file with a column of splits; some lie in a folder beside it."""
    make_folder(root / "data")
    rows = ["image,label,split"]
    for split, names in FOLDER_NAMES.items():
        for name in names:
            ending = "png" if name == "a" else "jpg"
            rows.append(f"../data/images/{name}.{ending},../data/labels/{name}.png,{split}")
    (root / "lists").mkdir()
    (root / "lists" / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "data" / "classes.txt").rename(root / "lists" / "classes.txt")
    return f"csv:{root / 'lists' / 'pairs.csv'}"


def make_camvid(root):
    """``camvid:``, in the form that came with SegNet: 11 classes, and 11 for void."""
    rng = np.random.default_rng(2)
    colours = [*CAMVID_CLASSES.values(), (0, 0, 0)]
    for split, count in {"train": 3, "val": 2, "test": 2}.items():
        for number in range(count):
            label = blocks(rng, 48, 64, range(12))
            name = f"0001{split[:2].upper()}_{number:06}.png"
            save(root / split / name, photograph(rng, label, colours))
            save(root / f"{split}annot" / name, label)
    return f"camvid:{root}"


def make_camvid_published(root):
    """``camvid:``, as published: labels of 32 colours, and the lists of splits beside them."""
    rng = np.random.default_rng(3)
    colours = np.array([colour for colour, _ in CAMVID_COLOURS.values()], np.uint8)
    lists = {"train": [], "val": [], "test": []}
    for number, split in enumerate(("train", "train", "train", "val", "val", "test")):
        name = f"0006R0_f{number:05}"
        label = blocks(rng, 48, 64, range(32))
        save(root / "701_StillsRaw_full" / f"{name}.png", photograph(rng, label, colours))
        save(root / "LabeledApproved_full" / f"{name}_L.png", colours[label])
        lists[split].append(name)
    for split, names in lists.items():
        (root / f"{split}.txt").write_text("\n".join(names))
    rows = (f"{r} {g} {b}\t\t{name}\n" for name, ((r, g, b), _) in CAMVID_COLOURS.items())
    (root / "label_colors.txt").write_text("".join(rows))
    return f"camvid:{root}"


def make_cityscapes(root):
    """``cityscapes:``, with label ids; those of test images are not published."""
    rng = np.random.default_rng(4)
    colours = np.zeros((34, 3))
    for label_id, colour in CITYSCAPES_CLASSES.values():
        colours[label_id] = colour
    cities = {"train": ("aachen", "ulm"), "val": ("lindau",), "test": ("bonn",)}
    for split, names in cities.items():
        for city in names:
            for frame in range(2):
                name = f"{city}_{frame:06}_000019"
                label = blocks(rng, 40, 70, range(34))
                place = f"{split}/{city}/{name}"
                save(root / f"leftImg8bit/{place}_leftImg8bit.png", photograph(rng, label, colours))
                if split == "test":
                    label = label % 4  # what lies outside of the scored part
                save(root / f"gtFine/{place}_gtFine_labelIds.png", label)
    return f"cityscapes:{root}"
