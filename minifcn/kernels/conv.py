"""Which algorithm computes a convolution: the one place where that is chosen.

| kernel                   | stride, dilation, groups | numbers | algorithm             |
|--------------------------|--------------------------|---------|-----------------------|
| 3x3, many channels       | all 1                    | float32 | winograd2d.py, on CPU |
| 3x3                      | all 1                    | float32 | winograd.py, on a CPU |
| bilinear, on a diagonal  | stride above 1           | float32 | separable.py; on a    |
|                          |                          |         | GPU if said to be so  |
| large, fewer pixels      | any stride and dilation, | any     | few_pixels.py         |
| than the weight has rows | no groups                |         |                       |
| all others               | any                      | any     | im2col.py             |
| on a GPU, channels in    | any stride and dilation, | rounded | cuda/conv.py          |
| fours                    | no groups                | float32 |                       |
| on a GPU, all others     | any                      | float32 | cuda/gemm.py (im2col) |

Winograd's way needs pixels enough to be worth transforming the weights. Along both axes it also
needs channels enough (WIDE): products then outweigh the second transform. Numbers are rounded, for
a GPU's tensor cores, only if `use_precision` asks for it (precision.py). `use_algorithm`, or the
environment variable MINIFCN_CONVOLUTION, sends everything through im2col instead, for comparison.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..backend import Array, Error, for_a_while, is_numpy
from ..shapes import Pair, conv_size
from . import cuda, few_pixels, im2col, precision, separable, winograd, winograd2d

FEWEST = 512  # pixels of a batch, that Winograd's way needs to be worth its transforms
WIDE = 128  # channels, of input and of output, that Winograd's way along both axes needs
LARGE = 1 << 20  # numbers in a weight: smaller ones are rearranged in no time
ALGORITHMS = ("auto", "im2col")  # by the table above, or always im2col


class AlgorithmError(Error, ValueError):
    """A way to compute convolutions that does not exist."""


class _Setting(threading.local):
    algorithm = os.environ.get("MINIFCN_CONVOLUTION", "auto")


_setting = _Setting()


@contextmanager
def use_algorithm(name: str) -> Iterator[None]:
    """Compute convolutions by ``"auto"`` (the table above) or ``"im2col"``, in this thread.

    >>> x, w = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 3), np.float32)
    >>> with use_algorithm("im2col"):
    ...     conv2d(x, w, None, (1, 1), (0, 0), (1, 1), 1)[0, 0]
    array([[9., 9.],
           [9., 9.]], dtype=float32)
    """
    with for_a_while(_setting, algorithm=name):
        fast()  # checks the name
        yield


def fast() -> bool:
    """Tell whether the fast ways may be taken.

    Raises
    ------
    AlgorithmError
        If the setting is neither ``"auto"`` nor ``"im2col"``.
    """
    if _setting.algorithm not in ALGORITHMS:
        raise AlgorithmError(
            f"convolution algorithm {_setting.algorithm!r} (MINIFCN_CONVOLUTION, or use_algorithm) "
            f"must be one of {', '.join(ALGORITHMS)}"
        )
    return _setting.algorithm == "auto"


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    relu: bool = False,
    fixed: bool = False,
) -> Array:
    """Return the cross-correlation, (N, C, H, W) with (O, C/groups, kh, kw) to (N, O, Ho, Wo).

    With ``relu``, what is below zero in it becomes zero. ``fixed`` tells that the weight is as it
    was made, and so may be bilinear (see `minifcn.functional.conv_transpose2d`).
    """
    precision.check(x)
    x, y = channels_last(x), None
    height, width = (
        conv_size(x.shape[1 + a], weight.shape[2 + a], stride[a], padding[a], dilation[a])
        for a in (0, 1)
    )
    if fixed and bias is None and not relu and by_tents(x, weight, stride, dilation, groups):
        y = cuda.separable.conv2d(x, weight, stride, padding, (height, width))
    elif cuda.on(x):
        way = cuda.conv if on_tensor_cores(x, weight.shape, groups) else cuda.gemm
        y = way.conv2d(x, weight, bias, stride, padding, dilation, groups, relu)
    elif winograd_fits(x, weight.shape, stride, dilation, groups):
        axes = winograd2d if is_wide(weight.shape) else winograd
        y = axes.conv2d(x, weight, bias, padding, relu)
    elif bias is None and (tent := tent_for(x, weight, stride, dilation, groups)) is not None:
        y = separable.downsample(x, tent, stride, padding, (height, width))
        if relu and y is not None:
            np.maximum(y, 0, out=y)
    elif few_pixels_fit(len(x) * height * width, weight.shape, groups):
        y = few_pixels.conv2d(x, weight, bias, (height, width), stride, padding, dilation, relu)
    if y is None:
        y = im2col.conv2d(x, weight, bias, stride, padding, dilation, groups, relu)
    return y.transpose(0, 3, 1, 2)  # (N, Ho, Wo, O) -> (N, O, Ho, Wo)


def conv2d_weight(
    x: Array, g: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """Return the gradient in the weight, from (N, C, H, W) and (N, O, Ho, Wo)."""
    precision.check(x)
    x, g, w = channels_last(x), channels_last(g), None
    shape = (g.shape[3], x.shape[3] // groups, *kernel)
    whole = all(g.shape[1 + a] == x.shape[1 + a] + 2 * padding[a] - 2 for a in (0, 1))
    if cuda.on(x):
        way = cuda.conv if on_tensor_cores(x, shape, groups) else cuda.gemm
        w = way.conv2d_weight(x, g, kernel, stride, padding, dilation, groups)
    elif whole and winograd_fits(x, shape, stride, dilation, groups):
        w = (winograd2d if is_wide(shape) else winograd).conv2d_weight(x, g, padding)
    elif few_pixels_fit(g.shape[0] * g.shape[1] * g.shape[2], shape, groups):
        w = few_pixels.conv2d_weight(x, g, kernel, stride, padding, dilation)
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
    fixed: bool = False,
) -> Array:
    """Return the transposed convolution, (N, I, H, W) with (I, O/groups, kh, kw).

    At stride 1 it is a convolution with the kernel turned by half a turn, so it is computed as one.
    """
    precision.check(x)
    x = channels_last(x)
    rounded = on_tensor_cores(x, weight.shape, groups)
    few = few_pixels_fit(x.shape[0] * x.shape[1] * x.shape[2], weight.shape, groups)
    if few and not cuda.on(x):
        y = few_pixels.conv_transpose2d(x, weight, stride, padding, output_size, dilation)
        return y.transpose(0, 3, 1, 2)  # (N, Ho, Wo, O) -> (N, O, Ho, Wo)
    kernel, size = weight.shape[2:], x.shape[1:3]
    reach = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    exact = all(output_size[a] == size[a] + reach[a] - padding[a] for a in (0, 1))
    if stride == (1, 1) and min(reach) >= 0 and exact and (rounded or not few):
        weight = im2col.turned(weight, groups)
        image = x.transpose(0, 3, 1, 2)  # (N, H, W, I) -> (N, I, H, W)
        return conv2d(image, weight, None, stride, (reach[0], reach[1]), dilation, groups)
    y = None
    if fixed and by_tents(x, weight, stride, dilation, groups):
        y = cuda.separable.conv_transpose2d(x, weight, stride, padding, output_size)
    elif cuda.on(x):
        y = cuda.gemm.conv_transpose2d(x, weight, stride, padding, output_size, dilation, groups)
    elif (tent := tent_for(x, weight, stride, dilation, groups)) is not None:
        y = separable.upsample(x, tent, stride, padding, output_size)
    if y is None:
        y = im2col.conv_transpose2d(x, weight, stride, padding, output_size, dilation, groups)
    return y.transpose(0, 3, 1, 2)  # (N, Ho, Wo, O) -> (N, O, Ho, Wo)


def on_tensor_cores(x: Array, weight: tuple[int, ...], groups: int) -> bool:
    """Tell whether x (N, H, W, C) and a weight of this shape are convolved on tensor cores."""
    return cuda.on(x) and fast() and cuda.conv.fits(x, weight, groups)


def winograd_fits(
    x: Array, weight: tuple[int, ...], stride: Pair, dilation: Pair, groups: int
) -> bool:
    """Tell whether x (N, H, W, C) and a weight of this shape are convolved by Winograd's way."""
    O, C, *kernel = weight
    plain = kernel == [3, 3] and stride == dilation == (1, 1) and groups == 1 and fast()
    pixels = x.shape[0] * x.shape[1] * x.shape[2]
    return plain and is_numpy(x) and x.dtype == np.float32 and pixels >= max(FEWEST, min(C, O))


def is_wide(weight: tuple[int, ...]) -> bool:
    """Tell whether Winograd's way, where it fits, is better taken along both axes.

    >>> is_wide((128, 256, 3, 3)), is_wide((64, 256, 3, 3))
    (True, False)
    """
    return min(weight[:2]) >= WIDE


def few_pixels_fit(pixels: int, weight: tuple[int, ...], groups: int) -> bool:
    """Tell whether a large weight is better used where it lies than rearranged for im2col."""
    few = groups == 1 and 0 < pixels < weight[0]
    return few and math.prod(weight) >= LARGE and fast()


def by_tents(x: Array, weight: Array, stride: Pair, dilation: Pair, groups: int) -> bool:
    """Tell whether a fixed weight is used on a GPU as one that enlarges bilinearly, if it is."""
    return cuda.on(x) and fast() and separable.fits(weight.shape, stride, dilation, groups)


def tent_for(x: Array, weight: Array, stride: Pair, dilation: Pair, groups: int) -> Array | None:
    """Return the tent of a bilinear weight, if this is an upsampling layer or its transpose."""
    fits = separable.fits(weight.shape, stride, dilation, groups) and fast()
    return separable.tent_of(weight) if fits and is_numpy(x) and x.dtype == np.float32 else None


def channels_last(x: Array) -> Array:
    """Return (N, C, H, W) as (N, H, W, C) with channels side by side; copies only if they are not.

    Activations are stored channels-last throughout, so this is a change of view in practice.
    """
    view = x.transpose(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
    return view if view.strides[3] == x.itemsize or view.shape[3] == 1 else view.copy()
