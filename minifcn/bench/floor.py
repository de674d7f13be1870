"""The least time that a processor can need for a work, whoever computes it and however.

It has to multiply, and to read each input and write each output once at least. With the rate of its
matrix product and the bandwidth of its memory, neither of which a work can exceed,

    floor = sum over pieces of max(operations / rate, bytes / bandwidth).

A piece is a convolution, one of its gradients, or an update of the parameters. What could be fused
with them (bias, ReLU, pooling) costs nothing here; so the floor is low, never too high. Winograd's
way needs fewer multiplications: a convolution by it may take less than the rate allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from .. import nn
from ..models import FCN, output_size

# Bytes of the shortest number that could be stored. minifcn itself stores 4 bytes always.
SHORTEST = {"fp32": 4, "tf32": 4, "bf16": 2}
UPDATED = 5  # numbers that SGD moves for each parameter: it reads three and writes two


class Piece(NamedTuple):
    """Floating-point operations, and numbers that are read or written, each once."""

    flops: float
    numbers: float


def convolutions(net: FCN, batch: list[int]) -> list[Piece]:
    """Return the convolutions of a net, forward; each gradient of one counts the same again.

    A multiplication with its addition counts two. Biases and upsampling do not count.

    >>> from minifcn import models
    >>> first = convolutions(models.fcn32s(2, "small", widths=(4, 4, 4, 4, 4)), [1, 3, 64, 64])[0]
    >>> first.flops == 2 * 32 * 32 * 4 * (3 * 4 * 4)
    True
    >>> first.numbers == 3 * 64 * 64 + 4 * 32 * 32 + 4 * (3 * 4 * 4)
    True
    """
    n, channels, *size = batch
    found: list[Piece] = []
    scores = {skip.tap: getattr(net, skip.score) for skip in net.skips}
    for name in net.trunk_names:
        layer = getattr(net, name)
        read = n * channels * math.prod(size)
        size = [output_size([layer], pixels, axis) for axis, pixels in enumerate(size)]
        if isinstance(layer, nn.Conv2d):
            found.append(_convolution(layer, read, n * math.prod(size)))
            channels = layer.out_channels
        if isinstance(score := scores.get(name), nn.Conv2d):
            pixels = n * math.prod(size)
            found.append(_convolution(score, pixels * channels, pixels))
    last = net.state_dict()["score_fr.weight"]
    pixels = n * math.prod(size)
    written = pixels * last.shape[0]
    found.append(Piece(2.0 * pixels * last.size, pixels * channels + written + last.size))
    return found


def _convolution(layer: nn.Conv2d, read: float, pixels: int) -> Piece:
    weight = layer.weight.data.size
    return Piece(2.0 * pixels * weight, read + pixels * layer.out_channels + weight)


def training_step(net: FCN, batch: list[int]) -> list[Piece]:
    """Return the pieces of a step: forward, gradients, and SGD with momentum.

    Backward has two products for each one of forward, but the image needs no gradient.
    """
    forward = convolutions(net, batch)
    learnt = sum(p.data.size for p in net.parameters() if p.requires_grad)
    return [*forward, *forward, *forward[1:], Piece(0.0, float(UPDATED * learnt))]


def least_ms(
    pieces: Iterable[Iterable[float]], precision: str, gflops: float, bandwidth: float
) -> float:
    """Return the floor in milliseconds; 0 where it is not known.

    Parameters
    ----------
    pieces
        `Piece`s, or pairs of their numbers.
    precision
        ``"fp32"``, ``"tf32"`` or ``"bf16"``.
    gflops
        Billions of operations per second of a matrix product in that precision.
    bandwidth
        Of the memory, in GB/s, reading and writing counted together.

    Examples
    --------
    >>> least_ms([Piece(6e9, 1e6), Piece(0, 5e8)], "fp32", 6000, 2000)  # 1 ms, and 2 GB
    2.0
    """
    if not (gflops and bandwidth):
        return 0.0
    size = SHORTEST[precision]
    seconds = (max(flops / gflops, numbers * size / bandwidth) / 1e9 for flops, numbers in pieces)
    return 1000 * sum(seconds)
