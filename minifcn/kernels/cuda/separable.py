"""Bilinear upsampling on a GPU: what separable.cu does, called as in `minifcn.kernels.separable`.

Whether a weight is bilinear is looked at in each call, as a layer's weight may be replaced. That
takes a few microseconds of the GPU, and the CPU is not told: kernels for both cases are started,
and those of the other case return at once.

In one thing the results differ from the twins': an infinity or NaN stays where the tent takes it,
in its own channel. There it would make others NaN as well, as 0 · infinity in the product with the
whole weight.
"""

from __future__ import annotations

import math

from ...backend import Array, xp_of
from ...shapes import Pair
from ..elementwise import empty
from ..im2col import as_matrix
from .launch import at_once, blocks_for, check_shapes, run

PARTS = 128  # blocks, at the most, that look at a weight
MOST_BLOCKS = 256  # that multiply with a whole weight: enough to keep a GPU busy


def conv_transpose2d(x: Array, weight: Array, stride: Pair, padding: Pair, size: Pair) -> Array:
    """Return the transposed convolution of x (N, H, W, C) with a weight (C, C, k, k)."""
    _check("upsample_by_all", x, weight)
    tent = tent_of(weight)
    y = upsample(x, tent, stride, padding, size)
    return _by_all("upsample_by_all", x, y, x, y, weight, tent, stride, padding)


def conv2d(y: Array, weight: Array, stride: Pair, padding: Pair, size: Pair) -> Array:
    """Return the convolution of y (N, Ho, Wo, C), to (N, *size, C), with a weight (C, C, k, k)."""
    _check("downsample_by_all", y, weight)
    tent = tent_of(weight)
    x = downsample(y, tent, stride, padding, size)
    return _by_all("downsample_by_all", y, x, x, y, weight, tent, stride, padding)


def _check(kernel: str, images: Array, weight: Array) -> None:
    C, k = images.shape[3], weight.shape[3]
    check_shapes(f"separable.{kernel}", weight=(weight, (C, C, k, k)))


def tent_of(weight: Array) -> Array:
    """Return the tent of a weight (C, C, k, k), and behind it 1; 0 if it is not made of tents."""
    xp, (C, _, k, _), matrix = xp_of(weight), weight.shape, as_matrix(weight)
    parts = min(PARTS, blocks_for(matrix.size))
    same, tent = xp.empty(parts, "int32"), empty((k + 1,), weight)
    run("separable.compare", parts, matrix, same, k, C, matrix.size, WIDE=1)
    run("separable.agree", blocks_for(k + 1), matrix, same, tent, k, C, parts, WIDE=1)
    return tent


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
    where = low, high, inner // together, len(tent) - 1, stride, padding
    blocks = blocks_for(count)
    run(f"separable.{kernel}", blocks, images, tent, result, *where, count, WIDE=together)
    return result


def _by_all(
    kernel: str,
    given: Array,
    result: Array,
    low: Array,
    high: Array,
    weight: Array,
    tent: Array,
    stride: Pair,
    padding: Pair,
) -> Array:
    """Compute the result from what is given with the whole weight, if it is not made of tents.

    ``low`` and ``high`` are the smaller and the larger image, in whatever order.
    """
    given = xp_of(given).ascontiguousarray(given)
    sizes = *low.shape[1:], *high.shape[1:3], weight.shape[2], *stride, *padding
    arrays = given, as_matrix(weight), tent, result
    blocks = min(MOST_BLOCKS, blocks_for(result.size))
    run(f"separable.{kernel}", blocks, *arrays, *sizes, result.size, WIDE=1)
    return result
