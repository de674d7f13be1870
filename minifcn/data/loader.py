"""Batches for training (shuffled, augmented, endless) and for evaluation (in order, untouched)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import get_args

import numpy as np

from minifcn.data.ahead import by_threads
from minifcn.data.collate import Batch, collate
from minifcn.data.dataset import DataError, Dataset, Sample
from minifcn.data.order import Order, Sampling, Sizes, sizes_of
from minifcn.data.preprocessing import UNIT, Preprocessing
from minifcn.data.transforms import augment
from minifcn.data.unreadable import (
    INSTEAD,
    UNREADABLE,
    WAY_PAST,
    Bad,
    OnError,
    Unread,
    read_instead,
)
from minifcn.data.workers import by_processes

__all__ = ["Batch", "Loader"]

CHANGES = 1  # the part of a random generator's seed that is for changes of images; see order.py


class Loader:
    """Turns the samples of a data set into batches.

    Which samples make training batch number s, and how each is changed, follows from ``seed`` and s
    alone: neither from the number of workers nor from where a run began, so a run that stops after
    step s goes on exactly with ``steps(s)``.

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
    crop, flip, flip_vertical, rotate, jitter, scale
        The random changes of training samples: see :func:`minifcn.data.augment`.
    workers
        Processes that make batches ahead of their use. With 0 a thread does; that is enough where
        a batch is made in less time than a step takes. Processes need a data set that can be
        pickled, and scripts with ``if __name__ == "__main__":``.
    prefetch
        Batches in the making or ready, for the thread or for each process; with 0 and no workers
        each batch is made when it is asked for.
    sizes
        How images of different sizes make a batch. ``"same"``: not at all, that is an error.
        ``"pad"``: continued below and to the right to the largest, with the mean colour and the
        label 255. ``"bucket"``: each batch has images of one size; the last of each size in a pass
        may be smaller. The sizes of all images are then looked up here.
    sampling
        ``"epochs"``: pass after pass over the data set, each in another order. ``"replacement"``:
        each image drawn from all.
    on_error
        What becomes of training samples that cannot be read. ``"stop"``: the error is raised.
        ``"skip"``: another sample takes the place, drawn by seed and place alone (of the same size
        with ``sizes="bucket"``), and the batch's ``skipped`` tells what was wrong. More than 10 %
        of all samples, and more than one, are an error nevertheless.
    shard
        ``(rank, ranks)``: for training in several processes, of each batch only the images rank,
        rank + ranks, ...

    Raises
    ------
    DataError
        If the data set is empty, a number or a word is out of range, or the images of one batch
        differ in size.

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
        scale: tuple[float, float] | None = None,
        workers: int = 0,
        prefetch: int = 2,
        sizes: Sizes = "same",
        sampling: Sampling = "epochs",
        on_error: OnError = "stop",
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        if len(dataset) == 0:
            raise DataError(f"data set {dataset.name} is empty: nothing to load")
        _at_least("batch_size", batch_size, 1)
        _at_least("seed", seed, 0)
        _at_least("workers", workers, 0)
        _at_least("prefetch with workers" if workers else "prefetch", prefetch, min(workers, 1))
        for name, given, words in (("sizes", sizes, Sizes), ("on_error", on_error, OnError)):
            if given not in get_args(words):
                one_of = ", ".join(get_args(words))
                raise DataError(f"{name} is {given!r}: it must be one of {one_of}")
        _check_shard(shard, batch_size, sizes)
        self.dataset = dataset
        self.batch_size = batch_size
        self.preprocessing = preprocessing
        self.seed = seed
        self.workers, self.prefetch = workers, prefetch
        self.pad = sizes == "pad"
        self.skips, self.bad = on_error == "skip", Bad(dataset)
        self.shard = shard
        self.changes = {
            "crop": crop,
            "flip": flip,
            "flip_vertical": flip_vertical,
            "rotate": rotate,
            "jitter": jitter,
            "scale": scale,
        }
        self.sizes = sizes_of(dataset, self.skips) if sizes == "bucket" else None
        self.order = Order(len(dataset), batch_size, seed, sampling, self.sizes)
        self.parts = _parts(len(dataset), batch_size, self.sizes, shard)

    def steps(self, start: int = 0) -> Generator[Batch, None, None]:
        """Yield training batches without end, from batch number ``start`` on.

        Closing the iterator ends the workers; so does throwing it away.
        """
        _at_least("start", start, 0)
        with closing(self._ahead(self.batch, itertools.count(start), self.workers)) as batches:
            for batch in batches:
                self.bad.add(batch.skipped)
                yield batch

    def batch(self, number: int) -> Batch:
        """Return one training batch."""
        rank, ranks = self.shard
        places = enumerate(self.order(number), start=number * self.batch_size)
        samples, skipped = [], list[Unread]()
        for place, index in list(places)[rank::ranks]:
            rng = np.random.default_rng([self.seed, CHANGES, place])
            sample, bad = self.sample(index, place)
            samples.append(augment(sample, rng, **self.changes))  # type: ignore[arg-type]
            skipped += bad
        return self.collate(samples)._replace(skipped=tuple(skipped))

    def sample(self, index: int, place: int) -> tuple[Sample, tuple[Unread, ...]]:
        """Return a sample, or the one for a place in its stead; and what could not be read."""
        try:
            return self.dataset[index], ()
        except UNREADABLE as error:
            if not self.skips:
                error.add_note(WAY_PAST)
                raise
            rng = np.random.default_rng([self.seed, INSTEAD, place])
            first = Unread(index, str(error))
            return read_instead(self.dataset, first, self.order.alike(index), rng)

    def in_order(self) -> Generator[Batch, None, None]:
        """Yield every sample once, first to last, unchanged; the last batch may be smaller."""
        numbers = range(len(self.parts))
        yield from self._ahead(self.part, numbers, min(self.workers, len(numbers)))

    def part(self, number: int) -> Batch:
        """Return one batch of `in_order`."""
        return self.collate([self.dataset[index] for index in self.parts[number]])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack samples to a batch."""
        return collate(samples, self.preprocessing, self.pad)

    def _ahead(
        self, make: Callable[[int], Batch], numbers: Iterable[int], workers: int
    ) -> Generator[Batch, None, None]:
        """Return an iterator over batches, by their numbers, made as chosen."""
        if workers:
            return by_processes(make, numbers, workers, self.prefetch)
        return by_threads(make, numbers, self.prefetch)


def _parts(
    count: int, batch_size: int, sizes: np.ndarray | None, shard: tuple[int, int]
) -> list[range]:
    """Return the samples of each batch in order: those of one shard, of one size if it matters."""
    # Where a run of images of one size begins, and the end.
    edges = [0, count]
    if sizes is not None:
        edges[1:1] = (np.flatnonzero((sizes[1:] != sizes[:-1]).any(axis=1)) + 1).tolist()
    rank, ranks = shard
    parts = [
        range(first, min(first + batch_size, end))[rank::ranks]
        for begin, end in itertools.pairwise(edges)
        for first in range(begin, end, batch_size)
    ]
    return [part for part in parts if part]


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        more = f"{least} or more" if least == 0 else f"at least {least}"
        raise DataError(f"{name} is {value}: it must be {more}")


def _check_shard(shard: tuple[int, int], batch_size: int, sizes: Sizes) -> None:
    rank, ranks = shard
    if not 0 <= rank < ranks:
        raise DataError(f"shard is {rank} of {ranks}: the rank must be 0 to {ranks - 1}")
    if batch_size % ranks:
        raise DataError(
            f"batch_size is {batch_size}: {ranks} processes that share each batch must get "
            "equally many images"
        )
    if ranks > 1 and sizes == "bucket":
        raise DataError(
            "sizes='bucket' makes batches of different lengths, which processes cannot share "
            "equally: choose sizes='pad' or crop="
        )
