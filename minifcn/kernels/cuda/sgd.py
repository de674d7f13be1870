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

from ...backend import Array, Operation, device_of, gpu_of, is_numpy, to_device, xp_of
from . import on
from .elementwise import in_order
from .launch import MOST_NUMBERS, KernelError, address, blocks_for, run

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


def weights(w: Array, gradient: Array, h: Array | None, settings: int) -> Weights:
    """Return arrays that `fits` takes, and that belong together.

    Raises
    ------
    KernelError
        If the gradient or momentum is not like its weights: a kernel would read what is not there.
    """
    kind = w.shape, w.dtype, device_of(w)
    for name, array in (("gradient", gradient), ("momentum", h)):
        if array is not None and (array.shape, array.dtype, device_of(array)) != kind:
            raise KernelError(
                f"SGD.step: the {name}, {_told(array)}, must be like its weights, {_told(w)}"
            )
    return Weights(w, gradient, h, settings)


def _told(array: Array) -> str:
    return f"{array.shape} {array.dtype} on {device_of(array)}"


class Descents:
    """`minifcn.optim.SGD` on GPUs; it remembers what was sent to each."""

    def __init__(self) -> None:
        self._sent: dict[int, tuple[Sent, Sent]] = {}  # by the GPU's number

    def step(
        self,
        every: Sequence[Weights],
        settings: list[tuple[float, ...]],
        nesterov: bool,
        caffe: bool,
        only_if: Array | None = None,
    ) -> None:
        """Change weights and momenta, in place; unless ``only_if``, one int32, is 0.

        ``settings`` are rows of rate, momentum and decay; the rest as of `minifcn.optim.SGD`.
        """
        if only_if is not None and (only_if.size, only_if.dtype) != (1, np.int32):
            told = f"{only_if.shape} {only_if.dtype}"
            raise KernelError(f"sgd.descend: only_if, {told}, must be one number of int32")
        for gpu in dict.fromkeys(gpu_of(part.w) for part in every):
            parts = [part for part in every if gpu_of(part.w) == gpu]
            first = parts[0].w
            with Operation("SGD.step", {"w": first}):
                # Gradients in another memory order are copied, and kept until the launch.
                parts = [w._replace(gradient=_ordered(w.gradient, w.w)) for w in parts]
                rows, blocks = _rows(parts)
                table, rates = self._sent.setdefault(gpu, (Sent(), Sent()))
                there = table(first, rows, np.uint64), rates(first, settings, np.float32)
                flag = None if only_if is None else to_device(only_if, device_of(first))
                wanted = 0 if flag is None else address(flag)
                run("sgd.descend", blocks, *there, wanted, len(rows), int(nesterov), int(caffe))


def all_fit(gradients: Sequence[Array]) -> bool:
    """Tell whether `clip` takes these gradients: each `fits`, and all are on one GPU."""
    return all(map(fits, gradients)) and len({gpu_of(g) for g in gradients}) == 1


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
