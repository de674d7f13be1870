"""What becomes of samples that cannot be read while a net learns: the run stops, or goes on.

Files are damaged and deleted while a run of days goes on. Going on with another sample is right for
a few of them; if there are many, something else is wrong, a disk or a path, and the net would learn
from what happens to be left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from minifcn.data.dataset import DataError, Dataset, Sample

OnError = Literal["stop", "skip"]

INSTEAD = 4  # the part of a random generator's seed that is for samples instead of others: order.py
TRIES = 20  # others that are tried in turn
MOST = 0.1  # of all samples may be bad
UNREADABLE = (DataError, OSError)
WAY_PAST = 'to take another image in its place: --on-bad-image skip (in Python on_bad_image="skip")'


def read_instead(
    dataset: Dataset, first: Exception, others: np.ndarray, rng: np.random.Generator
) -> tuple[Sample, tuple[str, ...]]:
    """Return a sample drawn from others, and what was wrong with each that was tried before it.

    Parameters
    ----------
    dataset
        Whose samples they are.
    first
        The error of the one that was meant.
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
    >>> sample, bad = read_instead(shapes("train"), DataError("a.png: damaged"), np.array([3]), rng)
    >>> sample.name, bad
    ('train-0003', ('a.png: damaged',))
    """
    errors = [str(first)]
    for _ in range(TRIES):
        try:
            return dataset[int(rng.choice(others))], tuple(errors)
        except UNREADABLE as error:
            errors.append(str(error))
    raise DataError(
        f"{len(errors)} samples of {dataset.name} in turn cannot be read: {listed(errors)}"
    )


class Bad:
    """The samples that were found to be unreadable so far: a few are passed over, many are not.

    >>> from minifcn.data import shapes
    >>> bad = Bad(shapes("train", length=20))
    >>> bad.add(["a.png: damaged", "b.png: damaged", "a.png: damaged"])
    >>> try:
    ...     bad.add(["c.png: damaged"])
    ... except DataError as error:
    ...     print(str(error)[:73])
    3 of the 20 samples of shapes train cannot be read: a.png: damaged; b.png
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.most = max(1, int(MOST * len(dataset)))
        self.errors: dict[str, None] = {}  # in the order in which they were found

    def add(self, errors: Iterable[str]) -> None:
        """Count samples by what is wrong with them.

        Raises
        ------
        DataError
            If there are too many by now.
        """
        self.errors |= dict.fromkeys(errors)
        if len(self.errors) > self.most:
            raise DataError(
                f"{len(self.errors)} of the {len(self.dataset)} samples of {self.dataset.name} "
                f"cannot be read: {listed(self.errors)}. That is more than {100 * MOST:.0f} %, so "
                "they are not passed over: mend or remove them"
            )


def listed(errors: Iterable[str], most: int = 10) -> str:
    """Return some messages, and how many there are besides, as one.

    >>> listed(["a", "b", "b", "c"], most=2)
    'a; b; and 1 more'
    """
    each = list(dict.fromkeys(errors))
    more = [f"and {len(each) - most} more"] if len(each) > most else []
    return "; ".join([*each[:most], *more])
