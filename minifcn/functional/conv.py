"""Convolution, transposed convolution and the weight gradient: one trilinear form.

With x an image, w a kernel and g an image of the output's size, let

    T(x, w, g) = sum over n, o, i, p, q of  x[n, i, s·p + d·q - padding] · w[o, i, q] · g[n, o, p]

where p runs over output pixels and q over kernel taps (both pairs). Leave one of the three out, and
what the sum multiplies it with is an operation:

    without g: conv2d(x, w)           T = <conv2d(x, w), g>
    without x: conv_transpose2d(g, w) T = <conv_transpose2d(g, w), x>
    without w: conv2d_weight(x, g)    T = <conv2d_weight(x, g), w>

The derivative of a product is the other factor. So each of the three is the gradient of the other
two, and that is all the rules below say. (As everywhere in this field, "convolution" does not turn
the kernel round: it is a cross-correlation.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autograd import primitive
from ..backend import Array
from ..kernels import conv as kernels
from ..shapes import (
    Pair,
    check_conv,
    check_conv_transpose,
    check_conv_weight,
    conv_geometry,
    conv_size,
    conv_transpose_size,
    pair,
)
from .reduction import sum

Size = int | tuple[int, int]  # one number, or (vertical, horizontal)


@primitive(linear=("x", "weight"))
def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    relu_follows: bool = False,
    fixed: bool = False,
) -> Array:
    """Slide kernels over images: y[n,o,p] = b[o] + sum_iq x[n, i, s·p + d·q - padding] w[o,i,q].

    Parameters
    ----------
    x : (N, C, H, W)
        Images; zeros are assumed outside of them.
    weight : (O, C / groups, kh, kw)
        One kernel per output channel o.
    bias : (O,), optional
    stride, padding, dilation
        Whole numbers, or pairs (vertical, horizontal).
    groups
        Cut the channels into this many groups; each sees its own inputs only (AlexNet has two).
    relu_follows
        Leave max(y, 0) in the array, for a `relu` that must follow: call `conv2d_relu` instead.
    fixed
        As in `conv_transpose2d`.

    Returns
    -------
    (N, O, Ho, Wo)
        Ho = floor((H + 2·padding - dilation·(kh - 1) - 1) / stride) + 1; stored channels-last.

    Raises
    ------
    ShapeError
        If channels, groups or sizes do not fit.

    Examples
    --------
    >>> x = np.arange(6.0).reshape(1, 1, 2, 3)
    >>> conv2d(x, np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.]]]])
    """
    strides, pads, steps = conv_geometry(stride, padding, dilation)
    check_conv("conv2d", x, weight, bias, groups, strides, pads, steps)
    return kernels.conv2d(x, weight, bias, strides, pads, steps, groups, relu_follows, fixed)


@conv2d.gradient("x", saves=("weight",))
def _(g: Any, s: Any) -> Any:
    strides, pads, steps = conv_geometry(s.stride, s.padding, s.dilation)
    rest = _output_padding(s.shape["x"], g.shape, s.shape["weight"], strides, pads, steps)
    return conv_transpose2d(g, s.weight, None, strides, pads, rest, s.groups, steps, s.fixed)


@conv2d.gradient("weight", saves=("x",))
def _(g: Any, s: Any) -> Any:
    kernel = s.shape["weight"][2:]
    return conv2d_weight(s.x, g, kernel, s.stride, s.padding, s.dilation, s.groups)


@conv2d.gradient("bias")
def _(g: Any, s: Any) -> Any:
    return sum(g, (0, 2, 3))


@primitive(linear=("x", "weight"))
def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    fixed: bool = False,
) -> Array:
    """Put a copy of the kernel on the output for each pixel: y[n, o, s·p + d·q - padding] += x·w.

    The transposed convolution ("deconvolution" in the paper, section 3.3) upsamples by ``stride``.
    As a matrix it is the transpose of `conv2d` with the same weight; it does not invert it.

    Parameters
    ----------
    x : (N, I, H, W)
    weight : (I, O / groups, kh, kw)
        The first two axes are exchanged against `conv2d`.
    bias : (O,), optional
    stride, padding, dilation
        Those of the convolution that this transposes: ``padding`` crops the result.
    output_padding
        Rows and columns to add at the bottom and right: a convolution with a stride gives the same
        size for several input sizes, and this says which of them is meant.
    groups
        As in `conv2d`.
    fixed
        Whether the weight is not learned, and so may be that of bilinear upsampling. If it is, a
        GPU computes by rows and columns, which is several times as fast; if not, the result is the
        same, and takes longer. (A CPU finds out by itself.)

    Returns
    -------
    (N, O, Ho, Wo)
        Ho = stride·(H - 1) + dilation·(kh - 1) + 1 - 2·padding + output_padding.

    Raises
    ------
    ShapeError
        If channels, groups or sizes do not fit.

    Examples
    --------
    >>> conv_transpose2d(np.array([[[[1.0, 2.0]]]]), np.ones((1, 1, 1, 2)), stride=2)
    array([[[[1., 1., 2., 2.]]]])
    """
    strides, pads, steps = conv_geometry(stride, padding, dilation)
    size = check_conv_transpose(x, weight, bias, strides, pads, output_padding, groups, steps)
    y = kernels.conv_transpose2d(x, weight, strides, pads, size, steps, groups, fixed)
    if bias is not None:
        y += bias.reshape(1, -1, 1, 1)  # (O,) -> (1, O, 1, 1)
    return y


@conv_transpose2d.gradient("x", saves=("weight",))
def _(g: Any, s: Any) -> Any:
    _, _, height, width = s.shape["x"]
    how = s.stride, s.padding, s.dilation, s.groups
    back = conv2d(g, s.weight, None, *how, fixed=s.fixed)
    # An output_padding of a whole stride (allowed with dilation) lets one more window fit in.
    return back if back.shape[2:] == (height, width) else back[:, :, :height, :width]


@conv_transpose2d.gradient("weight", saves=("x",))
def _(g: Any, s: Any) -> Any:
    kernel = s.shape["weight"][2:]
    return conv2d_weight(g, s.x, kernel, s.stride, s.padding, s.dilation, s.groups)


@conv_transpose2d.gradient("bias")
def _(g: Any, s: Any) -> Any:
    return sum(g, (0, 2, 3))


@primitive(linear=("x", "g"))
def conv2d_weight(
    x: Array,
    g: Array,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Array:
    """Return a convolution's gradient in its weight: w[o,i,q] = sum_np x[n,i,s·p+d·q] g[n,o,p].

    Parameters
    ----------
    x : (N, C, H, W)
        The convolution's input.
    g : (N, O, Ho, Wo)
        The gradient in its output, or in the first Ho rows and Wo columns of it.
    kernel_size, stride, padding, dilation, groups
        The convolution's.

    Returns
    -------
    (O, C / groups, kh, kw)

    Raises
    ------
    ShapeError
        If channels, groups or sizes do not fit.
    """
    strides, pads, steps = conv_geometry(stride, padding, dilation)
    kernel = pair(kernel_size, "kernel_size", least=1)
    check_conv_weight(x, g, kernel, groups, strides, pads, steps)
    return kernels.conv2d_weight(x, g, kernel, strides, pads, steps, groups)


@conv2d_weight.gradient("x", saves=("g",))
def _(w: Any, s: Any) -> Any:
    strides, pads, steps = conv_geometry(s.stride, s.padding, s.dilation)
    rest = _output_padding(s.shape["x"], s.shape["g"], w.shape, strides, pads, steps)
    return conv_transpose2d(s.g, w, None, strides, pads, rest, s.groups, steps)


@conv2d_weight.gradient("g", saves=("x",))
def _(w: Any, s: Any) -> Any:
    _, _, height, width = s.shape["g"]
    full = conv2d(s.x, w, None, s.stride, s.padding, s.dilation, s.groups)
    return full if full.shape[2:] == (height, width) else full[:, :, :height, :width]


def _output_padding(
    x: Any, g: Any, weight: Any, stride: Pair, padding: Pair, dilation: Pair
) -> Any:
    """Return the rows and columns of x (a shape) that the last windows over it did not reach."""
    return tuple(
        x[2 + a]
        - conv_transpose_size(g[2 + a], weight[2 + a], stride[a], padding[a], 0, dilation[a])
        for a in (0, 1)
    )


@conv2d.reference
def _(
    x: Array,
    weight: Array,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    fixed: bool = False,
) -> Array:
    (sh, sw), (ph, pw), (dh, dw) = conv_geometry(stride, padding, dilation)
    (N, _, H, W), (O, I, kh, kw) = x.shape, weight.shape
    y = np.zeros((N, O, conv_size(H, kh, sh, ph, dh), conv_size(W, kw, sw, pw, dw)), x.dtype)
    for n, o, p, q in np.ndindex(y.shape):
        y[n, o, p, q] = 0 if bias is None else bias[o]
        first = o // (O // groups) * I  # the first input channel of o's group
        for i, a, b in np.ndindex(I, kh, kw):
            row, column = sh * p + dh * a - ph, sw * q + dw * b - pw
            if 0 <= row < H and 0 <= column < W:
                y[n, o, p, q] += x[n, first + i, row, column] * weight[o, i, a, b]
    return y


@conv_transpose2d.reference
def _(
    x: Array,
    weight: Array,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    fixed: bool = False,
) -> Array:
    (sh, sw), (ph, pw), (dh, dw) = conv_geometry(stride, padding, dilation)
    size = check_conv_transpose(
        x, weight, bias, (sh, sw), (ph, pw), output_padding, groups, (dh, dw)
    )
    (N, I, H, W), (_, per_group, kh, kw) = x.shape, weight.shape
    y = np.zeros((N, per_group * groups, *size), x.dtype)
    for n, i, p, q in np.ndindex(N, I, H, W):
        first = i // (I // groups) * per_group  # the first output channel of i's group
        for o, a, b in np.ndindex(per_group, kh, kw):
            row, column = sh * p + dh * a - ph, sw * q + dw * b - pw
            if 0 <= row < size[0] and 0 <= column < size[1]:
                y[n, first + o, row, column] += x[n, i, p, q] * weight[i, o, a, b]
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


@conv2d_weight.reference
def _(
    x: Array,
    g: Array,
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    (sh, sw), (ph, pw), (dh, dw) = conv_geometry(stride, padding, dilation)
    (N, C, H, W), (_, O, height, width) = x.shape, g.shape
    I = C // groups
    w = np.zeros((O, I, *pair(kernel_size, "kernel_size", least=1)), x.dtype)
    for o, i, a, b in np.ndindex(w.shape):
        channel = o // (O // groups) * I + i
        for n, p, q in np.ndindex(N, height, width):
            row, column = sh * p + dh * a - ph, sw * q + dw * b - pw
            if 0 <= row < H and 0 <= column < W:
                w[o, i, a, b] += x[n, channel, row, column] * g[n, o, p, q]
    return w


# label, x (N, C, H, W), outputs, kernel, stride, padding, dilation, groups
GEOMETRIES: list[tuple[str, tuple[int, ...], int, Any, Any, Any, Any, int]] = [
    ("3x3, same size", (2, 3, 5, 4), 2, 3, 1, 1, 1, 1),
    ("1x1", (2, 3, 3, 4), 4, 1, 1, 0, 1, 1),
    ("1x1, padded", (1, 2, 3, 3), 2, 1, 1, 1, 1, 1),
    ("stride larger than kernel", (1, 2, 7, 8), 2, 2, 3, 0, 1, 1),
    ("all different", (1, 2, 6, 7), 3, (3, 2), (2, 1), (0, 1), (1, 2), 1),
    ("two groups", (2, 4, 5, 5), 6, 3, 1, 1, 1, 2),
    ("depthwise, stride 2", (1, 3, 6, 5), 3, 2, 2, 1, 1, 3),
    ("padding beyond the kernel", (1, 1, 2, 3), 2, 3, 1, 4, 1, 1),
    ("pixels left over", (1, 1, 6, 6), 1, 3, 4, 0, 1, 1),
    ("dilated", (1, 2, 7, 6), 2, 3, 1, 2, 2, 1),
    ("dilated, with a stride", (1, 1, 9, 8), 1, 2, 2, 0, 3, 1),
    ("one pixel", (1, 2, 1, 1), 2, 1, 1, 0, 1, 1),
    ("no image at all", (0, 2, 3, 3), 2, 3, 1, 1, 1, 1),
]


def _draw(rng: np.random.Generator, geometry: Any) -> tuple[str, Any, Any, Any, dict[str, Any]]:
    """Return label, x, weight, an output-sized array, and the plain arguments."""
    label, shape, O, kernel, stride, padding, dilation, groups = geometry
    weight = rng.normal(size=(O, shape[1] // groups, *pair(kernel, "kernel", least=1)))
    plain = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    (s, p, d), (N, _, *size) = conv_geometry(stride, padding, dilation), shape
    output = [conv_size(n, *rest) for n, *rest in zip(size, weight.shape[2:], s, p, d, strict=True)]
    return label, rng.normal(size=shape), weight, rng.normal(size=(N, O, *output)), plain


@conv2d.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for geometry in GEOMETRIES:
        label, x, weight, _, plain = _draw(rng, geometry)
        yield label, {"x": x, "weight": weight, **plain}
    label, x, weight, _, plain = _draw(rng, GEOMETRIES[0])
    yield "with bias", {"x": x, "weight": weight, "bias": rng.normal(size=2), **plain}
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    yield "channels-last memory", {"x": last, "weight": weight, **plain}
    for label, weight in _enlarging(rng):
        x = rng.normal(size=(1, 2, 8, 7))
        yield label, {"x": x, "weight": weight, "stride": 2, "padding": 1, "fixed": True}


@conv_transpose2d.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for geometry in GEOMETRIES:
        label, x, weight, y, plain = _draw(rng, geometry)
        s, p, d = conv_geometry(plain["stride"], plain["padding"], plain["dilation"])
        rest = _output_padding(x.shape, y.shape, weight.shape, s, p, d)
        yield label, {"x": y, "weight": weight, "output_padding": rest, **plain}
    weight = rng.normal(size=(2, 3, 4, 4))
    x, bias = rng.normal(size=(1, 2, 3, 2)), rng.normal(size=3)
    yield (
        "upsampling, with bias",
        {"x": x, "weight": weight, "bias": bias, "stride": 2, "padding": 1},
    )
    for label, weight in _enlarging(rng):
        x = rng.normal(size=(1, 2, 3, 4))
        yield label, {"x": x, "weight": weight, "stride": 2, "padding": 1, "fixed": True}


def _enlarging(rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield weights that may be fixed: of bilinear upsampling by 2, and another one."""
    tent = np.array([0.25, 0.75, 0.75, 0.25])
    # (2, 2, 1, 1) · (4, 4) -> (2, 2, 4, 4)
    yield "fixed, bilinear", np.eye(2)[:, :, None, None] * np.outer(tent, tent)
    yield "fixed, not bilinear", rng.normal(size=(2, 2, 4, 4))


@conv2d_weight.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for geometry in GEOMETRIES:
        label, x, weight, g, plain = _draw(rng, geometry)
        yield label, {"x": x, "g": g, "kernel_size": weight.shape[2:], **plain}
