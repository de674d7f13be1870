"""Pooling on a GPU: what pooling.cu does, called as in `minifcn.kernels.pooling`."""

from __future__ import annotations

from ...backend import Array, xp_of
from ...shapes import Pair
from ..elementwise import empty
from ..pooling import output_size
from .launch import at_once, blocks_for, check_shapes, run


def max_pool2d(
    x: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil: bool,
    relu: bool = False,
) -> Array:
    """Return the largest value of each window, (N, H, W, C) to (N, Ho, Wo, C); as in the twin."""
    size = output_size(x, kernel, stride, padding, dilation, ceil)
    y = empty((len(x), *size, x.shape[3]), x)
    how = x.shape[1:3], size, kernel, stride, padding, dilation
    _launch("max_pool2d", [x], y, y, *how, int(relu))
    return y


def max_scatter(
    g: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return an array like x with each g (N, Ho, Wo, C) at its window's first maximum, added up."""
    sizes = (H, W), (height, width) = x.shape[1:3], y.shape[1:3]
    needed = len(x), height, width, x.shape[3]
    check_shapes("pooling.max_scatter", g=(g, needed), y=(y, needed))
    how = *sizes, kernel, stride, padding, dilation
    if any(d * (k - 1) >= s for k, s, d in zip(kernel, stride, dilation, strict=True)):
        result = empty(x.shape, g)
        _launch("max_scatter", [g, x, y], result, result, *how)
        return result
    ends = height * stride[0] - padding[0], width * stride[1] - padding[1]
    whole = stride == kernel and dilation == (1, 1) and ends[0] >= H and ends[1] >= W
    result = empty(x.shape, g) if whole else xp_of(x).zeros(x.shape, g.dtype)
    _launch("max_scatter_apart", [g, x], result, y, *how)
    return result


def max_gather(
    v: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return, for each window, the entry of v (like x) at the place of x's first maximum."""
    result = empty(y.shape, v)
    sizes = x.shape[1:3], y.shape[1:3]
    needed = len(x), *sizes[1], x.shape[3]
    check_shapes("pooling.max_gather", v=(v, x.shape), y=(y, needed))
    _launch("max_gather", [v, x, y], result, result, *sizes, kernel, stride, padding, dilation)
    return result


def sum_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, ceil: bool) -> Array:
    """Return the sum of each window, (N, H, W, C) to (N, Ho, Wo, C); zeros outside the image."""
    size = output_size(x, kernel, stride, padding, (1, 1), ceil)
    y = empty((len(x), *size, x.shape[3]), x)
    _launch("sum_pool2d", [x], y, y, x.shape[1:3], size, kernel, stride, padding, (1, 1))
    return y


def sum_spread(
    g: Array, height: int, width: int, kernel: Pair, stride: Pair, padding: Pair
) -> Array:
    """Return (N, height, width, C) with each g (N, Ho, Wo, C) added to all pixels of its window."""
    result = empty((len(g), height, width, g.shape[3]), g)
    sizes = (height, width), g.shape[1:3]
    _launch("sum_spread", [g], result, result, *sizes, kernel, stride, padding, (1, 1))
    return result


def _launch(
    kernel: str,
    given: list[Array],
    result: Array,
    dealt: Array,
    image: Pair,
    windows: Pair,
    window: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    *more: int,
) -> None:
    """Start a kernel that makes the result from some arrays like the image or the windows.

    It has a thread for each number of ``dealt``, or for four of them.
    """
    arrays = [*(xp_of(array).ascontiguousarray(array) for array in given), result]
    together = at_once(result.shape[3], *arrays)
    groups, count = result.shape[3] // together, dealt.size // together
    geometry = (*image, groups, *windows, *window, *stride, *padding, *dilation, *more)
    run(f"pooling.{kernel}", blocks_for(count), *arrays, *geometry, count, WIDE=together)
