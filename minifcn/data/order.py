"""Which samples make which training batch: a pure function of the seed and the batch's number."""

from __future__ import annotations

import functools
from typing import Literal, get_args

import numpy as np

from minifcn.data.dataset import DataError, Dataset
from minifcn.data.unreadable import UNREADABLE

Sampling = Literal["epochs", "replacement"]
Sizes = Literal["same", "pad", "bucket"]

# What a random generator is for: a part of its seed, so that no two draw the same numbers. The
# changes of images have 1, in loader.py, samples that take the place of others 4, in unreadable.py.
ORDER, DRAW, BATCHES = 0, 2, 3


class Order:
    """Deals the samples of a data set out to batches without end.

    With ``sampling="epochs"`` each sample comes once in every pass over the data set, and each pass
    is shuffled anew. With ``"replacement"`` every place of every batch is drawn from all samples,
    as the data layers of the published nets do (``random.randint`` for each image; their generator
    was Python 2's, so the numbers are others here).

    Parameters
    ----------
    count
        Number of samples.
    batch_size
        Samples per batch.
    seed
        0 or more.
    sampling
        ``"epochs"`` or ``"replacement"``.
    sizes
        Integer (count, 2), to make batches of images of one size only; None if any go together.
        In each pass the last batch of a size may then be smaller than the others.

    Raises
    ------
    DataError
        If the way of sampling is unknown.

    Examples
    --------
    >>> order = Order(5, batch_size=3, seed=0)
    >>> sorted([*order(0), *order(1)[:2]])
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        sampling: Sampling = "epochs",
        sizes: np.ndarray | None = None,
    ) -> None:
        if sampling not in get_args(Sampling):
            raise DataError(f"sampling is {sampling!r}: it must be 'epochs' or 'replacement'")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.sampling = sampling
        # For batches of one size: the number of each sample's size, (count,), how many batches a
        # pass has, and the last pass that was asked for.
        self._kinds = None if sizes is None else np.unique(sizes, axis=0, return_inverse=True)[1]
        self._batches = 0
        self._pass: tuple[int, list[list[int]]] = (-1, [])
        if self._kinds is not None:
            self._kinds = self._kinds.reshape(-1)
            self._batches = int(np.sum(-(-np.bincount(self._kinds) // batch_size)))

    def __call__(self, number: int) -> list[int]:
        """Return the samples of one batch."""
        if self._kinds is None:
            first = number * self.batch_size
            return [self._sample(place) for place in range(first, first + self.batch_size)]
        if self.sampling == "replacement":
            rng = np.random.default_rng([self.seed, DRAW, number])
            one = int(rng.integers(self.count))
            return [one, *rng.choice(self.alike(one), self.batch_size - 1).tolist()]
        epoch, place = divmod(number, self._batches)
        known, batches = self._pass
        if known != epoch:
            batches = self._buckets(epoch, self._kinds)
            self._pass = epoch, batches
        return batches[place]

    def alike(self, index: int) -> np.ndarray:
        """Return the samples that can take the place of one: those of its size, if that matters."""
        if self._kinds is None:
            return np.arange(self.count)
        return np.flatnonzero(self._kinds == self._kinds[index])

    def _sample(self, place: int) -> int:
        """Return the sample at a place of the endless sequence that batches are cut from."""
        if self.sampling == "replacement":
            return int(np.random.default_rng([self.seed, DRAW, place]).integers(self.count))
        return int(shuffled(self.seed, place // self.count, self.count)[place % self.count])

    def _buckets(self, epoch: int, kinds: np.ndarray) -> list[list[int]]:
        """Return the batches of one pass, each of samples of one size."""
        order = shuffled(self.seed, epoch, self.count)
        batches = []
        for kind in range(int(kinds.max()) + 1):
            alike = order[kinds[order] == kind].tolist()
            batches += [
                alike[i : i + self.batch_size] for i in range(0, len(alike), self.batch_size)
            ]
        turns = np.random.default_rng([self.seed, BATCHES, epoch]).permutation(len(batches))
        return [batches[turn] for turn in turns.tolist()]


@functools.lru_cache(maxsize=4)
def shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the sample numbers of one pass over a data set in a random order, read-only."""
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(count)
    order.setflags(write=False)
    return order


def sizes_of(dataset: Dataset, skips: bool = False) -> np.ndarray:
    """Return the height and width of each image of a data set, integer (N, 2).

    Every sample is read, unless the data set has a method ``image_size(index)``, as `Files` has.
    With ``skips`` those that cannot be read count as of the first one's size.

    >>> from minifcn.data import shapes
    >>> sizes_of(shapes("val", length=2, size=32)).tolist()
    [[32, 32], [32, 32]]
    """
    of = getattr(dataset, "image_size", None) or (lambda index: dataset[index].image.shape[:2])
    sizes, bad = [], dict[int, Exception]()
    for index in range(len(dataset)):
        try:
            sizes.append(of(index))
        except UNREADABLE as error:
            bad[index] = error
    if bad and (not skips or not sizes):
        raise next(iter(bad.values()))
    for index in bad:  # in rising order, so each gets the place that is its own
        sizes.insert(index, sizes[0])
    return np.array(sizes)
