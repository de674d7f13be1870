"""AlexNet (Krizhevsky, Sutskever and Hinton 2012) in three variants, as classifiers and trunks.

    alexnet              conv, ReLU, norm, pool: the paper's order; the second, fourth and fifth
                         convolution in two groups (they ran on two GPUs)
    caffenet             conv, ReLU, pool, norm: Caffe's reference net, on which FCN-AlexNet stands
    alexnet_torchvision  one group, no normalisation, fewer channels (Krizhevsky 2014)

One `Plan` each says all that differs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import nn
from .classifier import (
    HIDDEN,
    Classifier,
    Trunk,
    fully_connected,
    fully_connected_scores,
    scaled,
    side_after,
)


class Plan(NamedTuple):
    """How a variant of AlexNet is built."""

    name: str
    channels: tuple[int, int, int, int, int]  # of conv1 to conv5
    groups: tuple[int, int, int, int, int]
    after_relu: tuple[str, ...]  # what follows conv1 and conv2: "norm" and "pool", in this order
    padding: int  # of conv1 in the classifier
    image_size: int


ALEXNET = Plan("alexnet", (96, 256, 384, 384, 256), (1, 2, 1, 2, 2), ("norm", "pool"), 0, 227)
CAFFENET = ALEXNET._replace(name="caffenet", after_relu=("pool", "norm"))
TORCHVISION = Plan(
    "alexnet_torchvision", (64, 192, 384, 256, 256), (1, 1, 1, 1, 1), ("pool",), 2, 224
)


def alexnet(
    num_classes: int = 1000,
    *,
    width: float = 1.0,
    image_size: int = ALEXNET.image_size,
    dropout: float = 0.5,
    rng: np.random.Generator | None = None,
) -> Classifier:
    """Return the AlexNet classifier: images (N, 3, 227, 227) to scores (N, num_classes).

    60,965,224 parameters with 1000 classes. The arguments are those of `minifcn.models.vgg16`.

    >>> [name for name in alexnet(10, width=0.125, image_size=67).chain()][:4]
    ['conv1', 'relu1', 'norm1', 'pool1']
    """
    return _classifier(ALEXNET, num_classes, width, image_size, dropout, rng)


def caffenet(
    num_classes: int = 1000,
    *,
    width: float = 1.0,
    image_size: int = CAFFENET.image_size,
    dropout: float = 0.5,
    rng: np.random.Generator | None = None,
) -> Classifier:
    """Return Caffe's reference classifier: `alexnet` that pools first, and then normalises.

    As many parameters, but other numbers: the weights of one do not serve the other.

    >>> [name for name in caffenet(10, width=0.125, image_size=67).chain()][:4]
    ['conv1', 'relu1', 'pool1', 'norm1']
    """
    return _classifier(CAFFENET, num_classes, width, image_size, dropout, rng)


def alexnet_torchvision(
    num_classes: int = 1000,
    *,
    width: float = 1.0,
    image_size: int = TORCHVISION.image_size,
    dropout: float = 0.5,
    rng: np.random.Generator | None = None,
) -> Classifier:
    """Return torchvision's AlexNet: images (N, 3, 224, 224) to scores (N, num_classes).

    61,100,840 parameters with 1000 classes. Two things differ from torchvision: its dropout stands
    before fc6 and fc7, here it stands behind them; and it rounds sizes down in pooling, here they
    are rounded up, as in all nets (an FCN has scores for every pixel then). Neither changes the
    weights, nor what is computed of images of 224 pixels in evaluation.

    >>> [name for name in alexnet_torchvision(10, width=0.125, image_size=64).chain()][:4]
    ['conv1', 'relu1', 'pool1', 'conv2']
    """
    return _classifier(TORCHVISION, num_classes, width, image_size, dropout, rng)


def alexnet_trunk(
    *,
    width: float = 1.0,
    padding: int = 100,
    fc6_kernel: int = 6,
    fc6_padding: int = 0,
    dropout: float = 0.5,
    in_channels: int = 3,
    rng: np.random.Generator | None = None,
) -> Trunk:
    """Return AlexNet made fully convolutional; the arguments are those of `vgg_trunk`.

    >>> alexnet_trunk(width=0.125).taps
    {8: ('pool1', 16), 16: ('pool2', 32)}
    """
    return _trunk(ALEXNET, width, padding, (fc6_kernel, fc6_padding), dropout, in_channels, rng)


def caffenet_trunk(
    *,
    width: float = 1.0,
    padding: int = 100,
    fc6_kernel: int = 6,
    fc6_padding: int = 0,
    dropout: float = 0.5,
    in_channels: int = 3,
    rng: np.random.Generator | None = None,
) -> Trunk:
    """Return CaffeNet made fully convolutional: the trunk of the published FCN-AlexNet.

    >>> caffenet_trunk(width=0.125).taps
    {8: ('norm1', 16), 16: ('norm2', 32)}
    """
    return _trunk(CAFFENET, width, padding, (fc6_kernel, fc6_padding), dropout, in_channels, rng)


def alexnet_torchvision_trunk(
    *,
    width: float = 1.0,
    padding: int = 100,
    fc6_kernel: int = 6,
    fc6_padding: int = 0,
    dropout: float = 0.5,
    in_channels: int = 3,
    rng: np.random.Generator | None = None,
) -> Trunk:
    """Return torchvision's AlexNet made fully convolutional.

    >>> alexnet_torchvision_trunk(width=0.125).taps
    {8: ('pool1', 8), 16: ('pool2', 24)}
    """
    return _trunk(TORCHVISION, width, padding, (fc6_kernel, fc6_padding), dropout, in_channels, rng)


def _classifier(
    plan: Plan,
    num_classes: int,
    width: float,
    image_size: int,
    dropout: float,
    rng: np.random.Generator | None,
) -> Classifier:
    rng = rng or np.random.default_rng()
    layers, channels, _ = _convolutions(plan, width, plan.padding, 3, rng)
    maps = channels, side_after(layers, image_size)
    layers |= fully_connected_scores(maps, scaled(HIDDEN, width), num_classes, dropout, rng)
    return Classifier(layers, plan.name, num_classes, image_size, width=width, dropout=dropout)


def _trunk(
    plan: Plan,
    width: float,
    padding: int,
    fc6: tuple[int, int],
    dropout: float,
    in_channels: int,
    rng: np.random.Generator | None,
) -> Trunk:
    rng = rng or np.random.default_rng()
    layers, channels, taps = _convolutions(plan, width, padding, in_channels, rng)
    hidden = scaled(HIDDEN, width)
    layers |= fully_connected(channels, hidden, *fc6, dropout, rng)
    return Trunk(layers, hidden, taps)


def _convolutions(
    plan: Plan, width: float, padding: int, channels: int, rng: np.random.Generator
) -> tuple[dict[str, nn.Module], int, dict[int, tuple[str, int]]]:
    """Return the layers up to pool5, their channels, and the places to tap."""
    shapes = ((11, 4, padding), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
    layers: dict[str, nn.Module] = {}
    taps = {}
    for i, (kernel, stride, border) in enumerate(shapes, start=1):
        outputs, groups = scaled(plan.channels[i - 1], width), plan.groups[i - 1]
        layers[f"conv{i}"] = nn.Conv2d(
            channels, outputs, kernel, stride, border, groups=groups, rng=rng
        )
        layers[f"relu{i}"] = nn.ReLU()
        channels = outputs
        if i <= 2:
            for kind in plan.after_relu:
                layers[f"{kind}{i}"] = _pool() if kind == "pool" else nn.LocalResponseNorm(5)
            taps[4 * 2**i] = (next(reversed(layers)), channels)
    layers["pool5"] = _pool()
    return layers, channels, taps


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
