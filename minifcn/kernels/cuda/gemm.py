"""Convolution on a GPU by im2col and cuBLAS, NVIDIA's library for matrix products.

The twins of im2col.py's functions: patches become rows of a matrix, tile by tile. Here a tile is
larger, as a GPU needs much to do at once: up to 256 MB, or so many as the environment variable
MINIFCN_WORKSPACE says. More is needed only if a single row of the output takes more. Groups are
computed one after the other.
"""

from __future__ import annotations

import os

from ...backend import Array, Error, xp_of
from ...shapes import Pair, conv_size
from ..im2col import as_matrix, channels_of, patches
from ..tiles import Tile, cut
from .cublas import product
from .elementwise import add_bias
from .im2col import add_patches
from .launch import MOST_NUMBERS, check_shapes

WORKSPACE = "256"  # MB of a tile of patches, if nobody says otherwise


class WorkspaceError(Error, ValueError):
    """MINIFCN_WORKSPACE holds something else than a positive whole number."""


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    relu: bool = False,
) -> Array:
    """Return the cross-correlation of x (N, H, W, C) with weight (O, C/groups, kh, kw)."""
    xp, how = xp_of(x), (stride, padding, dilation)
    O, C, kh, kw = weight.shape
    check_shapes("gemm.conv2d", x=(x, (*x.shape[:3], C * groups)), bias=(bias, (O,)))
    height = conv_size(x.shape[1], kh, stride[0], padding[0], dilation[0])
    width = conv_size(x.shape[2], kw, stride[1], padding[1], dilation[1])
    y = xp.empty((len(x), height, width, O), x.dtype)
    if groups > 1:
        for ins, outs in channels_of(groups, C * groups, O):
            part = None if bias is None else bias[outs]
            y[..., outs] = conv2d(x[..., ins], weight[outs], part, *how, 1, relu)
        return y
    x, matrix = xp.ascontiguousarray(x), as_matrix(weight)
    bias = None if bias is None else xp.ascontiguousarray(bias)
    for tile in _tiles(len(x), height, width * kh * kw * C * x.itemsize):
        out = y[tile.images, tile.rows].reshape(-1, O)  # (n, rows, Wo, O) -> (n*rows*Wo, O)
        # The patches have no name, as they would keep it while the next ones are made.
        product(patches(x, tile, (kh, kw), width, *how), matrix, out)
        if bias is not None:
            add_bias(out, bias, relu)
        elif relu:
            xp.maximum(out, 0, out=out)
    return y


def conv2d_weight(
    x: Array, g: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """Return the gradient in the weight, (O, C/groups, kh, kw), from x and g (N, Ho, Wo, O)."""
    xp, how = xp_of(x), (stride, padding, dilation)
    (n, height, width, O), C = g.shape, x.shape[3] // groups
    check_shapes("gemm.conv2d_weight", x=(x, (n, *x.shape[1:3], C * groups)))
    if groups > 1:
        w = xp.empty((*kernel, C, O), x.dtype).transpose(3, 2, 0, 1)
        for ins, outs in channels_of(groups, C * groups, O):
            w[outs] = conv2d_weight(x[..., ins], g[..., outs], kernel, *how, 1)
        return w
    x, g = xp.ascontiguousarray(x), xp.ascontiguousarray(g)
    make = xp.empty if g.size else xp.zeros
    total = make((kernel[0] * kernel[1] * C, O), x.dtype)
    for number, tile in enumerate(_tiles(n, height, width * len(total) * x.itemsize)):
        pixels = g[tile.images, tile.rows].reshape(-1, O)  # (n, rows, Wo, O) -> (n*rows*Wo, O)
        product(patches(x, tile, kernel, width, *how).T, pixels, total, add=number > 0)
    return total.reshape(*kernel, C, O).transpose(3, 2, 0, 1)  # (kh*kw*C, O) -> (O, C, kh, kw)


def conv_transpose2d(
    x: Array,
    weight: Array,
    stride: Pair,
    padding: Pair,
    output_size: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """Return the transposed convolution of x (N, H, W, I) with weight (I, O/groups, kh, kw).

    A product gives each pixel's scaled copy of the kernel; then each number of the result adds up
    what meets there.
    """
    xp = xp_of(x)
    (n, height, width, I), (_, O, kh, kw) = x.shape, weight.shape
    check_shapes("gemm.conv_transpose2d", weight=(weight, (I, O, kh, kw)))
    single = _single((kh, kw), stride, padding) and output_size == (height, width)
    make = xp.empty if single and groups == 1 else xp.zeros
    y = make((n, *output_size, O * groups), x.dtype)
    if groups > 1:
        for ins, outs in channels_of(groups, I, O * groups):
            how = (stride, padding, output_size, dilation, 1)
            y[..., outs] = conv_transpose2d(x[..., ins], weight[ins], *how)
        return y
    x, matrix = xp.ascontiguousarray(x), as_matrix(weight)  # (kh*kw*O, I)
    for tile in _tiles(n, height, width * kh * kw * O * x.itemsize):
        pixels = x[tile.images, tile.rows].reshape(-1, I)  # (n, rows, W, I) -> (n*rows*W, I)
        if single:  # copies of a kernel of one number meet nowhere
            product(pixels, matrix.T, y[tile.images, tile.rows].reshape(-1, O))
            continue
        place = xp.empty((len(pixels), len(matrix)), x.dtype)  # (n*rows*W, kh*kw*O)
        add_patches(
            product(pixels, matrix.T, place), y, tile, (kh, kw), width, stride, padding, dilation
        )
        del place  # before the next one is made
    return y


def _single(kernel: Pair, stride: Pair, padding: Pair) -> bool:
    """Tell whether each pixel of the output sees one of the input, that at the same place."""
    return kernel == stride == (1, 1) and padding == (0, 0)


def workspace() -> int:
    """Return how many bytes a tile of patches may take: no more than kernels can count.

    Raises
    ------
    WorkspaceError
        If MINIFCN_WORKSPACE is no such number.
    """
    text = os.environ.get("MINIFCN_WORKSPACE", "") or WORKSPACE
    if not (text.isdecimal() and int(text) > 0):
        raise WorkspaceError(f"MINIFCN_WORKSPACE={text!r} must be a whole number of MB from 1 up")
    return min(int(text) << 20, 4 * MOST_NUMBERS)  # of float32


def _tiles(n: int, rows: int, row_bytes: int) -> list[Tile]:
    """Cut a batch into tiles of patches that fit into the workspace, or into single rows."""
    return cut(n, rows, workspace() // row_bytes, least=1)
