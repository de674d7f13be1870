"""Where a chain of layers looks: sizes, receptive field and coordinates, without computing any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from .. import nn
from ..backend import Error
from ..shapes import CoordinateMap, conv_size, conv_transpose_size, pool_size, receptive_field

Answer = TypeVar("Answer")


class ModelError(Error, ValueError):
    """A net that cannot be built as asked for."""


def coordinate_map(layers: Iterable[nn.Module], axis: int = 0) -> CoordinateMap:
    """Return where output pixels of a chain of layers sit in its input, along one axis.

    Layers that work on single pixels (ReLU, dropout, normalisation) stay where they are.

    Raises
    ------
    ModelError
        If the chains of an `nn.Branches` put their pixels at different places.

    Examples
    --------
    >>> coordinate_map([nn.Conv2d(3, 8, 3, padding=100), nn.MaxPool2d(2)])
    CoordinateMap(scale=Fraction(2, 1), shift=Fraction(-197, 2))
    """
    total = CoordinateMap()
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            total = total >> coordinate_map(layer, axis)
        elif isinstance(layer, nn.Branches):
            maps = [coordinate_map(chain.values(), axis) for chain in layer.chains()]
            total = total >> _agreed(layer, maps, "pixels")
        elif isinstance(layer, nn.ConvTranspose2d):
            total = total >> CoordinateMap.conv_transpose(*_window(layer, axis))
        elif isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            total = total >> CoordinateMap.conv(*_window(layer, axis))
    return total


def output_size(layers: Iterable[nn.Module], n: int, axis: int = 0) -> int:
    """Return how many pixels a chain of layers makes of n along one axis.

    Raises
    ------
    ModelError
        If the chains of an `nn.Branches` make different numbers of pixels.

    Examples
    --------
    >>> output_size([nn.Conv2d(3, 8, 3, padding=100), nn.MaxPool2d(2, ceil_mode=True)], 500)
    349
    """
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            n = output_size(layer, n, axis)
        elif isinstance(layer, nn.Branches):
            sizes = [output_size(chain.values(), n, axis) for chain in layer.chains()]
            n = _agreed(layer, sizes, f"sizes for {n} pixels")
        elif isinstance(layer, nn.ConvTranspose2d):
            kernel, stride, padding, dilation = _window(layer, axis)
            rest = layer.output_padding[axis]
            n = conv_transpose_size(n, kernel, stride, padding, rest, dilation)
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            n = pool_size(n, *_window(layer, axis), layer.ceil_mode)
        elif isinstance(layer, nn.Conv2d):
            n = conv_size(n, *_window(layer, axis))
    return n


def receptive_field_of(layers: Iterable[nn.Module], axis: int = 0) -> int:
    """Return how many input pixels across one output pixel of a chain of layers sees.

    Of an `nn.Branches`, the chain that sees most counts.

    >>> receptive_field_of([nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3)])
    8
    """
    return receptive_field(_kernels_and_strides(layers, axis))


def _kernels_and_strides(layers: Iterable[nn.Module], axis: int) -> list[tuple[int, int]]:
    found = []
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            found += _kernels_and_strides(layer, axis)
        elif isinstance(layer, nn.Branches):
            # All chains have one stride and one centre, so the largest field holds the others.
            coordinate_map([layer], axis)
            chains = [_kernels_and_strides(chain.values(), axis) for chain in layer.chains()]
            found += max(chains, key=receptive_field)
        elif isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            kernel, stride, _, dilation = _window(layer, axis)
            found.append((dilation * (kernel - 1) + 1, stride))
    return found


def _agreed(layer: nn.Branches, answers: list[Answer], what: str) -> Answer:
    """Return what is the same for all chains of a layer; raise a ModelError if it is not."""
    if any(answer != answers[0] for answer in answers):
        chains = [f"({', '.join(chain)})" for chain in layer.chains()]
        listed = "; ".join(f"{c}: {a}" for c, a in zip(chains, answers, strict=True))
        raise ModelError(
            f"{type(layer).__name__}: the chains' outputs lie side by side as channels, but their "
            f"{what} differ: {listed}. Give all chains one stride, and a kernel k the padding "
            "(k - 1) / 2"
        )
    return answers[0]


def _window(layer: nn.Module, axis: int) -> tuple[int, int, int, int]:
    """Return kernel, stride, padding and dilation along one axis."""
    dilation = getattr(layer, "dilation", (1, 1))  # average pooling has none
    window = layer.kernel_size, layer.stride, layer.padding, dilation  # type: ignore[attr-defined]
    kernel, stride, padding, step = (both[axis] for both in window)
    return kernel, stride, padding, step
