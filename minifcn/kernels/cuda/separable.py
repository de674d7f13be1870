"""Bilinear upsampling on a GPU: what separable.cu does, called as in `minifcn.kernels.separable`.

In one thing they differ from their twins: an infinity or NaN stays where the tent takes it, in its
own channel. There it would make others NaN as well, as 0 · infinity in the whole weight's product.
"""

from __future__ import annotations

import math

from ...backend import Array, xp_of
from ...shapes import Pair
from ..elementwise import empty
from .launch import at_once, blocks_for, run


def upsample(x: Array, tent: Array, stride: Pair, padding: Pair, size: Pair) -> Array:
    """Return the transposed convolution of x (N, H, W, C) with a tent, (N, *size, C)."""
    for axis in (2, 1):  # the columns while there are few rows
        x = _along("upsample", x, tent, axis, stride[axis - 1], padding[axis - 1], size[axis - 1])
    return x


def downsample(y: Array, tent: Array, stride: Pair, padding: Pair, size: Pair) -> Array:
    """Return the convolution of y (N, Ho, Wo, C) with a tent, (N, *size, C)."""
    for axis in (1, 2):
        y = _along("downsample", y, tent, axis, stride[axis - 1], padding[axis - 1], size[axis - 1])
    return y


def _along(
    kernel: str, images: Array, tent: Array, axis: int, stride: int, padding: int, size: int
) -> Array:
    """Return images (N, H, W, C) with one axis made larger or smaller, to ``size``."""
    images = xp_of(images).ascontiguousarray(images)
    shape = list(images.shape)
    low, high = (shape[axis], size) if kernel == "upsample" else (size, shape[axis])
    shape[axis] = size
    result = empty(tuple(shape), images)
    inner = math.prod(shape[axis + 1 :])
    together = at_once(inner, images, result)
    count = result.size // together
    where = low, high, inner // together, len(tent), stride, padding
    blocks = blocks_for(count)
    run(f"separable.{kernel}", blocks, images, tent, result, *where, count, WIDE=together)
    return result
