"""Pooling: one number for each window of an image, its maximum or its mean."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from ..autograd import array_of, primitive
from ..backend import Array, xp_of
from ..kernels import pooling as kernels
from ..kernels.conv import channels_last
from ..shapes import Pair, ShapeError, pair, pool_size, shape_error
from .activation import relu
from .conv import Size


def _geometry(
    shape: tuple[int, ...],
    kernel_size: Size,
    stride: Any,
    padding: Size,
    dilation: Size = 1,
    ceil: bool = True,
) -> tuple[Pair, Pair, Pair, Pair]:
    """Return all four as pairs, after checking that they make sense for images of this shape."""
    kernel = pair(kernel_size, "kernel_size", least=1)
    strides = kernel if stride is None else pair(stride, "stride", least=1)
    pads, steps = pair(padding, "padding", least=0), pair(dilation, "dilation", least=1)
    if len(shape) != 4:
        raise shape_error(
            "pooling", "x must be (N, C, H, W)", "x[None] if it is one image", x=shape
        )
    if any(2 * p > k for p, k in zip(pads, kernel, strict=True)):
        raise ShapeError(f"pooling: padding={pads} must be at most half of kernel_size={kernel}")
    axes = zip(shape[2:], kernel, strides, pads, steps, strict=True)
    if min(shape[2:]) < 1 or min(pool_size(*axis, ceil) for axis in axes) < 1:
        reach = [d * (k - 1) + 1 for d, k in zip(steps, kernel, strict=True)]
        rule = f"a window of {reach[0]} x {reach[1]} does not fit with padding {pads}"
        raise shape_error("pooling", rule, "a larger image, or fewer pooling layers", x=shape)
    return kernel, strides, pads, steps


@primitive
def max_pool2d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    relu_follows: bool = False,
) -> Array:
    """Return the largest value of each window: y[n, c, p] = max over q of x[n, c, s·p + d·q - pad].

    Parameters
    ----------
    x : (N, C, H, W)
        Images; minus infinity is assumed outside of them.
    kernel_size, stride, padding, dilation
        Numbers or pairs; the stride is the kernel size if left out.
    ceil_mode
        Round the output size up: the last window may hang over the edge. The paper's Caffe nets
        need this (see `minifcn.shapes.pool_size`).
    relu_follows
        Leave max(y, 0) in the array, for a `relu` that must follow: call `max_pool2d_relu` instead.

    Returns
    -------
    (N, C, Ho, Wo)

    Notes
    -----
    The gradient goes to the first maximum of the window in reading order, as in Caffe and PyTorch.
    A NaN counts as larger than anything.

    Examples
    --------
    >>> max_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), 2, ceil_mode=True)[0, 0]
    array([[4., 5.],
           [7., 8.]])
    """
    geometry = _geometry(x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    y = kernels.max_pool2d(channels_last(x), *geometry, ceil_mode, relu_follows)
    return y.transpose(0, 3, 1, 2)  # (N, Ho, Wo, C) -> (N, C, Ho, Wo)


def max_pool2d_relu(
    x: Any,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Any:
    """Return relu(max_pool2d(x, ...)), to the bit: y = max(largest number of each window, 0).

    Arguments as of `max_pool2d`, arrays or Tensors. As in `conv2d_relu`, two operations are
    recorded, and the first has done the second one's work. To max_pool2d's rule it does not matter
    that the largest number of some windows is not there any more: there the gradient is zero.

    >>> max_pool2d_relu(np.array([[[[-1.0, 2.0, -3.0, -4.0]]]]), (1, 2))
    array([[[[2., 0.]]]])
    """
    y = max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, relu_follows=True)
    return relu(y, done=True)


@max_pool2d.gradient("x", saves=("x", "output"))
def _(g: Any, s: Any) -> Any:
    return max_scatter(
        g, array_of(s.x), array_of(s.output), s.kernel_size, s.stride, s.padding, s.dilation
    )


@primitive(linear=("g",))
def max_scatter(
    g: Array, x: Array, y: Array, kernel_size: Size, stride: Any, padding: Size, dilation: Size
) -> Array:
    """Put each g (N, C, Ho, Wo) where the maximum y of its window of x is: max_pool2d's rule."""
    geometry = _geometry(x.shape, kernel_size, stride, padding, dilation)
    parts = channels_last(g), channels_last(x), channels_last(y)
    return kernels.max_scatter(*parts, *geometry).transpose(
        0, 3, 1, 2
    )  # (N, H, W, C) -> (N, C, H, W)


@max_scatter.gradient("g", saves=("x", "y"))
def _(v: Any, s: Any) -> Any:
    return max_gather(
        v, array_of(s.x), array_of(s.y), s.kernel_size, s.stride, s.padding, s.dilation
    )


@primitive(linear=("v",))
def max_gather(
    v: Array, x: Array, y: Array, kernel_size: Size, stride: Any, padding: Size, dilation: Size
) -> Array:
    """Take v (like x) where the maximum y of each window of x was: the transpose of max_scatter."""
    geometry = _geometry(x.shape, kernel_size, stride, padding, dilation)
    parts = channels_last(v), channels_last(x), channels_last(y)
    return kernels.max_gather(*parts, *geometry).transpose(
        0, 3, 1, 2
    )  # (N, Ho, Wo, C) -> (N, C, Ho, Wo)


@max_gather.gradient("v", saves=("x", "y"))
def _(g: Any, s: Any) -> Any:
    return max_scatter(
        g, array_of(s.x), array_of(s.y), s.kernel_size, s.stride, s.padding, s.dilation
    )


@primitive(linear=("x",))
def avg_pool2d(
    x: Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Return the mean of each window: the sum of its pixels over their number.

    Parameters
    ----------
    x : (N, C, H, W)
        Images; zeros are assumed outside of them.
    kernel_size, stride, padding, ceil_mode
        As in `max_pool2d`.
    count_include_pad
        Whether the number of pixels counts those in the padding (Caffe and PyTorch do). What lies
        beyond the padding, under a window that hangs over in ``ceil_mode``, never counts.

    Examples
    --------
    >>> avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    kernel, strides, pads, _ = _geometry(x.shape, kernel_size, stride, padding, 1, ceil_mode)
    total = kernels.sum_pool2d(channels_last(x), kernel, strides, pads, ceil_mode)
    counts = _counts(xp_of(x), x.shape, kernel, strides, pads, ceil_mode, count_include_pad)
    total /= counts.astype(x.dtype)
    return total.transpose(0, 3, 1, 2)  # (N, Ho, Wo, C) -> (N, C, Ho, Wo)


@avg_pool2d.gradient("x")
def _(g: Any, s: Any) -> Any:
    height, width = s.shape["x"][2:]
    return avg_unpool2d(
        g, height, width, s.kernel_size, s.stride, s.padding, s.ceil_mode, s.count_include_pad
    )


@primitive(linear=("g",))
def avg_unpool2d(
    g: Array,
    height: int,
    width: int,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Share each g (N, C, Ho, Wo) equally among its window's pixels: avg_pool2d's gradient."""
    shape = (*g.shape[:2], height, width)
    kernel, strides, pads, _ = _geometry(shape, kernel_size, stride, padding)
    counts = _counts(xp_of(g), shape, kernel, strides, pads, ceil_mode, count_include_pad)
    shares = channels_last(g) / counts.astype(g.dtype)
    x = kernels.sum_spread(shares, height, width, kernel, strides, pads)
    return x.transpose(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)


@avg_unpool2d.gradient("g")
def _(v: Any, s: Any) -> Any:
    return avg_pool2d(v, s.kernel_size, s.stride, s.padding, s.ceil_mode, s.count_include_pad)


def _counts(
    xp: ModuleType,
    shape: tuple[int, ...],
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    ceil: bool,
    with_pad: bool,
) -> Array:
    """Return how many pixels each window's mean is taken over, (Ho, Wo, 1)."""
    lengths = []
    for n, k, s, p in zip(shape[2:], kernel, stride, padding, strict=True):
        start = xp.arange(pool_size(n, k, s, p, 1, ceil)) * s - p
        low, high = (-p, n + p) if with_pad else (0, n)
        lengths.append(xp.minimum(start + k, high) - xp.maximum(start, low))
    return xp.outer(*lengths)[:, :, None]


def _windows(
    x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool
) -> Any:
    """Yield each window's place in the output and the positions of x under it, in reading order."""
    N, C, H, W = x.shape
    size = kernels.output_size(x.transpose(0, 2, 3, 1), kernel, stride, padding, dilation, ceil)
    for n, c, p, q in np.ndindex(N, C, *size):
        rows = [p * stride[0] + a * dilation[0] - padding[0] for a in range(kernel[0])]
        columns = [q * stride[1] + b * dilation[1] - padding[1] for b in range(kernel[1])]
        inside = [(n, c, i, j) for i in rows for j in columns if 0 <= i < H and 0 <= j < W]
        yield (n, c, p, q), inside


@max_pool2d.reference
def _(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Array:
    geometry = _geometry(x.shape, kernel_size, stride, padding, dilation)
    size = kernels.output_size(x.transpose(0, 2, 3, 1), *geometry, ceil_mode)
    y = np.empty((*x.shape[:2], *size), x.dtype)
    for place, inside in _windows(x, *geometry, ceil_mode):
        y[place] = max(x[i] for i in inside)
    return y


@max_scatter.reference
def _(
    g: Array, x: Array, y: Array, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> Array:
    geometry = _geometry(x.shape, kernel_size, stride, padding, dilation)
    result = np.zeros(x.shape, g.dtype)
    for place, inside in _windows(x, *geometry, _is_ceil(x, y, geometry)):
        result[next(i for i in inside if x[i] == y[place])] += g[place]
    return result


@max_gather.reference
def _(
    v: Array, x: Array, y: Array, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> Array:
    geometry = _geometry(x.shape, kernel_size, stride, padding, dilation)
    result = np.zeros(y.shape, v.dtype)
    for place, inside in _windows(x, *geometry, _is_ceil(x, y, geometry)):
        result[place] = v[next(i for i in inside if x[i] == y[place])]
    return result


def _is_ceil(x: Array, y: Array, geometry: tuple[Pair, Pair, Pair, Pair]) -> bool:
    """Tell whether y is x pooled with the output size rounded up."""
    down = kernels.output_size(x.transpose(0, 2, 3, 1), *geometry, ceil=False)
    return down != y.shape[2:]


@avg_pool2d.reference
def _(
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    kernel, strides, pads, steps = _geometry(x.shape, kernel_size, stride, padding)
    counts = _counts(np, x.shape, kernel, strides, pads, ceil_mode, count_include_pad)
    y = np.zeros((*x.shape[:2], *counts.shape[:2]), x.dtype)
    for (n, c, p, q), inside in _windows(x, kernel, strides, pads, steps, ceil_mode):
        y[n, c, p, q] = np.sum([x[i] for i in inside]) / counts[p, q, 0]
    return y


@avg_unpool2d.reference
def _(
    g: Array,
    height: int,
    width: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    x = np.zeros((*g.shape[:2], height, width), g.dtype)
    kernel, strides, pads, steps = _geometry(x.shape, kernel_size, stride, padding)
    counts = _counts(np, x.shape, kernel, strides, pads, ceil_mode, count_include_pad)
    for (n, c, p, q), inside in _windows(x, kernel, strides, pads, steps, ceil_mode):
        for i in inside:
            x[i] += g[n, c, p, q] / counts[p, q, 0]
    return x


def _spaced(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw distinct values, each well away from the next: no maximum changes under a small step."""
    return rng.permutation(np.linspace(-1, 1, int(np.prod(shape)))).reshape(shape)


_LABELLED: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("2x2", (2, 2, 4, 6), {"kernel_size": 2}),
    ("ceil mode", (1, 2, 5, 6), {"kernel_size": 2, "ceil_mode": True}),
    ("overlapping, ceil mode", (1, 2, 6, 7), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    ("padded", (1, 2, 5, 4), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("padded, ceil mode", (1, 1, 5, 6), {"kernel_size": 2, "padding": 1, "ceil_mode": True}),
    ("stride larger than window", (1, 1, 7, 8), {"kernel_size": 2, "stride": 3}),
    ("not square", (1, 2, 5, 6), {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)}),
    ("whole image", (2, 3, 3, 4), {"kernel_size": (3, 4)}),
    ("no image at all", (0, 2, 4, 4), {"kernel_size": 2}),
]


@max_pool2d.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, shape, how in _LABELLED:
        yield label, {"x": _spaced(rng, *shape), **how}
    yield (
        "dilated",
        {"x": _spaced(rng, 1, 2, 7, 6), "kernel_size": 2, "dilation": (3, 2), "stride": 1},
    )
    yield (
        "all negative, padded",
        {"x": _spaced(rng, 1, 1, 3, 3) - 5, "kernel_size": 2, "padding": 1},
    )


def _max_cases(rng: np.random.Generator, image: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    assert max_pool2d.cases is not None
    for label, given in max_pool2d.cases(rng):
        y = max_pool2d(**given)
        value = (
            {"v": rng.normal(size=given["x"].shape)} if image else {"g": rng.normal(size=y.shape)}
        )
        defaults = {"stride": None, "padding": 0, "dilation": 1}
        rest = {name: given.get(name, default) for name, default in defaults.items()}
        yield label, {**value, "x": given["x"], "y": y, "kernel_size": given["kernel_size"], **rest}


@max_scatter.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _max_cases(rng, image=False)


@max_gather.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _max_cases(rng, image=True)


@avg_pool2d.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, shape, how in _LABELLED:
        yield label, {"x": rng.normal(size=shape), **how}
    how = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    for count in (True, False):
        label = f"count_include_pad={count}"
        yield label, {"x": rng.normal(size=(1, 2, 6, 5)), **how, "count_include_pad": count}


@avg_unpool2d.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    assert avg_pool2d.cases is not None
    for label, given in avg_pool2d.cases(rng):
        x = given.pop("x")
        g = rng.normal(size=avg_pool2d(x, **given).shape)
        yield label, {"g": g, "height": x.shape[2], "width": x.shape[3], **given}
