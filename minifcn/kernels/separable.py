"""Transposed convolution with the same tent-shaped kernel for each channel: bilinear upsampling.

A bilinear kernel is an outer product of two tents, t[a]·t[b], and the weight is diagonal: channel i
goes to output i only. Then the columns and the rows can be enlarged one after the other, each by
a small matrix product,

    y = R · x · Sᵀ    with R[s·p + a - padding, p] = t[a] for the rows, and S alike for the columns,

at 2·k in place of C·k² multiplications for each pixel and channel. The transposed operation, a
convolution with the stride s, is x = Rᵀ · y · S.
"""

from __future__ import annotations

from ..backend import Array, xp_of
from ..shapes import Pair
from .threads import parallel_for


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
    channels = xp.arange(C)
    same = xp.allclose(weight[channels, channels], xp.outer(tent, tent), rtol=1e-6, atol=1e-7)
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

    def enlarge(n: int) -> None:
        wide = xp.matmul(columns, x[n])  # (Wo, W) @ (H, W, C) -> (H, Wo, C)
        # (Ho, H) @ (H, Wo*C) -> (Ho, Wo*C)
        xp.matmul(rows, wide.reshape(H, -1), out=y[n].reshape(size[0], -1))

    parallel_for(N, enlarge, x)
    return y


def downsample(y: Array, tent: Array, stride: Pair, padding: Pair, size: Pair) -> Array | None:
    """Return the convolution of y (N, Ho, Wo, C) with a tent, (N, *size, C); None if not finite."""
    xp = xp_of(y)
    N, Ho, Wo, C = y.shape
    rows = matrix(tent, size[0], stride[0], padding[0], Ho)
    columns = matrix(tent, size[1], stride[1], padding[1], Wo)
    x = xp.empty((N, *size, C), y.dtype)

    def reduce(n: int) -> None:
        flat = xp.matmul(rows.T, y[n].reshape(Ho, Wo * C))  # (H, Ho) @ (Ho, Wo*C)
        # (W, Wo) @ (H, Wo, C) -> (H, W, C)
        xp.matmul(columns.T, flat.reshape(size[0], Wo, C), out=x[n])

    parallel_for(N, reduce, y)
    return x if xp.isfinite(x).all() else None
