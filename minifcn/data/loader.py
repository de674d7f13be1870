"""Batches for training (shuffled, augmented, endless) and for evaluation (in order, untouched)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from minifcn.data.dataset import DataError, Dataset, Sample
from minifcn.data.preprocessing import UNIT, Preprocessing
from minifcn.data.transforms import augment


class Batch(NamedTuple):
    """What a net is fed with in one step.

    Attributes
    ----------
    images
        float32 (N, 3, H, W), preprocessed, stored channels-last.
    labels
        int64 (N, H, W), 255 where ignored.
    names
        The names of the N samples.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


class Loader:
    """Turns the samples of a data set into batches.

    Training batches come from one endless sequence: the data set in a shuffled order, then in
    another, and so on. Which samples make batch number s, and how each is changed, follows from
    ``seed`` and s alone, so a run that stops after step s goes on exactly with ``steps(s)``.

    Parameters
    ----------
    dataset
        Any :class:`minifcn.data.Dataset`.
    batch_size
        Samples per batch.
    preprocessing
        How pixels become the net's input.
    seed
        Decides the order and the random changes; 0 or more.
    crop, flip, flip_vertical, rotate, jitter
        The random changes of training samples: see :func:`minifcn.data.augment`.

    Raises
    ------
    DataError
        If the data set is empty, a number is out of range, or the images of one batch differ in
        size.

    Examples
    --------
    >>> from minifcn.data import shapes
    >>> loader = Loader(shapes("train", length=20, size=32), batch_size=4, flip=True)
    >>> batch = next(loader.steps())
    >>> batch.images.shape, batch.labels.shape
    ((4, 3, 32, 32), (4, 32, 32))
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        preprocessing: Preprocessing = UNIT,
        *,
        seed: int = 0,
        crop: int | tuple[int, int] | None = None,
        flip: bool = False,
        flip_vertical: bool = False,
        rotate: bool = False,
        jitter: float = 0.0,
    ) -> None:
        if len(dataset) == 0:
            raise DataError(f"data set {dataset.name} is empty: nothing to load")
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}: it must be at least 1")
        if seed < 0:
            raise DataError(f"seed is {seed}: it must be 0 or more")
        self.dataset = dataset
        self.batch_size = batch_size
        self.preprocessing = preprocessing
        self.seed = seed
        self.changes = {
            "crop": crop,
            "flip": flip,
            "flip_vertical": flip_vertical,
            "rotate": rotate,
            "jitter": jitter,
        }

    def steps(self, start: int = 0) -> Iterator[Batch]:
        """Yield training batches without end, from batch number ``start`` on."""
        position = start * self.batch_size
        epoch, order = -1, np.empty(0, np.int64)
        while True:
            samples = []
            for place in range(position, position + self.batch_size):
                if place // len(self.dataset) != epoch:
                    epoch = place // len(self.dataset)
                    order = self.order(epoch)
                sample = self.dataset[int(order[place % len(self.dataset)])]
                rng = np.random.default_rng([self.seed, 1, place])
                samples.append(augment(sample, rng, **self.changes))  # type: ignore[arg-type]
            yield self.collate(samples)
            position += self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """Return the shuffled sample numbers of one pass over the data set."""
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.dataset))

    def in_order(self) -> Iterator[Batch]:
        """Yield every sample once, first to last, unchanged; the last batch may be smaller."""
        for first in range(0, len(self.dataset), self.batch_size):
            last = min(first + self.batch_size, len(self.dataset))
            yield self.collate([self.dataset[i] for i in range(first, last)])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples of one size into a batch."""
        first = samples[0]
        for other in samples[1:]:
            if other.label.shape != first.label.shape:
                raise DataError(
                    f"images of one batch differ in size: {first.name} is {_size(first)}, "
                    f"{other.name} is {_size(other)} (height x width): choose crop= to cut windows "
                    "of one size, or batch_size=1"
                )
        images = self.preprocessing(np.stack([sample.image for sample in samples]))
        labels = np.stack([sample.label for sample in samples]).astype(np.int64)
        return Batch(images, labels, tuple(sample.name for sample in samples))


def _size(sample: Sample) -> str:
    height, width = sample.label.shape
    return f"{height} x {width}"
