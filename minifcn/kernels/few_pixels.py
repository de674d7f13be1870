"""Convolution of few pixels with a large weight: fc6 and fc7 of VGG16 and AlexNet.

fc6 of VGG16 holds 411 MB, and its output has perhaps 100 pixels: reading the weight is most of the
work. im2col.py gives each thread some pixels, and each of them would read all of it. Here threads
share the weight, and all work on all pixels. For a weight in the memory order of `nn.Conv2d`,
(kh, kw, C, O), nothing is rearranged.
"""

from __future__ import annotations

from collections.abc import Callable

from ..backend import Array, xp_of
from ..shapes import Pair
from .elementwise import empty
from .im2col import as_matrix, patches
from .threads import parallel_for
from .tiles import Tile

SHARES = 8  # of a weight; each thread takes the next


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    relu: bool = False,
) -> Array:
    """Return the cross-correlation, x (N, H, W, C) with weight (O, C, kh, kw) to (N, *size, O).

    With ``relu``, what is below zero in it becomes zero.
    """
    xp = xp_of(x)
    O, _, kh, kw = weight.shape
    rows, matrix = all_patches(x, (kh, kw), size, stride, padding, dilation), as_matrix(weight)
    y = xp.empty((len(rows), O), x.dtype)
    by_shares(O, lambda part: xp.matmul(rows, matrix[:, part], out=y[:, part]), x)
    if bias is not None:
        y += bias
    if relu:
        xp.maximum(y, 0, out=y)
    return y.reshape(len(x), *size, O)  # (N*Ho*Wo, O) -> (N, Ho, Wo, O)


def conv2d_weight(
    x: Array, g: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return the gradient in the weight, (O, C, kh, kw), from x (N, H, W, C), g (N, Ho, Wo, O)."""
    xp = xp_of(x)
    O, size = g.shape[3], (g.shape[1], g.shape[2])
    across = all_patches(x, kernel, size, stride, padding, dilation).T
    pixels = g.reshape(-1, O)  # (N, Ho, Wo, O) -> (N*Ho*Wo, O)
    w = empty((len(across), O), x)
    by_shares(len(w), lambda part: xp.matmul(across[part], pixels, out=w[part]), x)
    return w.reshape(*kernel, -1, O).transpose(3, 2, 0, 1)  # (kh*kw*C, O) -> (O, C, kh, kw)


def conv_transpose2d(
    x: Array, weight: Array, stride: Pair, padding: Pair, output_size: Pair, dilation: Pair
) -> Array:
    """Return the transposed convolution of x (N, H, W, I) with weight (I, O, kh, kw).

    One product gives each pixel's scaled copy of the kernel; tap by tap they are added in place.
    """
    xp = xp_of(x)
    N, H, W, I = x.shape
    _, O, kh, kw = weight.shape
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    pixels, matrix = x.reshape(-1, I), as_matrix(weight)  # (N*H*W, I), (kh*kw*O, I)
    copies = xp.empty((len(pixels), len(matrix)), x.dtype)
    by_shares(len(matrix), lambda part: xp.matmul(pixels, matrix[part].T, out=copies[:, part]), x)
    copies = copies.reshape(N, H, W, kh, kw, O)
    height = max(sh * (H - 1) + dh * (kh - 1) + 1, ph + output_size[0])
    width = max(sw * (W - 1) + dw * (kw - 1) + 1, pw + output_size[1])
    y = xp.zeros((N, height, width, O), x.dtype)
    for a in range(kh):
        for b in range(kw):
            top, left = dh * a, dw * b
            rows = slice(top, top + sh * (H - 1) + 1, sh)
            y[:, rows, left : left + sw * (W - 1) + 1 : sw] += copies[:, :, :, a, b]
    return y[:, ph : ph + output_size[0], pw : pw + output_size[1]]


def all_patches(
    x: Array, kernel: Pair, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return the whole im2col matrix of x (N, H, W, C), one row per output pixel."""
    tile = Tile(slice(0, len(x)), slice(0, size[0]))
    return patches(x, tile, kernel, size[1], stride, padding, dilation)


def by_shares(count: int, compute: Callable[[slice], None], data: Array) -> None:
    """Call ``compute`` with slices that cut ``count`` into shares, on several threads."""
    size = -(-count // SHARES)
    parts = [slice(i, min(i + size, count)) for i in range(0, count, size)]
    parallel_for(len(parts), lambda i: compute(parts[i]), data)
