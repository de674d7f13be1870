"""VGG16 (Simonyan and Zisserman 2015), as a classifier and as a trunk for FCNs."""

from __future__ import annotations

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

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of each 3x3 convolution, by stage; a stage ends with a pooling layer that halves."""


def vgg16(
    num_classes: int = 1000,
    *,
    width: float = 1.0,
    image_size: int = 224,
    dropout: float = 0.5,
    rng: np.random.Generator | None = None,
) -> Classifier:
    """Return the VGG16 classifier: images (N, 3, 224, 224) to scores (N, num_classes).

    Five stages of 3x3 convolutions and three fully connected layers (configuration D of the VGG
    paper); 138,357,544 parameters with 1000 classes. Layers have Caffe's names.

    Parameters
    ----------
    num_classes
        Number of classes.
    width
        Factor for all numbers of channels, those of fc6 and fc7 too (rounded to multiples of 8).
    image_size
        Side of the images in pixels. fc6 sees all of what pool5 leaves of them: 7 x 7 pixels of
        224, 2 x 2 of 64.
    dropout
        Share of fc6's and fc7's activations that is dropped in training.
    rng
        Draws the starting weights.

    Raises
    ------
    ModelError
        For a width, a size or a number of classes that makes no net.

    Examples
    --------
    >>> vgg16(10, width=0.125, image_size=64).fc6
    Linear(256 -> 512)
    """
    rng = rng or np.random.default_rng()
    layers, channels, _ = convolutions(_scaled_stages(VGG16, width), 3, 1, rng)
    maps = channels, side_after(layers, image_size)
    layers |= fully_connected_scores(maps, scaled(HIDDEN, width), num_classes, dropout, rng)
    return Classifier(layers, "vgg16", num_classes, image_size, width=width, dropout=dropout)


def vgg_trunk(
    stages: tuple[tuple[int, ...], ...] = VGG16,
    hidden: int = HIDDEN,
    *,
    width: float = 1.0,
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
    width
        Factor for both, as in `vgg16`.
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
    hidden = scaled(hidden, width)
    layers, channels, taps = convolutions(_scaled_stages(stages, width), in_channels, padding, rng)
    layers |= fully_connected(channels, hidden, fc6_kernel, fc6_padding, dropout, rng)
    return Trunk(layers, hidden, taps)


def _scaled_stages(
    stages: tuple[tuple[int, ...], ...], width: float
) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(scaled(channels, width) for channels in stage) for stage in stages)


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
