"""How long a training step waits for its batch: print a table for docs/data/loading.md.

python benchmarks/loader.py

Two works, each the training step of the demo's FCN-8s: 8 windows of 96 x 96 pixels from land cover,
and one whole image of PASCAL VOC's size, from JPEG and PNG files that are made here. The share is
the time spent waiting over the time of all steps, after the first ones.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minifcn import data, demo, models, train

WAYS = ((0, 0), (0, 2), (1, 2), (2, 2))  # workers and prefetch
STEPS, FIRST = 40, 10  # of all steps, those that are not counted
FILES = 24
SIZES = ((375, 500), (375, 500), (500, 375))  # of PASCAL VOC's images, height x width


class Timed(data.Loader):
    """A loader that notes how long each batch was waited for."""

    def steps(self, start: int = 0) -> Iterator[data.Batch]:
        self.waited: list[float] = []
        batches = super().steps(start)
        while True:
            begin = time.perf_counter()
            batch = next(batches)
            self.waited.append(time.perf_counter() - begin)
            yield batch


def main() -> None:
    print("| work | workers | prefetch | step ms | waiting ms | share |\n|---|---|---|---|---|---|")
    recipe = replace(demo.DEMO_STAGES["fcn8s"], steps=STEPS)
    land = data.landcover("train")
    with tempfile.TemporaryDirectory() as folder:
        voc = voc_like(Path(folder))
        for workers, prefetch in WAYS:
            options: dict[str, Any] = {"workers": workers, "prefetch": prefetch}
            loader = Timed(
                land,
                recipe.batch_size,
                data.LANDCOVER,
                crop=recipe.crop,
                **recipe.changes,
                **options,
            )
            measure("land cover", loader, recipe)
            whole = replace(recipe, batch_size=1, crop=None)
            measure("VOC-sized files", Timed(voc, 1, data.CAFFE, flip=True, **options), whole)


def measure(name: str, loader: Timed, recipe: Any) -> None:
    """Train a new net for some steps, and print a row of the table."""
    classes = len(loader.dataset.classes)
    rng = np.random.default_rng(0)
    net = models.build("fcn8s", num_classes=classes, backbone="small", rng=rng, **demo.DEMO_OPTIONS)
    # A small rate: what is learnt from random labels does not matter.
    steps = train.fit(net, loader, replace(recipe, lr=1e-4))
    ends = [time.perf_counter() for _ in steps]
    seconds = ends[-1] - ends[FIRST - 1]
    waited = loader.waited[FIRST:]
    count = STEPS - FIRST
    print(
        f"| {name} | {loader.workers} | {loader.prefetch} | {1e3 * seconds / count:.1f} "
        f"| {1e3 * sum(waited) / count:.2f} | {sum(waited) / seconds:.1%} |",
        flush=True,
    )


def voc_like(folder: Path) -> data.Files:
    """Write images as large as photographs of PASCAL VOC, about 80 KB each, with labels."""
    rng = np.random.default_rng(0)
    items = []
    for number in range(FILES):
        height, width = SIZES[number % len(SIZES)]
        # Smooth patches with noise: about as hard to compress as a photograph.
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        smooth = data.resize(coarse, (height, width)) + rng.normal(0, 8, (height, width, 3))
        image = Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8))
        label = rng.integers(0, 21, (height // 60, width // 60), dtype=np.uint8)
        item = data.Item(str(number), (folder / f"{number}.jpg",), (folder / f"{number}.png",))
        image.save(item.images[0], quality=90)
        data.save_label(
            item.labels[0], data.resize_label(label, (height, width)), data.voc_palette(21)
        )
        items.append(item)
    return data.Files("VOC-sized files", items, data.VOC_CLASSES)


if __name__ == "__main__":
    main()
