"""VGG16 (Simonyan and Zisserman 2015), as a classifier and as a trunk for FCNs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import nn

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of each 3x3 convolution, by stage; a stage ends with a pooling layer that halves."""


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


def vgg_trunk(
    stages: tuple[tuple[int, ...], ...] = VGG16,
    hidden: int = 4096,
    *,
    padding: int = 100,
    fc6_kernel: int = 7,
    fc6_padding: int = 0,
    dropout: float = 0.5,
    in_channels: int = 3,
    rng: np.random.Generator | None = None,
) -> Trunk:
    """Return VGG16 made fully convolutional (fc6 is a 7x7 convolution), or a net of that plan.

    Parameters
    ----------
    stages
        Channels of the convolutions, stage by stage.
    hidden
        Channels of fc6 and fc7.
    padding
        Of the first convolution. 100 makes every input size fit in the released nets; 1 costs
        less, and needs ``fc6_padding`` so that the scores reach the image's edge.
    fc6_kernel, fc6_padding
        7 and 0 in VGG16: fc6 was a fully connected layer on 7 x 7 pixels.
    dropout
        Share of fc6's and fc7's activations that is dropped in training.
    in_channels
        3 for colour images.
    rng
        Draws the starting weights.

    Notes
    -----
    Pooling rounds sizes up (``ceil_mode``), as Caffe does: with rounding down, the crops of FCN-32s
    would reach outside for 799 of the sizes from 1 to 2099.
    """
    rng = rng or np.random.default_rng()
    layers, channels, taps = convolutions(stages, in_channels, padding, rng)
    layers |= fully_connected(channels, hidden, fc6_kernel, fc6_padding, dropout, rng)
    return Trunk(layers, hidden, taps)


def vgg16(num_classes: int = 1000, rng: np.random.Generator | None = None) -> nn.Sequential:
    """Return the VGG16 classifier: images (N, 3, 224, 224) to scores (N, num_classes).

    Five stages of 3x3 convolutions and three fully connected layers (configuration D of the VGG
    paper); 138,357,544 parameters with 1000 classes. Layers have Caffe's names.
    """
    rng = rng or np.random.default_rng()
    layers, channels, _ = convolutions(VGG16, 3, 1, rng)
    layers["flatten"] = nn.Flatten()  # (N, 512, 7, 7) -> (N, 25088)
    inputs = channels * 7 * 7
    for name in ("6", "7"):
        layers[f"fc{name}"] = nn.Linear(inputs, 4096, rng=rng)
        layers[f"relu{name}"] = nn.ReLU()
        layers[f"drop{name}"] = nn.Dropout(0.5, rng=rng)
        inputs = 4096
    layers["fc8"] = nn.Linear(inputs, num_classes, rng=rng)
    return nn.Sequential(layers)


def convolutions(
    stages: tuple[tuple[int, ...], ...],
    channels: int,
    padding: int,
    rng: np.random.Generator,
    first: int = 1,
) -> tuple[dict[str, nn.Module], int, dict[int, tuple[str, int]]]:
    """Return the layers up to the last pooling, their channels, and the places to tap.

    ``padding`` is that of the first convolution; stages are numbered from ``first`` on.
    """
    layers: dict[str, nn.Module] = {}
    taps = {}
    for stage, widths in enumerate(stages, start=first):
        for i, width in enumerate(widths, start=1):
            border = padding if not layers else 1
            layers[f"conv{stage}_{i}"] = nn.Conv2d(channels, width, 3, padding=border, rng=rng)
            layers[f"relu{stage}_{i}"] = nn.ReLU()
            channels = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        taps[2**stage] = (f"pool{stage}", channels)
    return layers, channels, taps


def fully_connected(
    channels: int, hidden: int, kernel: int, padding: int, dropout: float, rng: np.random.Generator
) -> dict[str, nn.Module]:
    """Return fc6 and fc7 as convolutions, each with its ReLU and dropout."""
    layers: dict[str, nn.Module] = {}
    for name, inputs, size, border in (("6", channels, kernel, padding), ("7", hidden, 1, 0)):
        layers[f"fc{name}"] = nn.Conv2d(inputs, hidden, size, padding=border, rng=rng)
        layers[f"relu{name}"] = nn.ReLU()
        layers[f"drop{name}"] = nn.Dropout(dropout, rng=rng)
    return layers
