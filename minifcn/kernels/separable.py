"""Transposed convolution with the same tent-shaped kernel for each channel: bilinear upsampling.

A bilinear kernel is an outer product of two tents, t[a]·t[b], and the weight is diagonal: channel i
goes to output i only. Then the columns and the rows can be enlarged one after the other, each by
a small matrix product,

    y = R · x · Sᵀ    with R[s·p + a - padding, p] = t[a] for the rows, and S alike for the columns,

at 2·k in place of C·k² multiplications for each pixel and channel. The transposed operation, a
convolution with the stride s, is x = Rᵀ · y · S. Most of R is zero, so it is done in bands of rows,
with the few columns of R that matter to each.
"""

from __future__ import annotations

from ..backend import Array, xp_of
from ..shapes import Pair
from .threads import parallel_for
from .tiles import cut

TILE = 1 << 18  # numbers of the larger image that are made or read at a time
STEPS = 20  # operations in the time that it takes for one number of the larger image


def fits(weight: tuple[int, ...], stride: Pair, dilation: Pair, groups: int) -> bool:
    """Tell whether a weight of this shape may be bilinear: (C, C, k, k), and enlarges by a stride.

    >>> fits((21, 21, 4, 4), (2, 2), (1, 1), 1), fits((21, 20, 4, 4), (2, 2), (1, 1), 1)
    (True, False)
    """
    I, O, kh, kw = weight
    return I == O and kh == kw and groups == 1 and dilation == (1, 1) and min(stride) > 1


def tent_of(weight: Array) -> Array | None:
    """Return t if the weight (C, C, k, k) is t[a]·t[b] on its diagonal and zero elsewhere."""
    C, per_group, kh, kw = weight.shape
    if C != per_group or kh != kw:
        return None
    xp = xp_of(weight)
    kernel = weight[0, 0]
    middle = kernel[kh // 2]
    if not middle[kw // 2] > 0:
        return None
    tent = middle / xp.sqrt(middle[kw // 2])
    diagonal, product = weight[xp.arange(C), xp.arange(C)], xp.outer(tent, tent)
    same = (abs(diagonal - product) <= 1e-7 + 1e-6 * abs(product)).all()
    if not same or xp.count_nonzero(weight) != C * xp.count_nonzero(kernel):
        return None
    return tent


def matrix(tent: Array, n: int, stride: int, padding: int, size: int) -> Array:
    """Return R, (size, n): column p holds the tent, starting at row s·p - padding."""
    xp = xp_of(tent)
    tall = xp.zeros((max(stride * (n - 1) + len(tent), padding + size), n), tent.dtype)
    for p in range(n):
        tall[stride * p : stride * p + len(tent), p] = tent
    return tall[padding : padding + size]


def reach(tall: slice, tent: Array, n: int, stride: int, padding: int) -> slice:
    """Return the columns of R that are not all zero in some of its rows."""
    first = -(-(tall.start + padding - len(tent) + 1) // stride)
    return slice(min(max(0, first), n), min(n, (tall.stop - 1 + padding) // stride + 1))


def upsample(x: Array, tent: Array, stride: Pair, padding: Pair, size: Pair) -> Array | None:
    """Return the transposed convolution of x (N, H, W, C) with a tent, (N, *size, C).

    None if x is not finite: zeros of R times infinity would be NaN in whole rows and columns.
    """
    xp = xp_of(x)
    if not xp.isfinite(x).all():
        return None
    N, H, W, C = x.shape
    rows = matrix(tent, H, stride[0], padding[0], size[0])
    columns = matrix(tent, W, stride[1], padding[1], size[1])
    y = xp.empty((N, *size, C), x.dtype)
    tiles = cut(N, size[0], TILE // max(1, size[1] * C))

    def enlarge(i: int) -> None:
        images, tall = tiles[i]
        low = reach(tall, tent, H, stride[0], padding[0])  # the rows of x that are seen here
        wide = xp.matmul(columns, x[images, low])  # (Wo, W) @ (n, h, W, C) -> (n, h, Wo, C)
        count, height = wide.shape[:2]
        out = y[images, tall].reshape(count, -1, size[1] * C)
        xp.matmul(rows[tall, low], wide.reshape(count, height, -1), out=out)

    parallel_for(len(tiles), enlarge, x, STEPS * y.size)
    return y


def downsample(y: Array, tent: Array, stride: Pair, padding: Pair, size: Pair) -> Array | None:
    """Return the convolution of y (N, Ho, Wo, C) with a tent, (N, *size, C); None if not finite."""
    xp = xp_of(y)
    N, Ho, Wo, C = y.shape
    rows = matrix(tent, size[0], stride[0], padding[0], Ho)
    columns = matrix(tent, size[1], stride[1], padding[1], Wo)
    x = xp.empty((N, *size, C), y.dtype)
    tiles = cut(N, size[0], TILE // max(1, Wo * C * stride[0]))

    def reduce(i: int) -> None:
        images, low = tiles[i]
        top, bottom = (stride[0] * row - padding[0] for row in (low.start, low.stop - 1))
        tall = slice(min(max(0, top), Ho), max(0, min(Ho, bottom + len(tent))))
        seen = y[images, tall]
        flat = seen.reshape(*seen.shape[:2], Wo * C)  # (n, h, Wo, C) -> (n, h, Wo*C)
        flat = xp.matmul(rows[tall, low].T, flat)  # -> (n, rows of x, Wo*C)
        # (W, Wo) @ (n, rows of x, Wo, C) -> (n, rows of x, W, C)
        xp.matmul(columns.T, flat.reshape(*flat.shape[:2], Wo, C), out=x[images, low])

    parallel_for(len(tiles), reduce, y, STEPS * y.size)
    return x if xp.isfinite(x).all() else None
