"""Fully convolutional networks: a trunk, a score layer, skips, and upsampling to every pixel.

One class serves all trunks and strides. The paper's nets are

    FCN-32s: trunk -> scores at stride 32 -> x32 -> crop
    FCN-16s: ... -> x2 -> + scores of pool4 -> x16 -> crop
    FCN-8s:  ... -> x2 -> + scores of pool4 -> x2 -> + scores of pool3 -> x8 -> crop

(Long, Shelhamer and Darrell 2015, section 4; the names of the layers are those of the released
Caffe nets.) Where to crop is not written down anywhere here: alignment.py derives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import functional as F
from .. import nn
from ..autograd import Tensor
from ..shapes import Pair, shape_error
from .alignment import Alignment, ModelError, align, covered, least_size
from .vgg import Trunk

AT_ONCE_SCALES = {16: 0.01, 8: 0.0001}  # of the tapped activations, by stride
FUSIONS = {"sum": F.add, "max": F.maximum}


class FCN(nn.Module):
    """A trunk turned into a net that labels every pixel: (N, 3, H, W) to scores (N, classes, H, W).

    Parameters
    ----------
    trunk
        The layers before the scores, and where skips may start (`vgg_trunk` makes one).
    num_classes
        Number of classes, the background included. A mapping gives the net several heads on one
        trunk, as the paper's for SIFT Flow: ``{"sem": 33, "geo": 3}``.
    stride
        32, 16 or 8: the stride of the finest scores; below 32 there is a skip for each halving.
    at_once
        Scale the tapped layers by 0.01 (stride 16) and 0.0001 (stride 8), so that all of FCN-8s can
        be trained in one go (the journal version's FCN-8s-at-once).
    learn_upsampling
        ``"none"``: all upsampling stays bilinear, as in the released nets. ``"intermediate"``: the
        x2 layers start bilinear and are learned; the last stays fixed (the conference paper, 4.3).
    learn_trunk
        False: only the score layers learn (FCN-32s-fixed of the paper's table 2).
    fusion
        ``"sum"`` of the scores at a skip, or their ``"max"``, which learned worse (footnote 6).

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
        num_classes: int | Mapping[str, int],
        stride: int = 32,
        *,
        at_once: bool = False,
        learn_upsampling: str = "none",
        learn_trunk: bool = True,
        fusion: str = "sum",
    ) -> None:
        if stride not in (32, 16, 8):
            raise ModelError(f"stride={stride} must be 32, 16 or 8")
        if learn_upsampling not in ("none", "intermediate"):
            raise ModelError(f"learn_upsampling={learn_upsampling!r}: 'none' or 'intermediate'")
        if fusion not in FUSIONS:
            raise ModelError(f"fusion={fusion!r} must be one of {', '.join(FUSIONS)}")
        self.heads = _heads(num_classes)
        self.num_classes, self.stride, self.fusion = sum(self.heads.values()), stride, fusion
        self.config: dict[str, Any] = {}  # what models.build made this from; saved with weights
        self.trunk_names = tuple(trunk.layers)
        for name, layer in trunk.layers.items():
            setattr(self, name, layer.requires_grad_(learn_trunk))

        scales = AT_ONCE_SCALES if at_once else {}
        self.alignment: Alignment = align(trunk.layers, trunk.taps, stride, scales)
        self.skips, self.last = self.alignment.skips, self.alignment.upsample
        self.offset: Pair = self.alignment.offset
        for head, classes in self.heads.items():
            layers: dict[str, nn.Conv2d | nn.ConvTranspose2d] = {}
            layers["score_fr"] = _score_layer(trunk.channels, classes)
            for skip, finer in zip(self.skips, (16, 8), strict=False):
                layers[skip.upsample] = _upsampling(classes, skip.kernel, 2)
                learned = learn_upsampling == "intermediate"
                layers[skip.upsample].weight.requires_grad = learned
                layers[skip.score] = _score_layer(trunk.taps[finer][1], classes)
            layers[self.last] = _upsampling(classes, self.alignment.kernel, stride)
            layers[self.last].weight.requires_grad = False
            for name, layer in layers.items():
                setattr(self, name + head, layer)

    def forward(self, x: Tensor) -> Any:
        """Return a score for each class at each pixel, (N, 3, H, W) to (N, classes, H, W).

        A net with several heads returns a dictionary of these.
        """
        self.check_image(x)
        coarse = self.coarse_scores(x)
        found = {head: self.enlarged(score, x.shape[2:], head) for head, score in coarse.items()}
        return found[""] if "" in found else {h.removeprefix("_"): s for h, s in found.items()}

    def coarse_scores(self, x: Tensor) -> dict[str, Tensor]:
        """Return the scores of each head at the net's stride, all skips added."""
        tapped, taps = {}, {skip.tap for skip in self.skips}
        for name, h in nn.in_turn(self.trunk_layers(), x, needed=taps):
            if name in taps:
                tapped[name] = h
        scores = {head: getattr(self, f"score_fr{head}")(h) for head in self.heads}
        del h  # without gradients nobody else holds it
        for skip in self.skips:
            finer = tapped.pop(skip.tap)
            finer = finer if skip.scale == 1 else finer * skip.scale
            for head in self.heads:
                up = getattr(self, skip.upsample + head)(scores.pop(head))
                here = getattr(self, skip.score + head)(finer)
                # Only where both have pixels: as a rule the one that starts earlier is cropped.
                over, under = skip.starts
                height, width = (
                    min(up.shape[2 + a] - over[a], here.shape[2 + a] - under[a]) for a in (0, 1)
                )
                up = _cropped(up, (height, width), over)
                here = _cropped(here, (height, width), under)
                scores[head] = FUSIONS[self.fusion](up, here)
                del up, here
            del finer
        return scores

    def enlarged(self, score: Tensor, size: Pair, head: str = "") -> Tensor:
        """Return the scores of a head for every pixel of an image of this size."""
        return F.crop(getattr(self, self.last + head)(score), size, self.offset)

    @property
    def streams(self) -> dict[str, int]:
        """The channels of the images that it takes, by name; the name is "", as there is one kind.

        See `minifcn.data.streams_of`.
        """
        first = next(iter(self.trunk_layers().values()))
        assert isinstance(first, nn.Conv2d)  # of every trunk
        return {"": first.in_channels}

    def trunk_layers(self) -> dict[str, nn.Module]:
        """Return the layers before the scores, by name."""
        return {name: getattr(self, name) for name in self.trunk_names}

    def check_image(self, x: Any) -> None:
        """Raise an error unless the net can score every pixel of x: images, or their shape.

        Raises
        ------
        ShapeError
            If x is not (N, C, H, W) with at least one image and one pixel, or too small.
        """
        shape = getattr(x, "shape", x)
        if len(shape) != 4 or min(shape) < 1:
            rule = "x must be (N, C, H, W), with at least one image of one pixel"
            raise shape_error("FCN", rule, "x[None] if it is one image", x=x)
        layers, size = self.trunk_layers(), shape[2:]
        reached = [covered(layers, self.alignment, self.stride, size[a], a) for a in (0, 1)]
        if reached != list(size):
            least = [least_size(layers, self.alignment, self.stride, a) for a in (0, 1)]
            fix = "more padding of the first layer"
            if None not in least:
                fix = f"images from {least[0]} x {least[1]} pixels on, or {fix}"
            raise shape_error(
                f"FCN-{self.stride}s",
                f"an image of {size[0]} x {size[1]} pixels (height x width) is too small for this "
                f"net: there are scores for {reached[0]} x {reached[1]} of them",
                fix,
                x=x,
            )


def _heads(num_classes: int | Mapping[str, int]) -> dict[str, int]:
    """Return the number of classes of each head, by what its layers' names end in.

    >>> _heads(21), _heads({"sem": 33, "geo": 3})
    ({'': 21}, {'_sem': 33, '_geo': 3})
    """
    heads: dict[str, Any] = {"": num_classes}
    if isinstance(num_classes, Mapping):
        heads = {f"_{name}": count for name, count in num_classes.items()}
    if not heads or min(heads.values()) < 2:
        raise ModelError(f"num_classes={num_classes} must be at least 2 (background included)")
    return heads


def _cropped(x: Tensor, size: Pair, offset: Pair) -> Tensor:
    return x if x.shape[2:] == size and offset == (0, 0) else F.crop(x, size, offset)


def _score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    """Return a 1x1 convolution to class scores that starts at zero."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    return layer


def _upsampling(num_classes: int, kernel: int, factor: int) -> nn.ConvTranspose2d:
    """Return a layer that starts as bilinear interpolation, each class by itself."""
    layer = nn.ConvTranspose2d(num_classes, num_classes, kernel, stride=factor, bias=False)
    nn.init.bilinear_(layer.weight)
    return layer
