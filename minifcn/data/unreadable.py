"""What becomes of samples that cannot be read while a net learns: the run stops, or goes on.

Files are damaged and deleted while a run of days goes on. Going on with another sample is right for
a few of them; if there are many, something else is wrong, a disk or a path, and the net would learn
from what happens to be left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from minifcn.data.dataset import DataError, Dataset, Sample

OnError = Literal["stop", "skip"]

INSTEAD = 4  # the part of a random generator's seed that is for samples instead of others: order.py
TRIES = 20  # others that are tried in turn
MOST = 0.1  # of all samples may be bad
UNREADABLE = (DataError, OSError)
WAY_PAST = 'to take another image in its place: --on-bad-image skip (in Python on_bad_image="skip")'


class Unread(NamedTuple):
    """A sample that cannot be read: its number in the data set, and what is wrong with it."""

    number: int
    why: str


def read_instead(
    dataset: Dataset, first: Unread, others: np.ndarray, rng: np.random.Generator
) -> tuple[Sample, tuple[Unread, ...]]:
    """Return a sample drawn from others, and what was wrong with each that was tried before it.

    Parameters
    ----------
    dataset
        Whose samples they are.
    first
        The one that was meant.
    others
        Integer (N,), the samples that may take its place.
    rng
        Decides which: the same generator finds the same sample, as long as the files are the same.

    Raises
    ------
    DataError
        If many in turn cannot be read.

    Examples
    --------
    >>> from minifcn.data import shapes
    >>> rng = np.random.default_rng([0, INSTEAD, 7])
    >>> first = Unread(7, "a.png: damaged")
    >>> sample, bad = read_instead(shapes("train"), first, np.array([3]), rng)
    >>> sample.name, bad
    ('train-0003', (Unread(number=7, why='a.png: damaged'),))
    """
    bad = [first]
    for _ in range(TRIES):
        index = int(rng.choice(others))
        try:
            return dataset[index], tuple(bad)
        except UNREADABLE as error:
            bad.append(Unread(index, str(error)))
    raise DataError(
        f"{len(bad)} samples of {dataset.name} in turn cannot be read: "
        f"{listed(each.why for each in bad)}"
    )


class Bad:
    """The samples that were found to be unreadable so far: a few are passed over, many are not.

    >>> from minifcn.data import shapes
    >>> bad = Bad(shapes("train", length=20))
    >>> bad.add([Unread(5, "f.png: damaged"), Unread(2, "c.png: damaged")])
    >>> bad.add([Unread(5, "f.png: damaged")])
    >>> try:
    ...     bad.add([Unread(0, "a.png: damaged")])
    ... except DataError as error:
    ...     print(str(error)[:73])
    3 of the 20 samples of shapes train cannot be read: f.png: damaged; c.png
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.most = max(1, int(MOST * len(dataset)))
        self.found: dict[int, str] = {}  # what is wrong with each, in the order of finding

    def add(self, unread: Iterable[Unread]) -> None:
        """Count samples, each once.

        Raises
        ------
        DataError
            If there are too many by now.
        """
        self.found |= dict(unread)
        if len(self.found) > self.most:
            raise DataError(
                f"{len(self.found)} of the {len(self.dataset)} samples of {self.dataset.name} "
                f"cannot be read: {listed(self.found.values())}. That is more than "
                f"{100 * MOST:.0f} %, so they are not passed over: mend or remove them"
            )

    def look_again(self, indices: Iterable[int]) -> None:
        """Count those samples that an earlier process could not read, and that still cannot be.

        Raises
        ------
        DataError
            If these are too many.
        """
        self.found = {}
        for index in indices:
            try:
                self.dataset[index]
            except UNREADABLE as error:
                self.found[index] = str(error)
        self.add(())


def listed(errors: Iterable[str], most: int = 10) -> str:
    """Return some messages, and how many there are besides, as one.

    >>> listed(["a", "b", "b", "c"], most=2)
    'a; b; and 1 more'
    """
    each = list(dict.fromkeys(errors))
    more = [f"and {len(each) - most} more"] if len(each) > most else []
    return "; ".join([*each[:most], *more])
