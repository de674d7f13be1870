"""Patches of images as rows of a matrix, and back: what im2col.cu does."""

from __future__ import annotations

from ...backend import Array, xp_of
from ...shapes import Pair
from ..tiles import Tile
from .launch import at_once, blocks_for, check_shapes, run


def patches(
    x: Array, tile: Tile, kernel: Pair, columns: int, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return a tile of the im2col matrix of x (N, H, W, C): one row per output pixel.

    Parameters
    ----------
    x
        Images, float32. If they are not contiguous, those of the tile are copied.
    tile
        Which images, and which rows of the output.
    kernel, stride, padding, dilation
        As for the convolution.
    columns
        Pixels in a row of the output.

    Returns
    -------
    (n*rows*columns, kh*kw*C)
    """
    xp = xp_of(x)
    images = xp.ascontiguousarray(x[tile.images])
    (n, H, W, C), (kh, kw) = images.shape, kernel
    first, rows = tile.rows.start, tile.rows.stop - tile.rows.start
    result = xp.empty((n * rows * columns, kh * kw * C), x.dtype)
    together = at_once(C, images, result)
    count = result.size // together
    where = (H, W, C // together, first, rows, columns, *kernel, *stride, *padding, *dilation)
    run("im2col.im2col", blocks_for(count), images, result, *where, count, WIDE=together)
    return result


def add_patches(
    matrix: Array,
    x: Array,
    tile: Tile,
    kernel: Pair,
    columns: int,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> None:
    """Add a matrix like that of `patches` to x (N, H, W, C), each number where it was taken from.

    The transpose of `patches` (col2im), in place: x must be contiguous. Tiles that are added one
    after the other always give the same bits.
    """
    images = x[tile.images]
    (n, H, W, C), (kh, kw) = images.shape, kernel
    first, rows = tile.rows.start, tile.rows.stop - tile.rows.start
    check_shapes("im2col.col2im", matrix=(matrix, (n * rows * columns, kh * kw * C)))
    top = max(0, stride[0] * first - padding[0])
    bottom = stride[0] * (first + rows - 1) + dilation[0] * (kh - 1) - padding[0]
    height = max(0, min(H, bottom + 1) - top)  # the rows of x that these patches reach
    together = at_once(C, matrix, images)
    count = n * height * W * (C // together)
    where = (H, W, C // together, first, rows, columns, *kernel, *stride, *padding, *dilation)
    reached = top, height
    run("im2col.col2im", blocks_for(count), matrix, images, *where, *reached, count, WIDE=together)
