"""Pictures of a few held-out images, and of what a net makes of them as it learns.

They lie in the folder ``watch`` of a run: ``0-image.jpg`` and ``0-truth-0.png`` of the first image,
and ``fcn32s-00000400-0-0.png``, what the net says after step 400 (the last number: which head).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from .data import UNIT, Dataset, Preprocessing, Sample, heads_of, label_by_head, streams_of
from .evaluation import score_images
from .files import replace_file
from .nn import Module
from .report import image_file
from .runs import WATCH, Shown, picture_name, steps_of, write_shown
from .sample_pictures import first_picture
from .viz import colour_label

COUNT = 6  # images
SIDE = 192  # pixels of a picture, at most


class Chosen:
    """A few samples of a data set, spread over it, as a data set of their own.

    >>> from minifcn.data import shapes
    >>> [sample.name for sample in Chosen(shapes("val"), 3)]
    ['val-0008', 'val-0025', 'val-0041']
    """

    def __init__(self, dataset: Dataset, count: int = COUNT) -> None:
        count = min(count, len(dataset))
        places = [(2 * i + 1) * len(dataset) // (2 * count) for i in range(count)]
        self.samples = [dataset[place] for place in places]
        self.name, self.classes, self.palette = dataset.name, dataset.classes, dataset.palette
        self.ignore_index = dataset.ignore_index
        self.heads, self.streams = heads_of(dataset), streams_of(dataset)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


class WatchedPictures:
    """Writes the pictures of a run.

    Parameters
    ----------
    out
        The folder of the run.
    val_set
        From which images are chosen.
    preprocessing, device
        As for `minifcn.evaluation.evaluate`.
    """

    def __init__(
        self, out: Path, val_set: Dataset, preprocessing: Preprocessing = UNIT, device: str = "cpu"
    ) -> None:
        self.folder, self.chosen = out / WATCH, Chosen(val_set)
        self.preprocessing, self.device = preprocessing, device
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(self.chosen):
            picture = smaller(first_picture(sample.image, self.chosen.streams))
            replace_file(self.folder / f"{number}-image.jpg", image_file(picture, "JPEG"))
            for head, label in enumerate(label_by_head(sample.label, self.chosen.heads).values()):
                self._write_label(f"{number}-truth-{head}.png", label, head)
        self.shown = Shown(self.chosen.heads, [sample.name for sample in self.chosen])
        write_shown(out, self.shown)

    def take(self, stage: str, step: int, model: Module) -> None:
        """Write what a net says now; of each stage the first and the latest pictures are kept."""
        for scored in score_images(model, self.chosen, self.preprocessing, self.device):
            for head, label in enumerate(scored.labels.values()):
                self._write_label(picture_name(stage, step, scored.number, head), label, head)
        for between in sorted(steps_of(self.folder, stage))[1:-1]:
            self.remove(stage, between)

    def remove(self, stage: str, step: int) -> None:
        """Remove the pictures of a step."""
        for path in self.folder.glob(picture_name(stage, step)):
            path.unlink()

    def cut(self, stage: str, at: int) -> None:
        """Remove the pictures of all that happened in a stage after a step."""
        for step in steps_of(self.folder, stage):
            if step > at:
                self.remove(stage, step)

    def _write_label(self, name: str, label: np.ndarray, head: int) -> None:
        palette = list(self.chosen.heads.values())[head].palette
        picture = smaller(colour_label(label, palette), sharp=True).quantize(256)
        replace_file(self.folder / name, image_file(picture))


def smaller(picture: Image.Image, sharp: bool = False) -> Image.Image:
    """Return a picture of at most 192 pixels a side; labels stay sharp, their colours as they are.

    >>> smaller(Image.new("RGB", (400, 200))).size
    (192, 96)
    """
    scale = min(1.0, SIDE / max(picture.size))
    if scale == 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if sharp else Image.Resampling.BOX)
