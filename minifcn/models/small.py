"""A small trunk that a laptop trains from random weights in minutes."""

from __future__ import annotations

import numpy as np

from .. import nn
from .vgg import Trunk, convolutions, fully_connected


def small_trunk(
    widths: tuple[int, ...] = (24, 48, 64, 96, 96),
    depths: tuple[int, ...] = (1, 1, 2, 1, 1),
    *,
    padding: int = 1,
    dropout: float = 0.0,
    in_channels: int = 3,
    rng: np.random.Generator | None = None,
) -> Trunk:
    """Return a trunk of VGG's plan with few channels, for images from 2 x 2 pixels on.

    Parameters
    ----------
    widths, depths
        Channels and number of convolutions of each of the five stages. The first stage is always
        one 4x4 convolution with stride 2, in place of 3x3 convolutions and a pooling layer: at full
        size even a few channels would cost more than all other stages together.
    padding
        Of the first convolution. 1 is enough here, since fc6 (3x3) is padded too: the scores then
        just cover the image.
    dropout
        Share of fc6's and fc7's activations that is dropped in training; a small net from random
        weights underfits, so none.
    in_channels
        3 for colour images.
    rng
        Draws the starting weights.

    Examples
    --------
    >>> list(small_trunk().layers)[:5]
    ['conv1_1', 'relu1_1', 'conv2_1', 'relu2_1', 'pool2']
    """
    rng = rng or np.random.default_rng()
    layers: dict[str, nn.Module] = {
        "conv1_1": nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=padding, rng=rng),
        "relu1_1": nn.ReLU(),
    }
    stages = tuple((width,) * depth for width, depth in zip(widths, depths, strict=True))
    more, channels, taps = convolutions(stages[1:], widths[0], 1, rng, first=2)
    layers |= more | fully_connected(channels, widths[-1], 3, 1, dropout, rng)
    return Trunk(layers, widths[-1], taps)
