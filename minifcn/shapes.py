"""Sizes and coordinates: how large an output is, and which input pixel an output pixel sees.

Everything here is arithmetic on numbers; no array is touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from .backend import Error

Pair: TypeAlias = tuple[int, int]
AXES = {1: "N", 2: "N, C", 3: "N, H, W", 4: "N, C, H, W"}


class ShapeError(Error, ValueError):
    """Arrays whose sizes do not fit the operation."""


def shape_error(operation: str, rule: str, fix: str = "", **arrays: Any) -> ShapeError:
    """Return an error that names what was given, the rule that it breaks, and a likely fix.

    ``arrays`` are arrays, tensors or shapes, under the names of the arguments.

    >>> print(shape_error("crop", "35 rows are less than 40", "crop less", x=(1, 3, 35, 35)))
    crop: 35 rows are less than 40. Given: x of shape (1, 3, 35, 35). Try: crop less
    """
    given = ", ".join(f"{n} of shape {tuple(getattr(a, 'shape', a))}" for n, a in arrays.items())
    return ShapeError(
        f"{operation}: {rule}"
        + (f". Given: {given}" if given else "")
        + (f". Try: {fix}" * (fix != ""))
    )


def pair(value: int | tuple[int, int] | list[int], name: str, least: int) -> Pair:
    """Return a number as (vertical, horizontal); a pair stays a pair. Checks both.

    >>> pair(3, "stride", least=1)
    (3, 3)
    """
    if type(value) is tuple and [type(v) for v in value] == [int, int] and min(value) >= least:
        return value  # as nearly always: layers keep their settings as pairs
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    whole = all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in both)
    if len(both) != 2 or not whole or min(both) < least:
        raise ShapeError(f"{name}={value!r} must be one or two whole numbers of at least {least}")
    return int(both[0]), int(both[1])


def conv_size(n: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Return the outputs along one axis of a convolution: floor((n + 2p - d(k-1) - 1) / s) + 1.

    >>> conv_size(224, kernel=3, padding=1)
    224
    """
    return (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def pool_size(
    n: int, kernel: int, stride: int, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Return the outputs along one axis of a pooling layer.

    With ``ceil_mode``, Caffe's and PyTorch's rule: round up, so that the last window may hang over
    the edge, but drop a window that would start in the padding behind the last pixel.

    >>> pool_size(375, kernel=2, stride=2), pool_size(375, kernel=2, stride=2, ceil_mode=True)
    (187, 188)
    """
    reach = n + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return reach // stride + 1
    size = -(-reach // stride) + 1
    return size - 1 if (size - 1) * stride >= n + padding else size


def conv_transpose_size(
    n: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
) -> int:
    """Return the outputs along one axis: s (n - 1) + d (k - 1) + 1 - 2p + output_padding.

    >>> conv_transpose_size(16, kernel=64, stride=32)
    544
    """
    return stride * (n - 1) + dilation * (kernel - 1) + 1 - 2 * padding + output_padding


def conv_geometry(stride: Any, padding: Any, dilation: Any) -> tuple[Pair, Pair, Pair]:
    """Return the three as pairs, checked."""
    strides = pair(stride, "stride", least=1)
    return strides, pair(padding, "padding", least=0), pair(dilation, "dilation", least=1)


def check_conv(
    name: str,
    x: Any,
    weight: Any,
    bias: Any,
    groups: int,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> None:
    """Raise a ShapeError unless a convolution of these arrays makes sense."""
    given = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    if x.ndim != 4 or weight.ndim != 4:
        rule = "x must be (N, C, H, W) and weight (O, C/groups, kh, kw)"
        raise shape_error(name, rule, "x[None] if it is one image", **given)
    (_, C, H, W), (O, I, kh, kw) = x.shape, weight.shape
    if groups < 1 or C != I * groups or O % groups:
        rule = f"C={C} must be I·groups = {I}·{groups}, and O={O} a multiple of groups"
        raise shape_error(name, rule, "was an image read with 4 channels, or as grey?", **given)
    if min(weight.shape) < 1:
        raise shape_error(name, "the weight must hold at least one number", **given)
    if bias is not None and bias.shape != (O,):
        raise shape_error(name, f"bias must be ({O},), one number per output channel", **given)
    sizes = [
        conv_size(n, *rest)
        for n, *rest in zip((H, W), (kh, kw), stride, padding, dilation, strict=True)
    ]
    if min(sizes) < 1:
        rule = f"a {kh} x {kw} kernel with dilation {dilation} does not fit into {H} x {W} pixels"
        rule += f" with padding {padding}: the output would be {sizes[0]} x {sizes[1]}"
        raise shape_error(name, rule, "a larger image or more padding", **given)


def check_conv_transpose(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Pair,
    padding: Pair,
    output_padding: Any,
    groups: int,
    dilation: Pair,
) -> Pair:
    """Return the size of the output, after checking that all fits."""
    name, given = "conv_transpose2d", {"x": x, "weight": weight}
    if x.ndim != 4 or weight.ndim != 4:
        raise shape_error(name, "x must be (N, I, H, W), weight (I, O/groups, kh, kw)", **given)
    (_, C, H, W), (I, per_group, kh, kw) = x.shape, weight.shape
    if groups < 1 or C != I or I % groups:
        rule = f"x has {C} channels, weight takes {I}; both must be equal, a multiple of {groups}"
        raise shape_error(name, rule, "the weight's first axis is the input channel here", **given)
    if min(weight.shape) < 1:
        raise shape_error(name, "the weight must hold at least one number", **given)
    if bias is not None and bias.shape != (per_group * groups,):
        rule = f"bias must be ({per_group * groups},), one number per output channel"
        raise shape_error(name, rule, bias=bias, **given)
    rest = pair(output_padding, "output_padding", least=0)
    if any(r >= max(s, d) for r, s, d in zip(rest, stride, dilation, strict=True)):
        raise ShapeError(f"{name}: output_padding={rest} must be less than stride or dilation")
    size = tuple(
        conv_transpose_size(*of)
        for of in zip((H, W), (kh, kw), stride, padding, rest, dilation, strict=True)
    )
    if min(size) < 1:
        rule = f"padding {padding} crops the output to {size[0]} x {size[1]}"
        raise shape_error(name, rule, "less padding", **given)
    return size[0], size[1]


def check_conv_weight(
    x: Any, g: Any, kernel: Pair, groups: int, stride: Pair, padding: Pair, dilation: Pair
) -> None:
    """Raise a ShapeError unless g can be the gradient of a convolution of x, or a part of it."""
    name, given = "conv2d_weight", {"x": x, "g": g}
    if x.ndim != 4 or g.ndim != 4:
        raise shape_error(name, "x must be (N, C, H, W) and g (N, O, Ho, Wo)", **given)
    if groups < 1 or x.shape[1] % groups or g.shape[1] % groups or len(x) != len(g):
        rule = f"x and g need the same N, and channels that are multiples of groups={groups}"
        raise shape_error(name, rule, **given)
    sizes = [
        conv_size(n, *rest)
        for n, *rest in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    ]
    if any(n > size for n, size in zip(g.shape[2:], sizes, strict=True)):
        rule = f"a convolution of x has {sizes[0]} x {sizes[1]} outputs at most"
        raise shape_error(name, rule, **given)


@dataclass(frozen=True)
class CoordinateMap:
    """Where an output pixel sits in the input: input = scale * output + shift, along one axis.

    A convolution or pooling layer puts output o over the middle of its window, at
    s·o + d(k-1)/2 - p. A transposed convolution is the inverse map. ``a >> b`` is layer a, then
    layer b: an output of b sits at a's map of b's map. These maps are what the crop offsets 19, 27
    and 31 of the published nets come from (Caffe's coord_map.py does the same).

    >>> pool = CoordinateMap.conv(kernel=2, stride=2)
    >>> (pool >> pool).scale, (pool >> pool).shift
    (Fraction(4, 1), Fraction(3, 2))
    """

    scale: Fraction = Fraction(1)
    shift: Fraction = Fraction(0)

    @classmethod
    def conv(
        cls, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> CoordinateMap:
        """Return the map of a convolution or a pooling layer."""
        return cls(Fraction(stride), Fraction(dilation * (kernel - 1), 2) - padding)

    @classmethod
    def conv_transpose(
        cls, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> CoordinateMap:
        """Return the map of a transposed convolution: that of the convolution, inverted."""
        return cls.conv(kernel, stride, padding, dilation).inverse()

    def __rshift__(self, after: CoordinateMap) -> CoordinateMap:
        return CoordinateMap(self.scale * after.scale, self.scale * after.shift + self.shift)

    def inverse(self) -> CoordinateMap:
        """Return the map from input to output."""
        return CoordinateMap(1 / self.scale, -self.shift / self.scale)

    def offset(self, reference: CoordinateMap, name: str = "crop") -> int:
        """Return which pixel of this map lies over the reference's first; it may be negative.

        Both maps lead back to one common input. Output o of this map lies where the reference has
        its pixel scale·o + shift; at scale 1 that is the reference's first pixel if o = -shift.

        Raises
        ------
        ShapeError
            If the strides differ, or if the first pixels lie a fraction of a pixel apart.
        """
        between = reference.inverse() >> self
        if between.scale != 1:
            raise ShapeError(
                f"{name}: one pixel's step here is {between.scale} steps of the reference: the "
                "strides must multiply to the same; change the upsampling, or where the skip starts"
            )
        if between.shift.denominator != 1:
            raise ShapeError(
                f"{name}: the offset would be {float(-between.shift)} pixels, not a whole number: "
                "an upsampling kernel of the other parity (63 in place of 64) moves by a half"
            )
        return -int(between.shift)

    def crop_offset(self, reference: CoordinateMap, name: str = "crop") -> int:
        """Return how many leading pixels to drop to lie over the reference: `offset`, not below 0.

        Raises
        ------
        ShapeError
            As `offset`, and if pixels are missing at the start.
        """
        offset = self.offset(reference, name)
        if offset < 0:
            rows = "1 row is" if offset == -1 else f"{-offset} rows are"
            raise ShapeError(
                f"{name}: {rows} missing before the reference's first: give the first layer more "
                "padding"
            )
        return offset


def receptive_field(layers: Iterable[tuple[int, int]]) -> int:
    """Return how many input pixels across one output of a chain of (kernel, stride) layers sees.

    r grows by (k - 1) times the product of the strides before.

    >>> receptive_field([(3, 1), (3, 1), (2, 2)])
    6
    """
    field, step = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * step
        step *= stride
    return field
