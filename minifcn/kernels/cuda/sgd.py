"""Gradient descent for all weights at once: what sgd.cu does.

A table tells the kernels where the arrays are. It is sent to the GPU when one of them has moved:
after the first step as a rule never, as CuPy gives out the same memory in each step. The rates are
sent when they change. Nobody waits for either.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...backend import Array, is_numpy, xp_of
from . import on
from .elementwise import in_order
from .launch import MOST_NUMBERS, address, blocks_for, run

PIECE = 4096  # numbers of a block, as in sgd.cu


class Weights(NamedTuple):
    """An array of weights, its gradient and its momentum, if any; and which settings are for it."""

    w: Array
    gradient: Array
    h: Array | None = None
    settings: int = 0


def fits(w: Array, h: Array | None = None) -> bool:
    """Tell whether the kernels take an array: float32, without gaps, and h in the same order."""
    sizes = on(w) and 0 < w.size <= MOST_NUMBERS
    return sizes and _dense(w.shape, w.strides) and (h is None or _alike(h, w))


def _alike(a: Array, b: Array) -> bool:
    """Tell whether two arrays of one shape have the same order in memory."""
    return a.strides == b.strides or all(
        size == 1 or one == other
        for size, one, other in zip(a.shape, a.strides, b.strides, strict=True)
    )


@functools.cache
def _dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Tell whether numbers of 4 bytes lie side by side, whatever the order of the axes."""
    step = 4
    for size, along in sorted(zip(shape, strides, strict=True), key=lambda axis: axis[1]):
        if size > 1 and along != step:
            return False
        step *= size
    return True


class Sent:
    """Numbers of the CPU, in an array of the GPU that is written anew when they change."""

    def __init__(self) -> None:
        self.there: Array = None
        self.last: Any = None

    def __call__(self, like: Array, numbers: Any, dtype: Any) -> Array:
        """Return a matrix of numbers, on the device of an array."""
        if numbers != self.last or self.there is None:
            here = np.array(numbers, dtype)
            if self.there is None or self.there.shape != here.shape:
                self.there = xp_of(like).empty(here.shape, here.dtype)
            if is_numpy(like):
                self.there[...] = here
            else:  # in the stream's order: what runs on the GPU still reads the numbers before
                self.there.set(here, xp_of(like).cuda.get_current_stream())
            self.last = numbers
        return self.there


class Descent:
    """`minifcn.optim.SGD` on one GPU; it remembers what was sent there."""

    def __init__(self) -> None:
        self.table, self.settings = Sent(), Sent()

    def step(
        self,
        weights: Sequence[Weights],
        settings: list[tuple[float, ...]],
        nesterov: bool,
        caffe: bool,
    ) -> None:
        """Change weights and momenta, in place.

        Parameters
        ----------
        weights
            Arrays that `fits` takes, on the current device.
        settings
            Rows of rate, momentum and decay.
        nesterov, caffe
            As of `minifcn.optim.SGD`.
        """
        # Gradients that lie in another order are copied: their names keep them until the launch.
        weights = [part._replace(gradient=_ordered(part.gradient, part.w)) for part in weights]
        rows, blocks = _rows(weights)
        first = weights[0].w
        table = self.table(first, rows, np.uint64)
        there = self.settings(first, settings, np.float32)
        run("sgd.descend", blocks, table, there, len(rows), int(nesterov), int(caffe))


def clip(gradients: Sequence[Array], most: float) -> Array:
    """Scale gradients so that their common norm is at most ``most``; return the norm before.

    Arrays that `fits` takes, on the current device. The norm is an array of one float64, which is
    not waited for.
    """
    rows, blocks = _rows([Weights(gradient, gradient) for gradient in gradients])
    first = gradients[0]
    table = Sent()(first, rows, np.uint64)
    sums = xp_of(first).empty(2 + blocks, np.float64)
    run("sgd.sum_squares", blocks, table, sums, len(rows))
    run("sgd.norm_and_factor", 1, sums, float(most), blocks)
    run("sgd.scale", blocks, table, sums, len(rows))
    return sums[0]


def _rows(weights: Sequence[Weights]) -> tuple[list[tuple[int, ...]], int]:
    """Return the rows of the table (see sgd.cu), and how many blocks there are in all."""
    rows: list[tuple[int, ...]] = []
    blocks = 0
    for w, gradient, h, settings in weights:
        places = address(w), address(gradient), 0 if h is None else address(h)
        rows.append((blocks, w.size, settings, *places))
        blocks += blocks_for(w.size, PIECE)
    return rows, blocks


def _ordered(gradient: Array, w: Array) -> Array:
    return gradient if _alike(gradient, w) else in_order(gradient, w)
