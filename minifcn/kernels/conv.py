"""Which algorithm computes a convolution: the one place where that is chosen.

| kernel                   | stride, dilation, groups | numbers | algorithm             |
|--------------------------|--------------------------|---------|-----------------------|
| 3x3                      | all 1                    | float32 | winograd.py, on a CPU |
| bilinear, on a diagonal  | stride above 1           | float32 | separable.py, ditto   |
| all others               | any                      | any     | im2col.py             |

Winograd's way needs enough pixels to be worth transforming the weights.
"""

from __future__ import annotations

import numpy as np

from ..backend import Array, is_numpy
from ..shapes import Pair, conv_size
from . import im2col, separable, winograd


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """Return the cross-correlation, (N, C, H, W) with (O, C/groups, kh, kw) to (N, O, Ho, Wo)."""
    x, y = channels_last(x), None
    if winograd_fits(x, weight.shape, stride, dilation, groups):
        y = winograd.conv2d(x, weight, bias, padding)
    elif bias is None and (tent := tent_for(x, weight, stride, dilation, groups)) is not None:
        height = conv_size(x.shape[1], len(tent), stride[0], padding[0])
        width = conv_size(x.shape[2], len(tent), stride[1], padding[1])
        y = separable.downsample(x, tent, stride, padding, (height, width))
    if y is None:
        y = im2col.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return y.transpose(0, 3, 1, 2)  # (N, Ho, Wo, O) -> (N, O, Ho, Wo)


def conv2d_weight(
    x: Array, g: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """Return the gradient in the weight, from (N, C, H, W) and (N, O, Ho, Wo)."""
    x, g, w = channels_last(x), channels_last(g), None
    shape = (g.shape[3], x.shape[3] // groups, *kernel)
    whole = all(g.shape[1 + a] == x.shape[1 + a] + 2 * padding[a] - 2 for a in (0, 1))
    if whole and winograd_fits(x, shape, stride, dilation, groups):
        w = winograd.conv2d_weight(x, g, padding)
    if w is None:
        w = im2col.conv2d_weight(x, g, kernel, stride, padding, dilation, groups)
    return w


def conv_transpose2d(
    x: Array,
    weight: Array,
    stride: Pair,
    padding: Pair,
    output_size: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """Return the transposed convolution, (N, I, H, W) with (I, O/groups, kh, kw).

    At stride 1 it is a convolution with the kernel turned by half a turn, so it is computed as one.
    """
    kernel, size = weight.shape[2:], x.shape[2:]
    reach = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    exact = all(output_size[a] == size[a] + reach[a] - padding[a] for a in (0, 1))
    if stride == (1, 1) and min(reach) >= 0 and exact:
        weight = im2col.turned(weight, groups)
        return conv2d(x, weight, None, stride, (reach[0], reach[1]), dilation, groups)
    x, y = channels_last(x), None
    if (tent := tent_for(x, weight, stride, dilation, groups)) is not None:
        y = separable.upsample(x, tent, stride, padding, output_size)
    if y is None:
        y = im2col.conv_transpose2d(x, weight, stride, padding, output_size, dilation, groups)
    return y.transpose(0, 3, 1, 2)  # (N, Ho, Wo, O) -> (N, O, Ho, Wo)


def winograd_fits(
    x: Array, weight: tuple[int, ...], stride: Pair, dilation: Pair, groups: int
) -> bool:
    """Tell whether x (N, H, W, C) and a weight of this shape are convolved by Winograd's way."""
    O, C, *kernel = weight
    plain = kernel == [3, 3] and stride == dilation == (1, 1) and groups == 1
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    return plain and is_numpy(x) and x.dtype == np.float32 and pixels >= 2 * min(C, O)


def tent_for(x: Array, weight: Array, stride: Pair, dilation: Pair, groups: int) -> Array | None:
    """Return the tent of a bilinear weight, if this is an upsampling layer or its transpose."""
    enlarging = min(stride) > 1 and dilation == (1, 1) and groups == 1
    fits = enlarging and is_numpy(x) and x.dtype == np.float32
    return separable.tent_of(weight) if fits else None


def channels_last(x: Array) -> Array:
    """Return (N, C, H, W) as (N, H, W, C) with channels side by side; copies only if they are not.

    Activations are stored channels-last throughout, so this is a change of view in practice.
    """
    view = x.transpose(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
    return view if view.strides[3] == x.itemsize or view.shape[3] == 1 else view.copy()
