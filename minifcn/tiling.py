"""Large images in tiles: the net sees a part at a time, and the scores are those of the whole.

A tile's scores are wrong near an edge that was cut: there the net sees zeros where the image goes
on. How far that reaches is followed through all layers here, so that tiles overlap by just that
much. And a tile must start where all layers' grids have a line: pooling by two, five times over,
has one every 32 pixels.

**To the bit.** `minifcn.kernels.winograd` computes bands of four rows, each band from six rows. A
row sees three of them; two more cancel out in it, but not their rounding. So these count as seen
too, and tiles start where all layers' bands do: every 128 pixels if rows are 32 pixels apart.
`minifcn.kernels.winograd2d`, for layers of many channels, does the same with columns. Then tiles
and whole image go through the same arithmetic, but for two things. Few pixels are computed by other
algorithms than many; tiles are chosen to be large enough, if the memory is. And a BLAS may add up a
row of a matrix product in another order if it stands in another place (OpenBLAS with its kernels
for AVX2) or among fewer rows (all of them, now and then). Then scores differ by about a millionth
of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from .backend import Error
from .flow import IMAGE, algorithm, outputs, shapes, steps
from .kernels import winograd
from .kernels.conv import is_wide
from .memory import available, inference
from .models import FCN
from .nn import (
    AvgPool2d,
    Branches,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    LocalResponseNorm,
    MaxPool2d,
    Module,
    ReLU,
)

TileSize: TypeAlias = int | Literal["auto"] | None


class Range(NamedTuple):
    """Some rows or columns of an array: those from the first to the last."""

    first: int
    last: int


# The rows of the input that the rows of a band are computed from, first to last.
FELT = [
    Range(int(rows[0]), int(rows[-1]))
    for rows in map(np.flatnonzero, (winograd.A != 0) @ (winograd.B != 0))
]
POINTWISE = (Branches, Dropout, LocalResponseNorm, ReLU, type(None))  # None: a sum


class TilingError(Error, ValueError):
    """A tile that is too small for a net, or a net that cannot be used in tiles."""


class Span(NamedTuple):
    """Along one axis of the image: the pixels that the net sees, and those that are kept."""

    start: int
    stop: int
    first: int  # of the kept ones
    end: int  # behind the last kept one

    @property
    def size(self) -> int:
        """How many pixels the net sees."""
        return self.stop - self.start

    @property
    def seen(self) -> slice:
        """What is cut out of the image."""
        return slice(self.start, self.stop)

    @property
    def kept(self) -> slice:
        """Where the result belongs in the image."""
        return slice(self.first, self.end)

    @property
    def inner(self) -> slice:
        """Where the kept pixels lie in what is seen."""
        return slice(self.first - self.start, self.end - self.start)


class Tile(NamedTuple):
    """A part of the image."""

    rows: Span
    columns: Span


class Margins(NamedTuple):
    """What must be known of a net to cut images for it, along one axis, in pixels."""

    step: int  # tiles start at multiples of this
    before: int  # so many pixels behind a cut edge are wrong
    after: int  # and so many before one, if the tile's size is a multiple of step

    @property
    def overlap(self) -> int:
        """The pixels of a tile, beside the kept ones, rounded up to whole steps."""
        return -(-(self.before + self.after) // self.step) * self.step

    @property
    def smallest(self) -> int:
        """The pixels of the smallest tile, unless the image has fewer."""
        return self.overlap + self.step


def margins(net: FCN, axis: int) -> Margins:
    """Return how a net's tiles must overlap from top to bottom (axis 0) or left to right (axis 1).

    Raises
    ------
    TilingError
        If the net has a layer of which this is not known.

    Examples
    --------
    >>> from minifcn import models
    >>> margins(models.fcn8s(4, "small"), axis=1)
    Margins(step=32, before=124, after=124)
    """
    step = grid(net, axis)
    length = step  # of a tile that has right pixels in it
    while (right := right_part(net, length, axis)).first > right.last:
        length *= 2
    return Margins(step, right.first, length - 1 - right.last)


def grid(net: FCN, axis: int) -> int:
    """Return the distance in pixels between starts that leave all layers' grids in step."""
    strides, line = {IMAGE: 1}, 1
    for step in steps(net):
        stride = strides[step.reads[0].array]  # arrays that are put together have equal strides
        if isinstance(step.layer, ConvTranspose2d):
            stride //= step.layer.stride[axis]
        elif isinstance(step.layer, Conv2d | MaxPool2d | AvgPool2d):
            line = math.lcm(line, stride * len(_windows(step.layer, axis)))
            stride *= step.layer.stride[axis]
        line = math.lcm(line, stride)
        strides[step.name] = stride
    return line


def right_part(net: FCN, length: int, axis: int) -> Range:
    """Return which scores of a tile of this length are right, if both its edges were cut."""
    found = {IMAGE: Range(0, length - 1)}
    for step in steps(net):
        ranges = [
            Range(found[array].first - offset[axis], found[array].last - offset[axis])
            for array, offset in step.reads
        ]
        both = Range(max(r.first for r in ranges), min(r.last for r in ranges))
        found[step.name] = _through(step.layer, both, axis)
    scores, offset = [found[name] for name in outputs(net)], net.offset[axis]
    return Range(max(s.first for s in scores) - offset, min(s.last for s in scores) - offset)


def _through(layer: Module | None, x: Range, axis: int) -> Range:
    """Return which outputs of a layer see none but right inputs."""
    if isinstance(layer, POINTWISE):
        return x
    if not isinstance(layer, Conv2d | ConvTranspose2d | MaxPool2d | AvgPool2d):
        raise TilingError(f"{layer!r}: it is not known how far this layer looks, so use no tiles")
    stride, padding = layer.stride[axis], layer.padding[axis]
    dilation = getattr(layer, "dilation", (1, 1))[axis]  # average pooling has none
    reach = dilation * (layer.kernel_size[axis] - 1)
    if isinstance(layer, ConvTranspose2d):
        # Output o sees inputs from (o + padding - reach) / stride to (o + padding) / stride.
        return Range(
            stride * (x.first - 1) + reach + 1 - padding, stride * (x.last + 1) - 1 - padding
        )
    seen = _windows(layer, axis)
    period = len(seen)

    def window(o: int) -> Range:
        start = o // period * period * stride - padding
        return Range(start + seen[o % period].first, start + seen[o % period].last)

    first, last = (n // stride + padding + reach + period for n in x)  # more than enough
    while window(first - 1).first >= x.first:
        first -= 1
    while window(last).last > x.last:
        last -= 1
    return Range(first, last)


def _windows(layer: Conv2d | MaxPool2d | AvgPool2d, axis: int) -> list[Range]:
    """Return the first and last input that an output sees, from the start of its window on.

    For several outputs, if they differ: the pattern then repeats, as in a band of Winograd's rows.
    """
    dilation = getattr(layer, "dilation", (1, 1))  # average pooling has none
    if isinstance(layer, Conv2d) and layer.kernel_size == (3, 3) and layer.groups == 1:
        by_four = axis == 0 or is_wide(layer.weight.shape)
        if by_four and layer.stride == dilation == (1, 1):
            return FELT
    return [Range(0, dilation[axis] * (layer.kernel_size[axis] - 1))]


def spans(length: int, pitch: int, m: Margins) -> list[Span]:
    """Cut an axis into overlapping spans, all as large as ``pitch`` and the overlap together.

    They start ``pitch`` pixels apart; the last one starts where it ends with the axis (or less than
    a step behind).

    >>> for span in spans(length=300, pitch=64, m=Margins(step=32, before=20, after=40)):
    ...     print(*span)
    0 128 0 84
    64 192 84 148
    128 256 148 212
    192 300 212 300
    """
    size = pitch + m.overlap
    if length <= size:
        return [Span(0, length, 0, length)]
    starts = [*range(0, length - size, pitch), -(-(length - size) // m.step) * m.step]
    borders = [0, *(start + m.before for start in starts[1:]), length]
    return [
        Span(start, min(start + size, length), first, end)
        for start, first, end in zip(starts, borders, borders[1:], strict=False)
    ]


def cut(model: Module, height: int, width: int, tile: TileSize = "auto") -> list[Tile]:
    """Return the parts of an image that a net is to see one after the other.

    Parameters
    ----------
    model
        The net, on the device where it will compute.
    height, width
        Of the image.
    tile
        ``"auto"``: the whole image, or tiles, if else the net would need more than half of the
        memory that is free. A number: tiles of so many pixels a side at most. None: the whole image
        in any case.

    Raises
    ------
    TilingError
        If the tiles of this net must be larger than ``tile``, or if it cannot be used in tiles.

    Examples
    --------
    >>> from minifcn import models
    >>> len(cut(models.fcn8s(4, "small"), 2000, 3000, tile=1500))
    6
    """
    if tile is None or (tile == "auto" and not isinstance(model, FCN)):
        return _whole(height, width)
    if not isinstance(model, FCN):
        raise TilingError(f"tile={tile}: only an FCN can be used in tiles, not {type(model)}")
    if tile == "auto":
        free = available(next(iter(model.parameters())).data)
        if free is None:
            return _whole(height, width)
        return tiles(model, height, width, lambda h, w: inference(model, h, w).extra <= free / 2)
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise TilingError(f"tile={tile!r} must be 'auto', None or a number of pixels")
    found = tiles(model, height, width, lambda h, w: max(h, w) <= tile)
    rows, columns = found[0]
    if max(rows.size, columns.size) > tile:
        high, wide = margins(model, 0), margins(model, 1)
        raise TilingError(
            f"tile={tile} is too small for this net: its tiles overlap by {high.overlap} rows and "
            f"{wide.overlap} columns, so for an image of {height} x {width} pixels (height x "
            f"width) they must have at least {rows.size} x {columns.size}"
        )
    return found


def tiles(net: FCN, height: int, width: int, fits: Callable[[int, int], bool]) -> list[Tile]:
    """Cut an image into tiles that fit: of all ways, the one with the fewest pixels to compute.

    Tiles that are large enough for the algorithms that compute the whole image go before others.

    Parameters
    ----------
    net
        The net that is to see the tiles.
    height, width
        Of the image.
    fits
        Tells whether a tile of some height and width fits.

    Returns
    -------
    list of Tile
        Row by row, the largest first. If not even the smallest possible tiles fit, those.

    Raises
    ------
    TilingError
        If the net has a layer of which it is not known how far it looks.

    Examples
    --------
    >>> from minifcn import models
    >>> net = models.fcn8s(4, "small")
    >>> [tile.columns.kept for tile in tiles(net, 500, 1000, lambda h, w: h * w < 400_000)]
    [slice(0, 508, None), slice(508, 1000, None)]
    """
    if fits(height, width):
        return _whole(height, width)
    rows, columns = (_cuts(n, margins(net, axis)) for axis, n in enumerate((height, width)))
    ways = sorted(product(rows, columns), key=lambda way: _pixels(way[0]) * _pixels(way[1]))
    wanted, chosen = _algorithms(net, height, width), None
    for way in ways:
        if fits(way[0][0].size, way[1][0].size):
            chosen = chosen or way
            if _algorithms(net, way[0][-1].size, way[1][-1].size) == wanted:
                chosen = way
                break
    chosen = chosen or min(ways, key=lambda way: way[0][0].size * way[1][0].size)
    return [Tile(*pair) for pair in product(*chosen)]


def _algorithms(net: FCN, height: int, width: int) -> list[str]:
    """Return what computes each convolution of an image."""
    sizes = shapes(net, height, width)
    return [
        algorithm(step.layer, sizes[step.reads[0].array], sizes[step.name])
        for step in steps(net)
        if isinstance(step.layer, Conv2d)
    ]


def _whole(height: int, width: int) -> list[Tile]:
    return [Tile(Span(0, height, 0, height), Span(0, width, 0, width))]


def _pixels(axis: list[Span]) -> int:
    return sum(span.size for span in axis)


def _cuts(length: int, m: Margins) -> list[list[Span]]:
    """Return the ways to cut an axis: for each number of spans, the one with the shortest."""
    found: dict[int, list[Span]] = {}
    for pitch in range(m.step, length + m.step, m.step):
        cut = spans(length, pitch, m)
        found.setdefault(len(cut), cut)
    return list(found.values())
