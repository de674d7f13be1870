"""Convolution of few pixels with a large weight: fc6 and fc7 of VGG16 and AlexNet.

fc6 of VGG16 holds 411 MB. To bring it into the order that im2col.py wants takes several times as
long as to multiply with it. So the weight is used where it lies, as the matrix (O, C*kh*kw), and
the patches, which are few, are brought into its order. Threads share the weight's rows.
"""

from __future__ import annotations

from collections.abc import Callable

from ..backend import Array, xp_of
from ..shapes import Pair
from .im2col import patches
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
) -> Array:
    """Return the cross-correlation, x (N, H, W, C) with weight (O, C, kh, kw) to (N, *size, O)."""
    xp = xp_of(x)
    O, _, kh, kw = weight.shape
    rows = in_weight_order(x, (kh, kw), size, stride, padding, dilation)
    matrix = weight.reshape(O, -1)  # (O, C, kh, kw) -> (O, C*kh*kw)
    y = xp.empty((len(rows), O), x.dtype)
    by_shares(O, lambda part: xp.matmul(rows, matrix[part].T, out=y[:, part]), x)
    if bias is not None:
        y += bias
    return y.reshape(len(x), *size, O)  # (N*Ho*Wo, O) -> (N, Ho, Wo, O)


def conv2d_weight(
    x: Array, g: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return the gradient in the weight, (O, C, kh, kw), from x (N, H, W, C), g (N, Ho, Wo, O)."""
    xp = xp_of(x)
    O, size = g.shape[3], (g.shape[1], g.shape[2])
    rows = in_weight_order(x, kernel, size, stride, padding, dilation)
    across = g.reshape(-1, O).T  # (N, Ho, Wo, O) -> (N*Ho*Wo, O) -> (O, N*Ho*Wo)
    w = xp.empty((O, rows.shape[1]), x.dtype)
    by_shares(O, lambda part: xp.matmul(across[part], rows, out=w[part]), x)
    return w.reshape(O, -1, *kernel)  # (O, C*kh*kw) -> (O, C, kh, kw)


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
    pixels, matrix = x.reshape(-1, I), weight.reshape(I, -1)
    copies = xp.empty((len(pixels), matrix.shape[1]), x.dtype)
    by_shares(
        matrix.shape[1], lambda part: xp.matmul(pixels, matrix[:, part], out=copies[:, part]), x
    )
    copies = copies.reshape(N, H, W, O, kh, kw)
    height = max(sh * (H - 1) + dh * (kh - 1) + 1, ph + output_size[0])
    width = max(sw * (W - 1) + dw * (kw - 1) + 1, pw + output_size[1])
    y = xp.zeros((N, height, width, O), x.dtype)
    for a in range(kh):
        for b in range(kw):
            top, left = dh * a, dw * b
            rows = slice(top, top + sh * (H - 1) + 1, sh)
            y[:, rows, left : left + sw * (W - 1) + 1 : sw] += copies[..., a, b]
    return y[:, ph : ph + output_size[0], pw : pw + output_size[1]]


def in_weight_order(
    x: Array, kernel: Pair, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return all patches of x as rows of (C, kh, kw), which is the order of a weight's rows."""
    tile = Tile(slice(0, len(x)), slice(0, size[0]))
    rows = patches(x, tile, kernel, size[1], stride, padding, dilation)
    apart = rows.reshape(len(rows), kernel[0] * kernel[1], x.shape[3])
    # (P, kh*kw, C) -> (P, C, kh*kw) -> (P, C*kh*kw)
    return apart.transpose(0, 2, 1).reshape(len(rows), -1)


def by_shares(count: int, compute: Callable[[slice], None], data: Array) -> None:
    """Call ``compute`` with slices that cut ``count`` into shares, on several threads."""
    size = -(-count // SHARES)
    parts = [slice(i, min(i + size, count)) for i in range(0, count, size)]
    parallel_for(len(parts), lambda i: compute(parts[i]), data)
