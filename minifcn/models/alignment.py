"""Where the scores of an FCN lie over the image: upsampling kernels and crops, without any weights.

Nothing is typed in here that could be derived: a crop's offset, 19 or 5 or 31 in the released nets,
is the distance between the places at which two chains of layers have their first pixel (see
`minifcn.shapes.CoordinateMap`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .. import nn
from ..shapes import CoordinateMap, Pair, ShapeError, conv_transpose_size
from .geometry import ModelError, coordinate_map, output_size

LARGER_THAN = 32  # pixels: the images that `smallest_padding` makes fit, for a net of stride 32


class Skip(NamedTuple):
    """One skip: the scores so far are upsampled by two and the tapped layer's are added."""

    tap: str  # the layer whose output is scored, such as pool4
    upsample: str  # the layers' names in the released nets
    score: str
    kernel: int  # of the upsampling
    scale: float  # the tapped activations are multiplied with this ("at once")
    offset: Pair  # where the larger of the two starts over the other
    crop_finer: bool  # whether the tapped scores are the larger (or the upsampled ones)

    @property
    def starts(self) -> tuple[Pair, Pair]:
        """Where the part that both have begins in the upsampled scores, and in the tapped ones."""
        return ((0, 0), self.offset) if self.crop_finer else (self.offset, (0, 0))


class Alignment(NamedTuple):
    """How the scores of a trunk are brought to the image: skips, the last upsampling, the crop."""

    skips: tuple[Skip, ...]
    upsample: str  # the last layer's name
    kernel: int
    offset: Pair  # where the image starts in what the last layer puts out


class AxisMaps(NamedTuple):
    """Coordinate maps of the two axes of an image."""

    vertical: CoordinateMap
    horizontal: CoordinateMap

    @classmethod
    def of(cls, layers: Iterable[nn.Module]) -> AxisMaps:
        """Return where the outputs of a chain of layers sit in its input."""
        chain = list(layers)
        return cls(coordinate_map(chain, axis=0), coordinate_map(chain, axis=1))

    def offset(self, reference: AxisMaps, name: str) -> Pair:
        """Return which row and column here lie over the reference's first ones."""
        return (
            self.vertical.offset(reference.vertical, name),
            self.horizontal.offset(reference.horizontal, name),
        )

    def upsampled(self, factor: int, target: AxisMaps, name: str) -> tuple[AxisMaps, int]:
        """Return where a bilinear upsampling of this sits, and the size of its kernel.

        The released nets use kernels of 2·factor. Where that puts the output half a pixel beside
        what it must be aligned with (AlexNet), 2·factor - 1 is right; so both are tried in this
        order.
        """
        for kernel in (2 * factor, 2 * factor - 1):
            step = CoordinateMap.conv_transpose(kernel, factor)
            there = AxisMaps(self.vertical >> step, self.horizontal >> step)
            try:
                there.offset(target, name)
                break
            except ShapeError:
                if kernel % 2:
                    raise
        return there, kernel


IMAGE = AxisMaps(CoordinateMap(), CoordinateMap())


def align(
    layers: Mapping[str, nn.Module],
    taps: Mapping[int, tuple[str, int]],
    stride: int,
    scales: Mapping[int, float],
) -> Alignment:
    """Return how the scores behind a trunk's layers are brought to the image.

    Parameters
    ----------
    layers, taps
        Of the `Trunk`.
    stride
        Of the finest scores: 32, 16 or 8.
    scales
        The factors on the tapped activations, by stride.

    Raises
    ------
    ModelError
        If there is no layer to tap at a stride.
    ShapeError
        If the pixels cannot be aligned by whole pixels, or would be missing at the start.
    """
    here = AxisMaps.of(layers.values())  # where the pixels of the scores so far sit in the image
    skips, upsample = [], "upscore2"
    for finer in (16, 8):
        if finer < stride:
            break
        if finer not in taps:
            raise ModelError(f"the trunk has no layer of stride {finer}: a skip needs one")
        tap, _ = taps[finer]
        tapped = AxisMaps.of(up_to(layers, tap))
        here, kernel = here.upsampled(2, tapped, upsample)
        offset = tapped.offset(here, upsample)
        if min(offset) < 0 < max(offset):
            rule = "one axis of the tapped scores would be cropped, and the other of the sums"
            raise ModelError(f"{upsample}: offset {offset}: {rule}; pad both axes alike")
        crop_finer = min(offset) >= 0  # else the upsampled scores start before the finer ones
        over = (abs(offset[0]), abs(offset[1]))
        scale = scales.get(finer, 1.0)
        skips.append(Skip(tap, upsample, f"score_{tap}", kernel, scale, over, crop_finer))
        here = here if crop_finer else tapped
        upsample = f"upscore_{tap}"
    last = "upscore" if stride == 32 else f"upscore{stride}"
    here, kernel = here.upsampled(stride, IMAGE, last)
    start = (
        here.vertical.crop_offset(IMAGE.vertical, "crop of the scores"),
        here.horizontal.crop_offset(IMAGE.horizontal, "crop of the scores"),
    )
    return Alignment(tuple(skips), last, kernel, start)


def covered(
    layers: Mapping[str, nn.Module], alignment: Alignment, stride: int, n: int, axis: int
) -> int:
    """Return of how many of n rows (or columns) a net has scores: at most n, 0 if it has none."""
    sizes: dict[str, int] = {}
    size = n
    for name, layer in layers.items():
        size = output_size([layer], size, axis)
        sizes[name] = size
        if size < 1:
            return 0
    for skip in alignment.skips:
        up, finer = conv_transpose_size(size, skip.kernel, 2, 0, 0, 1), sizes[skip.tap]
        over, under = skip.starts
        size = min(up - over[axis], finer - under[axis])
        if size < 1:
            return 0
    whole = conv_transpose_size(size, alignment.kernel, stride, 0, 0, 1)
    return max(0, min(n, whole - alignment.offset[axis]))


def least_size(
    layers: Mapping[str, nn.Module], alignment: Alignment, stride: int, axis: int, start: int = 1
) -> int | None:
    """Return the number of pixels from which on a net has scores for all; None if there is none.

    From one size to another 32 pixels larger, all layers' sizes grow by their share of 32 pixels:
    so 32 sizes that fit, one after the other, tell that all larger ones fit.
    """
    run = 0
    for n in range(start, start + 1000):
        run = run + 1 if covered(layers, alignment, stride, n, axis) == n else 0
        if run == 32:
            return n - 31
    return None


def smallest_padding(
    layers: Mapping[str, nn.Module], taps: Mapping[int, tuple[str, int]], stride: int
) -> int:
    """Return the least padding of the first layer that fits every image above 32 x 32 pixels.

    The released nets pad by 100, which fits even one pixel, and computes 1.9 times as many pixels
    as a 500 x 500 image has. With less padding the scores start nearer to the image's edge: the
    crop's offset shrinks by one for each pixel, and must not fall below zero.

    Raises
    ------
    ModelError
        If no padding up to 200 fits.

    Examples
    --------
    >>> from minifcn import models
    >>> narrow = models.vgg_trunk(((1, 1), (1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)), 1)
    >>> [smallest_padding(narrow.layers, narrow.taps, stride) for stride in (32, 16, 8)]
    [81, 81, 81]
    """
    first = next(iter(layers.values()))
    assert isinstance(first, nn.Conv2d)
    before = first.padding
    try:
        for padding in range(201):
            first.padding = (padding, padding)
            try:
                found = align(layers, taps, stride, {})
            except ShapeError:
                continue
            least = [least_size(layers, found, stride, axis, LARGER_THAN + 1) for axis in (0, 1)]
            if least == [LARGER_THAN + 1] * 2:
                return padding
    finally:
        first.padding = before
    raise ModelError("no padding of the first layer up to 200 makes the scores fit")


def up_to(layers: Mapping[str, nn.Module], last: str) -> list[nn.Module]:
    """Return the layers from the first to the one of that name."""
    names = list(layers)
    return [layers[name] for name in names[: names.index(last) + 1]]
