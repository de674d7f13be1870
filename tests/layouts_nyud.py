"""NYUDv2 and SIFT Flow on disk as published, with a few small images."""

from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

NYUD = {
    "train": ("5003", "5004", "5005"),
    "val": ("5010", "5011", "5012"),
    "test": ("5001", "5002", "5009"),
}
SIFTFLOW = {
    "trainval": ("coast_arnat59", "forest_bost101", "highway_art820", "street_urb999"),
    "test": ("coast_natu975", "highway_bost374", "mountain_nat116"),
}
SCENES = "spatial_envelope_256x256_static_8outdoorcategories"


def blocks(rng, numbers, height, width):
    """Return a map of 4 x 4 blocks, each with one of the numbers."""
    few = rng.choice(numbers, (4, 4))
    return np.repeat(np.repeat(few, -(-height // 4), 0), -(-width // 4), 1)[:height, :width]


def save_png(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def save_mat(file, **variables):
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, variables, do_compression=True)


def colours_of(rng, label):
    """Return a noisy picture, uint8 (H, W, 3), whose colours follow from the label."""
    tints = np.random.default_rng(7).integers(40, 215, (256, 3))
    noisy = tints[label.astype(np.uint8)] + rng.normal(0, 10, (*label.shape, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def make_nyud(root):
    """Write all kinds of images, labels and lists of NYUDv2; there is no trainval.txt."""
    root, size = Path(root), (48, 64)
    rng = np.random.default_rng(0)
    for split, numbers in NYUD.items():
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("\n".join(numbers) + "\n", newline="\n")
        for number in numbers:
            label = blocks(rng, np.arange(41, dtype=np.uint8), *size)
            label[:3] = 0  # not labelled, as the edges of most images
            slope = np.linspace(700, 9000, size[0])[:, None] + rng.uniform(0, 300, size)
            save_png(root / f"data/images/img_{number}.png", colours_of(rng, label))
            save_png(root / f"data/depth/img_{number}.png", slope.astype(np.uint16))
            hha = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            save_png(root / f"data/hha/img_{number}.png", hha)
            save_mat(root / f"segmentation/img_{number}.mat", segmentation=label)
    return f"nyud:{root}"


def make_siftflow(root):
    """Write images, both kinds of labels and lists of SIFT Flow."""
    root, size = Path(root), (60, 60)
    rng = np.random.default_rng(1)
    for split, names in SIFTFLOW.items():
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("\n".join(names), newline="\n")  # no end of line
        for name in names:
            semantic = blocks(rng, np.arange(34, dtype=np.uint8), *size)
            geometric = blocks(rng, np.array([-1, 1, 2, 3], np.int16), *size)
            semantic[:, :2], geometric[:, :2] = 0, -1
            save_png(root / f"Images/{SCENES}/{name}.jpg", colours_of(rng, semantic))
            save_mat(root / f"SemanticLabels/{SCENES}/{name}.mat", S=semantic, names=["awning"])
            save_mat(root / f"GeoLabels/{SCENES}/{name}.mat", S=geometric, names=["sky"])
    return f"siftflow:{root}"
