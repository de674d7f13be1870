"""Pooling on channels-last memory: one strided view of the image per place in the window.

A window of k x k pixels slides over the image. Seen from one place (a, b) in the window, the pixels
under it are every s-th pixel from (a, b) on: a strided view. So pooling is k·k steps, each for many
windows at once. Windows that hang over the edge have fewer places, and are done by themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

from ..backend import Array, is_numpy, xp_of
from ..shapes import Pair, pool_size
from . import cuda
from .elementwise import empty, share_out
from .threads import workspace
from .tiles import Tile, cut

TILE = 1 << 16  # numbers of the output that are worked on at a time: they stay in the cache
Index: TypeAlias = tuple[slice, slice, slice]  # of images, rows and columns


def output_size(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool
) -> Pair:
    """Return the rows and columns of the pooled x (N, H, W, C)."""
    return (
        pool_size(x.shape[1], kernel[0], stride[0], padding[0], dilation[0], ceil),
        pool_size(x.shape[2], kernel[1], stride[1], padding[1], dilation[1], ceil),
    )


@functools.lru_cache(maxsize=256)  # tiles of images; a net sees the same sizes again and again
def regions(
    size: Pair, rows: range, columns: int, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> list[tuple[Index, list[Index]]]:
    """Cut some rows of windows into regions, in each of which all windows have the same places.

    Parameters
    ----------
    size
        Rows and columns of the image.
    rows, columns
        Which rows of windows, and how many columns.
    kernel, stride, padding, dilation
        As for the pooling.

    Returns
    -------
    For each region the windows, counted from the first of the rows, and for each of their places,
    in reading order, the pixels of the image that lie there.

    Examples
    --------
    >>> how = (2, 2), (2, 2), (0, 0), (1, 1)
    >>> for windows, pixels in regions((4, 5), range(2), 3, *how):  # 4 x 5 pixels
    ...     print("columns", windows[2].start, "to", windows[2].stop, "of", len(pixels), "places")
    columns 0 to 2 of 4 places
    columns 2 to 3 of 2 places
    """
    lower, right = (
        list(_runs(size[axis], wanted, kernel[axis], stride[axis], padding[axis], dilation[axis]))
        for axis, wanted in enumerate((rows, range(columns)))
    )
    every = slice(None)
    return [
        (
            (every, some_rows, some_columns),
            [(every, down, across) for down in vertical for across in horizontal],
        )
        for some_rows, vertical in lower
        for some_columns, horizontal in right
    ]


def _runs(
    length: int, windows: range, kernel: int, stride: int, padding: int, dilation: int
) -> Iterator[tuple[slice, list[slice]]]:
    """Yield the same along one axis: window p has pixels p · stride + a · dilation - padding."""
    last = length - 1 - dilation * (kernel - 1) + padding  # where the last whole window starts
    first_whole = max(windows.start, min(windows.stop, -(-padding // stride)))
    after_whole = max(first_whole, min(windows.stop, last // stride + 1))
    starts = [*range(windows.start, first_whole), first_whole, *range(after_whole, windows.stop)]
    for start, stop in zip(starts, [*starts[1:], windows.stop], strict=True):
        if start == stop:
            continue
        pixels = []
        for a in range(kernel):
            begin, end = (p * stride + a * dilation - padding for p in (start, stop - 1))
            if begin >= 0 and end < length:
                pixels.append(slice(begin, end + 1, stride))
        yield slice(start - windows.start, stop - windows.start), pixels


def max_pool2d(
    x: Array,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil: bool,
    relu: bool = False,
) -> Array:
    """Return the largest value of each window, (N, H, W, C) to (N, Ho, Wo, C).

    With ``relu``, what is below zero in it becomes zero.
    """
    if cuda.on(x):
        return cuda.pooling.max_pool2d(x, kernel, stride, padding, dilation, ceil, relu)
    xp, (N, H, W, C) = xp_of(x), x.shape
    height, width = output_size(x, kernel, stride, padding, dilation, ceil)
    y = empty((N, height, width, C), x)
    tiles = cut(N, height, _rows(y))

    def pool(i: int) -> None:
        images, rows = tiles[i]
        part, result = x[images], y[images, rows]
        some = range(rows.start, rows.stop)
        for windows, pixels in regions((H, W), some, width, kernel, stride, padding, dilation):
            views, largest = [part[place] for place in pixels], result[windows]
            if not views:
                largest[...] = -xp.inf
                continue
            xp.maximum(views[0], views[1 % len(views)], out=largest)  # one or two places
            for view in views[2:]:
                xp.maximum(largest, view, out=largest)
        if relu:
            xp.maximum(result, 0, out=result)

    share_out(len(tiles), pool, x, x.size + y.size)
    return y


def max_scatter(
    g: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return an array like x with each g (N, Ho, Wo, C) at its window's first maximum, added up.

    Place after place, what has not found its maximum yet is multiplied with 1 where x is smaller
    than the maximum, and with 0 elsewhere: as whole numbers, which keeps all bits of g or none. An
    exclusive "or" of the two is what found its maximum here. What comes to the last place stays.
    """
    if cuda.on(x):
        return cuda.pooling.max_scatter(g, x, y, kernel, stride, padding, dilation)
    xp, (N, H, W, _), (height, width) = xp_of(x), x.shape, y.shape[1:3]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    apart = reach[0] <= stride[0] and reach[1] <= stride[1]
    ends = height * stride[0] - padding[0], width * stride[1] - padding[1]
    result = empty(x.shape, g)
    if not (stride == kernel and dilation == (1, 1) and ends[0] >= H and ends[1] >= W):
        result[...] = 0  # some pixels are in no window, or in several
    # Windows that overlap add to the same pixels: only one thread may work on an image then.
    images_whole = [Tile(slice(n, n + 1), slice(0, height)) for n in range(N)]
    tiles = cut(N, height, _rows(y)) if apart else images_whole
    bits = f"i{g.dtype.itemsize}"

    def scatter(i: int) -> None:
        images, rows = tiles[i]
        part, target, maxima, given = x[images], result[images], y[images, rows], g[images, rows]
        nan = not is_numpy(x) or bool(np.isnan(maxima).any())
        some = range(rows.start, rows.stop)
        for windows, pixels in regions((H, W), some, width, kernel, stride, padding, dilation):
            largest, left = maxima[windows], given[windows].view(bits)
            for k, place in enumerate(pixels):
                here = target[place] if apart else workspace("here", left.shape, g)
                if k < len(pixels) - 1:
                    smaller = _smaller(part[place], largest, nan)
                    later = workspace(f"later {k % 2}", left.shape, g).view(bits)
                    xp.multiply(left, smaller, out=later)
                    xp.bitwise_xor(left, later, out=here.view(bits))
                    left = later
                else:
                    here.view(bits)[...] = left
                if not apart:
                    target[place] += here

    share_out(len(tiles), scatter, x, 3 * (x.size + y.size))
    return result


def _smaller(x: Array, largest: Array, nan: bool) -> Array:
    """Tell where x is not the maximum; ``nan`` tells that there may be some."""
    if nan:
        return ~is_maximum(x, largest)
    return np.less(x, largest, out=workspace("smaller", x.shape, _TRUTH))


def max_gather(
    v: Array, x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return, for each window, the entry of v (like x) at the place of x's first maximum."""
    if cuda.on(x):
        return cuda.pooling.max_gather(v, x, y, kernel, stride, padding, dilation)
    xp, (_, rows, columns, _) = xp_of(x), y.shape
    result = xp.zeros(y.shape, v.dtype)
    how = (range(rows), columns, kernel, stride, padding, dilation)
    for windows, pixels in regions(x.shape[1:3], *how):
        found = xp.zeros(y[windows].shape, bool)
        for place in pixels:
            here = is_maximum(x[place], y[windows]) & ~found
            xp.copyto(result[windows], v[place], where=here)
            found |= here
    return result


def is_maximum(x: Array, y: Array) -> Array:
    """Tell where x is the maximum y; a NaN in the window is its maximum."""
    return (x == y) | (x != x)


def sum_pool2d(x: Array, kernel: Pair, stride: Pair, padding: Pair, ceil: bool) -> Array:
    """Return the sum of each window, (N, H, W, C) to (N, Ho, Wo, C); zeros outside the image."""
    if cuda.on(x):
        return cuda.pooling.sum_pool2d(x, kernel, stride, padding, ceil)
    height, width = output_size(x, kernel, stride, padding, (1, 1), ceil)
    y = xp_of(x).zeros((len(x), height, width, x.shape[3]), x.dtype)
    how = (range(height), width, kernel, stride, padding, (1, 1))
    for windows, pixels in regions(x.shape[1:3], *how):
        for place in pixels:
            y[windows] += x[place]
    return y


def sum_spread(
    g: Array, height: int, width: int, kernel: Pair, stride: Pair, padding: Pair
) -> Array:
    """Return (N, height, width, C) with each g (N, Ho, Wo, C) added to all pixels of its window."""
    if cuda.on(g):
        return cuda.pooling.sum_spread(g, height, width, kernel, stride, padding)
    N, rows, columns, C = g.shape
    result = xp_of(g).zeros((N, height, width, C), g.dtype)
    how = (range(rows), columns, kernel, stride, padding, (1, 1))
    for windows, pixels in regions((height, width), *how):
        for place in pixels:
            result[place] += g[windows]
    return result


def _rows(y: Array) -> int:
    """Return how many rows of y (N, Ho, Wo, C) to work on at a time."""
    return max(1, TILE // max(1, y.shape[2] * y.shape[3]))


_TRUTH = np.zeros(0, bool)
