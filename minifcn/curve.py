"""A number over the steps of a run, in little memory however long the run is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Points(NamedTuple):
    """A curve to draw: at each place the mean, lowest and highest of the steps it stands for.

    All are float64 (n,), ``steps`` the middle of these steps, ``sums`` the sum of their values.
    """

    steps: np.ndarray
    means: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    sums: np.ndarray


class Curve:
    """Numbers at steps 1, 2, ...; when there are many, several of them share a piece.

    As soon as there are ``2 * most`` pieces, each two neighbours become one. So there are never
    more, and which numbers share a piece does not depend on when the curve was drawn before.

    Parameters
    ----------
    most
        Half the largest number of pieces.

    Examples
    --------
    >>> curve = Curve(most=1)
    >>> for step in range(1, 9):
    ...     curve.add(step, step**2)
    >>> points = curve.points()
    >>> points.steps.tolist(), points.means.tolist(), points.highs.tolist()
    ([2.5, 6.5], [7.5, 43.5], [16.0, 64.0])
    >>> curve.last
    64.0
    """

    def __init__(self, most: int = 300) -> None:
        self.most, self.each, self.last = most, 1, math.nan
        self.pieces: list[list[float]] = []  # first and last step, count, sum, lowest, highest

    def add(self, step: int, value: float | None) -> None:
        """Add the number of a step; what is None or not finite is left out."""
        if value is None or not math.isfinite(value):
            return
        self.last = value = float(value)
        if self.pieces and self.pieces[-1][2] < self.each:
            _join(self.pieces[-1], [step, step, 1, value, value, value])
            return
        if len(self.pieces) == 2 * self.most:
            self._halve()
        self.pieces.append([step, step, 1, value, value, value])

    def _halve(self) -> None:
        for piece, other in zip(self.pieces[::2], self.pieces[1::2], strict=True):
            _join(piece, other)
        del self.pieces[1::2]
        self.each *= 2

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def first(self) -> float:
        """The first number, or the mean of the first few."""
        return self.pieces[0][3] / self.pieces[0][2] if self.pieces else math.nan

    def points(self) -> Points:
        """Return the curve, to be drawn."""
        # (pieces, 6) -> (6, pieces)
        first, last, count, total, low, high = np.array(self.pieces).reshape(-1, 6).T
        return Points((first + last) / 2, total / count, low, high, total)


def _join(piece: list[float], other: list[float]) -> None:
    """Make a piece stand for the steps of another, later one, too."""
    piece[1] = other[1]
    piece[2] += other[2]
    piece[3] += other[3]
    piece[4] = min(piece[4], other[4])
    piece[5] = max(piece[5], other[5])


def curve_of(values: Sequence[float]) -> Curve:
    """Return the curve of numbers at steps 1, 2, ...

    >>> len(curve_of([2.0, 1.0]))
    2
    """
    curve = Curve()
    for step, value in enumerate(values, start=1):
        curve.add(step, value)
    return curve


def running_mean(values: Sequence[float] | np.ndarray, window: int = 20) -> np.ndarray:
    """Return at each place the mean of the last ``window`` values; of fewer at the start.

    >>> running_mean([4.0, 2.0, 6.0], window=2).tolist()
    [4.0, 3.0, 4.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(sums))
    start = np.maximum(0, end - window)
    return (sums[end] - sums[start]) / (end - start)
