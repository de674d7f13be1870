"""Pooling on a GPU: what pooling.cu does, called as in `minifcn.kernels.pooling`."""

from __future__ import annotations

from ...backend import Array, xp_of
from ...shapes import Pair
from ..elementwise import empty
from ..pooling import output_size
from .launch import at_once, blocks_for, run


def max_pool2d(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool
) -> Array:
    """Return the largest value of each window, (N, H, W, C) to (N, Ho, Wo, C)."""
    size = output_size(x, kernel, stride, padding, dilation, ceil)
    y = empty((len(x), *size, x.shape[3]), x)
    _launch("max_pool2d", [x], y, x.shape[1:3], size, kernel, stride, padding, dilation)
    return y


def max_scatter(
    g: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return an array like x with each g (N, Ho, Wo, C) at its window's first maximum, added up."""
    result = empty(x.shape, g)
    sizes = x.shape[1:3], y.shape[1:3]
    _launch("max_scatter", [g, x, y], result, *sizes, kernel, stride, padding, dilation)
    return result


def max_gather(
    v: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return, for each window, the entry of v (like x) at the place of x's first maximum."""
    result = empty(y.shape, v)
    sizes = x.shape[1:3], y.shape[1:3]
    _launch("max_gather", [v, x, y], result, *sizes, kernel, stride, padding, dilation)
    return result


def sum_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, ceil: bool) -> Array:
    """Return the sum of each window, (N, H, W, C) to (N, Ho, Wo, C); zeros outside the image."""
    size = output_size(x, kernel, stride, padding, (1, 1), ceil)
    y = empty((len(x), *size, x.shape[3]), x)
    _launch("sum_pool2d", [x], y, x.shape[1:3], size, kernel, stride, padding, (1, 1))
    return y


def sum_spread(
    g: Array, height: int, width: int, kernel: Pair, stride: Pair, padding: Pair
) -> Array:
    """Return (N, height, width, C) with each g (N, Ho, Wo, C) added to all pixels of its window."""
    result = empty((len(g), height, width, g.shape[3]), g)
    sizes = (height, width), g.shape[1:3]
    _launch("sum_spread", [g], result, *sizes, kernel, stride, padding, (1, 1))
    return result


def _launch(
    kernel: str,
    given: list[Array],
    result: Array,
    image: Pair,
    windows: Pair,
    window: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> None:
    """Start a kernel that makes the result from some arrays like the image or the windows."""
    arrays = [*(xp_of(array).ascontiguousarray(array) for array in given), result]
    together = at_once(result.shape[3], *arrays)
    groups, count = result.shape[3] // together, result.size // together
    geometry = (*image, groups, *windows, *window, *stride, *padding, *dilation)
    run(f"pooling.{kernel}", blocks_for(count), *arrays, *geometry, count, WIDE=together)
