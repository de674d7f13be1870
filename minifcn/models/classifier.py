"""What all image classifiers share: the chain of named layers, its sizes, and the trunk of an FCN.

A classifier ends with fully connected layers, so it takes images of one size only. A trunk is the
same layers up to the last one before the scores, with fully connected layers as convolutions: it
takes images of any size. The files vgg.py, alexnet.py and googlenet.py make both from the same
functions; layers have the names of the published Caffe nets, with "/" written as "_".

All weights start as He et al. (2015) propose (`minifcn.nn.init`) and all biases at zero, in every
net. The published AlexNet and GoogLeNet were started otherwise: from normal numbers of deviation
0.01 (0.005 in fc6 and fc7) and from Xavier's, with positive biases. Narrow nets learn less from
those: after 200 steps on tiles of the bundled images, CaffeNet of width 0.125 named 0.55 of the
held-out tiles' classes rightly with He's start and 0.18, no more than the commonest class has, with
its own; GoogLeNet 0.55 to 0.60 and 0.33 to 0.41.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..shapes import shape_error
from .geometry import ModelError, output_size

HIDDEN = 4096  # channels of fc6 and fc7, in VGG16 and AlexNet


@dataclass
class Trunk:
    """The part of a classifier that an FCN is built on: everything before the scores.

    Attributes
    ----------
    layers
        Name (Caffe's) to layer, in the order of computation.
    channels
        What the last layer puts out.
    taps
        For a stride, the name of the layer with that stride that a skip starts from, and its
        channels: ``{16: ("pool4", 512), 8: ("pool3", 256)}``.
    """

    layers: dict[str, nn.Module]
    channels: int
    taps: dict[int, tuple[str, int]]


class Classifier(nn.Sequential):
    """A chain of named layers from images (N, 3, side, side) to class scores (N, num_classes).

    `minifcn.models.vgg16` and its like make one.

    Parameters
    ----------
    layers
        Name to layer, in the order of computation.
    model
        The name under which `minifcn.models.build` makes it.
    num_classes
        Number of classes, at least 2.
    image_size
        The side of the images in pixels.
    **options
        All other arguments of the function that makes it.

    Attributes
    ----------
    config
        Arguments with which `minifcn.models.build` makes a net like this one.

    Raises
    ------
    ShapeError
        When it is called with images of another size.

    Examples
    --------
    >>> from minifcn import models
    >>> net = models.vgg16(num_classes=5, width=0.125, image_size=64)
    >>> net(Tensor(np.zeros((2, 3, 64, 64), np.float32))).shape
    (2, 5)
    >>> net.config["model"], net.config["image_size"], list(net.chain())[:2]
    ('vgg16', 64, ['conv1_1', 'relu1_1'])
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        model: str,
        num_classes: int,
        image_size: int,
        **options: Any,
    ) -> None:
        self.num_classes, self.image_size = num_classes, image_size
        self.config = {"model": model, "num_classes": num_classes, "image_size": image_size}
        self.config |= options
        super().__init__(layers)

    def chain(self) -> dict[str, nn.Module]:
        """Return the layers from the image to the scores, by name, in the order of computation."""
        return dict(self.named_children())

    def check(self, x: Any) -> None:
        """Raise a ShapeError unless x, or its shape, is (N, C, image_size, image_size)."""
        side, shape = self.image_size, getattr(x, "shape", x)
        if len(shape) != 4 or shape[2:] != (side, side):
            rule = f"it takes images (N, C, {side}, {side})"
            fix = "images of that size; models.convolutionalize(net) serves all that are as large"
            raise shape_error(f"classifier {self.config['model']}", rule, fix, x=x)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class, (N, 3, image_size, image_size) to (N, num_classes)."""
        self.check(x)
        return super().forward(x)


def check_count(name: str, value: Any, least: int) -> None:
    """Raise a ModelError unless a value is a whole number, and large enough."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ModelError(f"{name}={value!r} must be a whole number of at least {least}")


def scaled(channels: int, width: float) -> int:
    """Return a number of channels times ``width``, as the nearest multiple of 8 (8 at least).

    >>> scaled(96, 1.0), scaled(96, 0.25), scaled(64, 0.1)
    (96, 24, 8)
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < np.inf:
        raise ModelError(f"width={width!r} must be a number above 0: 1 is the published net")
    return channels if width == 1 else max(8, 8 * round(channels * width / 8))


def side_after(layers: Mapping[str, nn.Module], image_size: int) -> int:
    """Return the side of the maps that layers make of square images.

    Raises
    ------
    ModelError
        If the images are so small that nothing is left of them; it names the layer.

    Examples
    --------
    >>> side_after({"conv1": nn.Conv2d(3, 8, 3), "pool1": nn.MaxPool2d(2)}, 10)
    4
    """
    check_count("image_size", image_size, least=1)
    sides = _sides(layers, image_size)
    if min(sides, default=1) < 1:
        at = next(i for i, side in enumerate(sides) if side < 1)
        name, layer = list(layers.items())[at]
        before = sides[at - 1] if at else image_size
        least = next(n for n in count(image_size + 1) if min(_sides(layers, n)) >= 1)
        raise ModelError(
            f"image_size={image_size} is too small: {before} x {before} pixels reach {name} "
            f"({layer!r}), which makes nothing of them. The least size is {least}"
        )
    return sides[-1] if sides else image_size


def _sides(layers: Mapping[str, nn.Module], n: int) -> list[int]:
    return [n := output_size([layer], n) for layer in layers.values()]


def fully_connected(
    channels: int, hidden: int, kernel: int, padding: int, dropout: float, rng: np.random.Generator
) -> dict[str, nn.Module]:
    """Return fc6 and fc7 as convolutions, each with its ReLU and dropout."""
    fc6 = nn.Conv2d(channels, hidden, kernel, padding=padding, rng=rng)
    return _hidden(fc6, nn.Conv2d(hidden, hidden, 1, rng=rng), dropout, rng)


def fully_connected_scores(
    maps: tuple[int, int], hidden: int, num_classes: int, dropout: float, rng: np.random.Generator
) -> dict[str, nn.Module]:
    """Return fc6, fc7 and fc8, which make class scores of ``maps`` = (channels, side)."""
    check_count("num_classes", num_classes, least=2)
    channels, side = maps
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}  # (N, C, H, W) -> (N, C*H*W)
    fc6 = nn.Linear(channels * side * side, hidden, rng=rng)
    layers |= _hidden(fc6, nn.Linear(hidden, hidden, rng=rng), dropout, rng)
    return layers | {"fc8": nn.Linear(hidden, num_classes, rng=rng)}


def _hidden(
    fc6: nn.Module, fc7: nn.Module, dropout: float, rng: np.random.Generator
) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    for name, layer in (("6", fc6), ("7", fc7)):
        layers[f"fc{name}"] = layer
        layers[f"relu{name}"] = nn.ReLU()
        layers[f"drop{name}"] = nn.Dropout(dropout, rng=rng)
    return layers
