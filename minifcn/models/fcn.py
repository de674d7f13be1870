"""Fully convolutional networks: a trunk, a score layer, skips, and upsampling to every pixel.

One class serves all trunks and strides. The paper's nets are

    FCN-32s: trunk -> scores at stride 32 -> x32 -> crop
    FCN-16s: ... -> x2 -> + scores of pool4 -> x16 -> crop
    FCN-8s:  ... -> x2 -> + scores of pool4 -> x2 -> + scores of pool3 -> x8 -> crop

(Long, Shelhamer and Darrell 2015, section 4; the names of the layers are those of the released
Caffe nets.) Where to crop is not written down anywhere here: it follows from where each layer's
pixels sit in the image, see `minifcn.shapes.CoordinateMap`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .. import functional as F
from .. import nn
from ..autograd import Tensor
from ..backend import Error
from ..shapes import CoordinateMap, Pair, ShapeError, shape_error
from .geometry import coordinate_map
from .vgg import Trunk

AT_ONCE_SCALES = {16: 0.01, 8: 0.0001}  # of the tapped activations, by stride


class ModelError(Error, ValueError):
    """A net that cannot be built as asked for."""


class Skip(NamedTuple):
    """One skip: the scores so far are upsampled by two and the tapped layer's are added."""

    tap: str  # the layer whose output is scored, such as pool4
    upsample: str  # the layers' names in the released nets
    score: str
    scale: float  # the tapped activations are multiplied with this ("at once")
    offset: Pair  # where the larger of the two starts over the other
    crop_finer: bool  # whether the tapped scores are the larger (or the upsampled ones)


class FCN(nn.Module):
    """A trunk turned into a net that labels every pixel: (N, 3, H, W) to scores (N, classes, H, W).

    Parameters
    ----------
    trunk
        The layers before the scores, and where skips may start (`vgg_trunk` makes one).
    num_classes
        Number of classes, the background included.
    stride
        32, 16 or 8: the stride of the finest scores; below 32 there is a skip for each halving.
    at_once
        Scale the tapped layers by 0.01 (stride 16) and 0.0001 (stride 8), so that all of FCN-8s can
        be trained in one go (the journal version's FCN-8s-at-once).
    learn_upsampling
        ``"none"``: all upsampling stays bilinear, as in the released nets. ``"intermediate"``: the
        x2 layers start bilinear and are learned; the last stays fixed (the conference paper, 4.3).

    Raises
    ------
    ModelError
        If the trunk has no layer to tap at a stride, or a number is out of range.
    ShapeError
        If the layers' pixels cannot be aligned by whole pixels.

    Notes
    -----
    The scores start at zero ("We zero-initialize the class scoring layer", section 4.3), so a new
    FCN-16s or FCN-8s with its parent's weights gives the parent's output, up to interpolation.

    Examples
    --------
    >>> import numpy as np
    >>> from minifcn import models
    >>> net = models.fcn8s(num_classes=5, backbone="small")
    >>> net(Tensor(np.zeros((1, 3, 50, 70), np.float32))).shape
    (1, 5, 50, 70)
    """

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int,
        stride: int = 32,
        *,
        at_once: bool = False,
        learn_upsampling: str = "none",
    ) -> None:
        if num_classes < 2:
            raise ModelError(f"num_classes={num_classes} must be at least 2 (background included)")
        if stride not in (32, 16, 8):
            raise ModelError(f"stride={stride} must be 32, 16 or 8")
        if learn_upsampling not in ("none", "intermediate"):
            raise ModelError(f"learn_upsampling={learn_upsampling!r}: 'none' or 'intermediate'")
        self.num_classes, self.stride = num_classes, stride
        self.config: dict[str, Any] = {}  # what models.build made this from; saved with weights
        self.trunk_names = tuple(trunk.layers)
        for name, layer in trunk.layers.items():
            setattr(self, name, layer)
        self.score_fr = _score_layer(trunk.channels, num_classes)

        # `here` says where the pixels of the scores so far sit in the image.
        here = AxisMaps.of(trunk.layers.values())
        skips, upsample = [], "upscore2"
        for finer in (16, 8):
            if finer < stride:
                break
            if finer not in trunk.taps:
                raise ModelError(f"the trunk has no layer of stride {finer}: a skip needs one")
            tap, channels = trunk.taps[finer]
            tapped = AxisMaps.of(_up_to(trunk.layers, tap))
            layer, here = _upsampling(num_classes, 2, here, tapped, upsample)
            layer.weight.requires_grad = learn_upsampling == "intermediate"
            scale = AT_ONCE_SCALES[finer] if at_once else 1.0
            offset = tapped.offset(here, upsample)
            if min(offset) < 0 < max(offset):
                rule = "one axis of the tapped scores would be cropped, and the other of the sums"
                raise ModelError(f"{upsample}: offset {offset}: {rule}; pad both axes alike")
            crop_finer = min(offset) >= 0  # else the upsampled scores start before the finer ones
            over = (abs(offset[0]), abs(offset[1]))
            skips.append(Skip(tap, upsample, f"score_{tap}", scale, over, crop_finer))
            here = here if crop_finer else tapped
            setattr(self, upsample, layer)
            setattr(self, f"score_{tap}", _score_layer(channels, num_classes))
            upsample = f"upscore_{tap}"
        self.skips = tuple(skips)
        self.last = "upscore" if stride == 32 else f"upscore{stride}"
        layer, here = _upsampling(num_classes, stride, here, IMAGE, self.last)
        layer.weight.requires_grad = False
        setattr(self, self.last, layer)
        self.offset = (
            here.vertical.crop_offset(IMAGE.vertical, "crop of the scores"),
            here.horizontal.crop_offset(IMAGE.horizontal, "crop of the scores"),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class at each pixel, (N, 3, H, W) to (N, classes, H, W)."""
        if x.ndim != 4 or min(x.shape) < 1:
            rule = "x must be (N, C, H, W), with at least one image of one pixel"
            raise shape_error("FCN", rule, "x[None] if it is one image", x=x)
        tapped, taps = {}, {skip.tap for skip in self.skips}
        trunk = {name: getattr(self, name) for name in self.trunk_names}
        for name, h in nn.in_turn(trunk, x, needed=taps):
            if name in taps:
                tapped[name] = h
        score = self.score_fr(h)
        del h  # without gradients nobody else holds it
        for skip in self.skips:
            score = getattr(self, skip.upsample)(score)
            finer = tapped.pop(skip.tap)
            finer = getattr(self, skip.score)(finer if skip.scale == 1 else finer * skip.scale)
            if skip.crop_finer:
                finer = F.crop(finer, score.shape[2:], skip.offset)
            else:
                score = F.crop(score, finer.shape[2:], skip.offset)
            score = score + finer
            del finer
        return F.crop(getattr(self, self.last)(score), x.shape[2:], self.offset)


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


IMAGE = AxisMaps(CoordinateMap(), CoordinateMap())


def _up_to(layers: dict[str, nn.Module], last: str) -> list[nn.Module]:
    names = list(layers)
    return [layers[name] for name in names[: names.index(last) + 1]]


def _score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 convolution to class scores that starts at zero."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    return layer


def _upsampling(
    num_classes: int, factor: int, here: AxisMaps, target: AxisMaps, name: str
) -> tuple[nn.ConvTranspose2d, AxisMaps]:
    """Return a bilinear upsampling layer, and where its outputs sit.

    The released nets use kernels of 2·factor. Where that puts the output half a pixel beside what
    it must be aligned with (AlexNet), 2·factor - 1 is right; so both are tried in this order.
    """
    for kernel in (2 * factor, 2 * factor - 1):
        layer = nn.ConvTranspose2d(num_classes, num_classes, kernel, stride=factor, bias=False)
        step = AxisMaps.of([layer])
        there = AxisMaps(here.vertical >> step.vertical, here.horizontal >> step.horizontal)
        try:
            there.offset(target, name)
            break
        except ShapeError:
            if kernel % 2:
                raise
    nn.init.bilinear_(layer.weight)
    return layer, there
