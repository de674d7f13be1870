"""Pooling on channels-last memory: one strided view of the image per place in the window.

A window of k x k pixels slides over the image. Seen from one place (a, b) in the window, the pixels
under it are every s-th pixel from (a, b) on: a strided view. So pooling is k·k whole-array steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..backend import Array, is_numpy, xp_of
from ..shapes import Pair, pool_size
from .threads import parallel_for, workspace


def output_size(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool
) -> Pair:
    """Return the rows and columns of the pooled x (N, H, W, C)."""
    return (
        pool_size(x.shape[1], kernel[0], stride[0], padding[0], dilation[0], ceil),
        pool_size(x.shape[2], kernel[1], stride[1], padding[1], dilation[1], ceil),
    )


def padded(
    x: Array, size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, fill: float
) -> Array:
    """Return x (N, H, W, C) with a border, of one value, as far as the windows reach."""
    N, H, W, C = x.shape
    height = max(H + padding[0], (size[0] - 1) * stride[0] + dilation[0] * (kernel[0] - 1) + 1)
    width = max(W + padding[1], (size[1] - 1) * stride[1] + dilation[1] * (kernel[1] - 1) + 1)
    if padding == (0, 0) and (height, width) == (H, W):
        return x
    wide = xp_of(x).full((N, height, width, C), fill, x.dtype)
    wide[:, padding[0] : padding[0] + H, padding[1] : padding[1] + W] = x
    return wide


def window(x: Array, size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Iterator[Array]:
    """Yield, for each place in the window in reading order, the view of x (N, H, W, C) under it."""
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            top, left = a * dilation[0], b * dilation[1]
            yield x[
                :,
                top : top + (size[0] - 1) * stride[0] + 1 : stride[0],
                left : left + (size[1] - 1) * stride[1] + 1 : stride[1],
            ]


def max_pool2d(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool
) -> Array:
    """Return the largest value of each window, (N, H, W, C) to (N, Ho, Wo, C)."""
    xp = xp_of(x)
    size = output_size(x, kernel, stride, padding, dilation, ceil)
    x = padded(x, size, kernel, stride, padding, dilation, -xp.inf)
    y = xp.empty((len(x), *size, x.shape[3]), x.dtype)

    parts = images_together(y)

    def pool(i: int) -> None:
        views = window(x[parts[i]], size, kernel, stride, dilation)
        y[parts[i]] = next(views)
        for view in views:
            xp.maximum(y[parts[i]], view, out=y[parts[i]])

    parallel_for(len(parts), pool, x)
    return y


def images_together(y: Array) -> list[slice]:
    """Cut a batch into parts that are worth a thread's while: 64K numbers, or one image."""
    per_image = y[0].size if len(y) else 1
    each = max(1, min(-(-len(y) // 2), (1 << 16) // max(1, per_image)))
    return [slice(i, i + each) for i in range(0, len(y), each)]


def max_scatter(
    g: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return an array like x with each g (N, Ho, Wo, C) at its window's first maximum, added up."""
    xp = xp_of(x)
    _, H, W, _ = x.shape
    size = y.shape[1], y.shape[2]
    x = padded(x, size, kernel, stride, padding, dilation, -xp.inf)
    result = xp.zeros(x.shape, g.dtype)
    apart = kernel[0] <= stride[0] and kernel[1] <= stride[1] and dilation == (1, 1)
    signs = apart and is_numpy(x) and x.dtype == g.dtype == np.float32

    parts = images_together(y)

    def scatter(i: int) -> None:
        part = parts[i]
        views = window(x[part], size, kernel, stride, dilation)
        places = window(result[part], size, kernel, stride, dilation)
        if signs and np.isfinite(y[part].sum()):
            scatter_by_sign(g[part], y[part], views, places)
            return
        left = g[part].copy()  # what has not found its maximum yet
        for view, place in zip(views, places, strict=True):
            here = is_maximum(view, y[part])
            place += xp.where(here, left, 0)
            left = xp.where(here, 0, left)

    parallel_for(len(parts), scatter, x)
    return result[:, padding[0] : padding[0] + H, padding[1] : padding[1] + W]


def scatter_by_sign(
    g: np.ndarray, y: np.ndarray, views: Iterator[np.ndarray], places: Iterator[np.ndarray]
) -> None:
    """Put each g at its window's first maximum, for windows that do not overlap.

    x - y is negative, so its first bit is one, unless x is the maximum. Spread over all 32 bits by
    a shift, that bit keeps or clears g by a logical "and": several times as fast as a comparison, a
    conversion to numbers and a product. Infinite y would give NaN, of any sign.
    """
    left = workspace("left", g.shape, g).view(np.int32)
    later = workspace("later", g.shape, g).view(np.int32)
    np.copyto(left, g.view(np.int32))
    for view, place in zip(views, places, strict=True):
        np.subtract(view, y, out=later.view(np.float32))
        np.right_shift(later, 31, out=later)
        np.bitwise_and(left, later, out=later)  # g where the maximum is yet to come
        np.bitwise_xor(left, later, out=place.view(np.int32))  # g where it is here
        left, later = later, left


def max_gather(
    v: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return, for each window, the entry of v (like x) at the place of x's first maximum."""
    xp = xp_of(x)
    size = y.shape[1], y.shape[2]
    x = padded(x, size, kernel, stride, padding, dilation, -xp.inf)
    v = padded(v, size, kernel, stride, padding, dilation, 0)
    result = xp.zeros(y.shape, v.dtype)
    found = xp.zeros(y.shape, bool)
    for view, values in zip(
        window(x, size, kernel, stride, dilation),
        window(v, size, kernel, stride, dilation),
        strict=True,
    ):
        here = is_maximum(view, y) & ~found
        xp.copyto(result, values, where=here)
        found |= here
    return result


def is_maximum(x: Array, y: Array) -> Array:
    """Tell where x is the maximum y; a NaN in the window is its maximum."""
    return (x == y) | (x != x)


def sum_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, ceil: bool) -> Array:
    """Return the sum of each window, (N, H, W, C) to (N, Ho, Wo, C); zeros outside the image."""
    size = output_size(x, kernel, stride, padding, (1, 1), ceil)
    x = padded(x, size, kernel, stride, padding, (1, 1), 0)
    views = window(x, size, kernel, stride, (1, 1))
    y = next(views).copy()
    for view in views:
        y += view
    return y


def sum_spread(
    g: Array, height: int, width: int, kernel: Pair, stride: Pair, padding: Pair
) -> Array:
    """Return (N, height, width, C) with each g (N, Ho, Wo, C) added to all pixels of its window."""
    size = g.shape[1], g.shape[2]
    shape = (len(g), height, width, g.shape[3])
    result = xp_of(g).zeros(shape, g.dtype)
    wide = padded(result, size, kernel, stride, padding, (1, 1), 0)
    for place in window(wide, size, kernel, stride, (1, 1)):
        place += g
    return wide[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
