"""Several FCNs side by side, each with its own kind of image, whose scores are averaged.

The paper's best net for NYUDv2 (section 5, table 4) looks at colour and at depth in two nets and
adds up their scores: "late fusion".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import nn
from ..autograd import Tensor
from ..shapes import shape_error
from .alignment import ModelError
from .fcn import FCN


class LateFusion(nn.Module):
    """The mean of the scores of several FCNs, taken before the last upsampling.

    Released as a sum with the factors 0.5 and 0.5 (the paper only says "summed").

    Parameters
    ----------
    streams
        Name to net, in the order of their channels in the input: ``{"color": ..., "hha": ...}``.
        All have one stride, the same classes and crops. The last upsampling is that of the first:
        the others give theirs up for it.

    Raises
    ------
    ModelError
        If the nets do not fit together, or there are fewer than two.

    Examples
    --------
    >>> import numpy as np
    >>> from minifcn import models
    >>> streams = {name: models.fcn32s(5, "small") for name in ("color", "hha")}
    >>> LateFusion(streams)(Tensor(np.zeros((1, 6, 50, 70), np.float32))).shape
    (1, 5, 50, 70)
    """

    def __init__(self, streams: Mapping[str, FCN]) -> None:
        nets = list(streams.values())
        if len(nets) < 2:
            raise ModelError(f"late fusion needs at least two nets, not {len(nets)}")
        first, *others = nets
        for name, net in streams.items():
            same = net.heads == first.heads and net.stride == first.stride
            if not same or net.offset != first.offset or list(net.heads) != [""]:
                raise ModelError(
                    f"late fusion: {name} is an FCN-{net.stride}s with classes {net.heads} and "
                    f"crop {net.offset}; the first is an FCN-{first.stride}s with {first.heads} "
                    f"and {first.offset}: all must be the same, with one head"
                )
        for net in others:
            setattr(net, net.last, getattr(first, first.last))
        self.stream_names = tuple(streams)
        for name, net in streams.items():
            setattr(self, name, net)
        self.num_classes, self.heads, self.stride = first.num_classes, first.heads, first.stride
        self.config: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (N, classes, H, W) of images whose channels are those of all streams.

        The first stream sees the first channels of x (N, C, H, W), the next one the next.
        """
        self.check_image(x)
        nets, scores, start = self.nets, [], 0
        for net, channels in zip(nets, self.streams.values(), strict=True):
            image = x[:, start : start + channels]
            scores.append(net.coarse_scores(image)[""] * (1 / len(nets)))
            start += channels
        return nets[0].enlarged(sum(scores[1:], scores[0]), x.shape[2:])

    @property
    def nets(self) -> list[FCN]:
        """The net of each stream."""
        return [getattr(self, name) for name in self.stream_names]

    @property
    def streams(self) -> dict[str, int]:
        """The channels of each kind of image, by name: see `minifcn.data.streams_of`."""
        return {
            name: net.streams[""] for name, net in zip(self.stream_names, self.nets, strict=True)
        }

    def check_image(self, x: Any) -> None:
        """Raise an error unless the net can score every pixel of x: images, or their shape.

        Raises
        ------
        ShapeError
            If x is not (N, C, H, W) with the channels of all streams, or too small for a net.
        """
        shape, channels = getattr(x, "shape", x), sum(self.streams.values())
        if len(shape) != 4 or shape[1] != channels:
            takes = ", ".join(f"{name} {count}" for name, count in self.streams.items())
            rule = f"x must be (N, {channels}, H, W): channels for {takes}"
            raise shape_error("late fusion", rule, x=x)
        for net in self.nets:
            net.check_image(shape)
