"""GoogLeNet (Szegedy et al. 2015), as a classifier and as a trunk for FCNs.

The layers are those of Caffe's net. A block of it, `Inception`, looks at its input through windows
of 1, 3 and 5 pixels side by side; 1x1 convolutions in front keep that cheap.

torchvision's net differs in four things, which a `Plan` says: its windows of 5 pixels have only 3,
its last max-pooling takes 2 x 2 pixels instead of 3 x 3, there is no normalisation across channels,
and less is dropped. (The batch normalisation that it was trained with is part of the weights here:
see `minifcn.weights.keymaps`.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import nn
from ..autograd import Tensor
from .classifier import Classifier, Trunk, check_count, scaled, side_after

Widths = tuple[int, int, int, int, int, int]

GOOGLENET: dict[str, Widths] = {
    # 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels of the convolutions of each inception block."""


class Plan(NamedTuple):
    """How a variant of GoogLeNet is built."""

    name: str
    large: int  # side of the windows of the layers 5x5
    last_pool: int  # side of those of pool4_3x3_s2
    norm: bool  # whether there is local response normalisation
    dropout: float


CAFFE = Plan("googlenet", large=5, last_pool=3, norm=True, dropout=0.4)
TORCHVISION = Plan("googlenet_torchvision", large=3, last_pool=2, norm=False, dropout=0.2)

HEADS = {"inception_4a": "loss1", "inception_4d": "loss2"}
"""Where the auxiliary heads start."""


class Inception(nn.Branches):
    """Four chains side by side: 1x1; 1x1 then 3x3; 1x1 then 5x5; 3x3 max-pooling then 1x1.

    A ReLU follows every convolution. Attributes have Caffe's names, so the parameters are called
    ``1x1.weight``, ``3x3_reduce.weight``, ...

    Parameters
    ----------
    in_channels
        Channels of the input.
    widths
        Channels of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5 and pool_proj.
    rng
        Draws the starting weights.
    large
        Side of the windows of 5x5: 3 in torchvision's net.

    Examples
    --------
    >>> block = Inception(192, GOOGLENET["3a"])
    >>> block.out_channels, block(np.zeros((1, 192, 5, 7), np.float32)).shape
    (256, (1, 256, 5, 7))
    """

    def __init__(
        self,
        in_channels: int,
        widths: Widths,
        rng: np.random.Generator | None = None,
        large: int = 5,
    ) -> None:
        one, before3, three, before5, five, pooled = widths
        self.out_channels = one + three + five + pooled
        rng = rng or np.random.default_rng()
        self._add("1x1", nn.Conv2d(in_channels, one, 1, rng=rng))
        self._add("3x3_reduce", nn.Conv2d(in_channels, before3, 1, rng=rng))
        self._add("3x3", nn.Conv2d(before3, three, 3, padding=1, rng=rng))
        self._add("5x5_reduce", nn.Conv2d(in_channels, before5, 1, rng=rng))
        self._add("5x5", nn.Conv2d(before5, five, large, padding=large // 2, rng=rng))
        self.pool = nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)
        self._add("pool_proj", nn.Conv2d(in_channels, pooled, 1, rng=rng))

    def _add(self, name: str, convolution: nn.Conv2d) -> None:
        setattr(self, name, convolution)
        setattr(self, f"relu_{name}", nn.ReLU())

    def chains(self) -> tuple[dict[str, nn.Module], ...]:
        """Return the four chains, each as name to layer."""
        named = (("1x1",), ("3x3_reduce", "3x3"), ("5x5_reduce", "5x5"), ("pool", "pool_proj"))
        return tuple(
            {
                part: getattr(self, part)
                for name in names
                for part in ((name,) if name == "pool" else (name, f"relu_{name}"))
            }
            for names in named
        )


class GoogLeNet(Classifier):
    """A `Classifier` that may have auxiliary heads, which help to train its early layers.

    The heads ``loss1`` and ``loss2`` score what inception_4a and inception_4d put out. While
    training, a net with heads returns (scores, scores of loss1, scores of loss2); Szegedy et al.
    weigh the losses 1 : 0.3 : 0.3. In evaluation, and without heads, it returns the scores alone.
    `chain`, iterating and indexing leave the heads out; they are attributes.
    """

    def chain(self) -> dict[str, nn.Module]:
        """Return the layers from the image to the scores, without the auxiliary heads."""
        heads = HEADS.values()
        return {name: layer for name, layer in self.named_children() if name not in heads}

    def __len__(self) -> int:
        return len(self.chain())

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.chain().values())

    def __getitem__(self, key: int | str | slice) -> Any:
        return nn.Sequential(self.chain())[key]

    def forward(self, x: Tensor) -> Any:
        """Return the scores (N, num_classes); in training, those of the heads too if there are."""
        self.check(x)
        heads = {at: head for at, head in HEADS.items() if self.training and hasattr(self, head)}
        scores = []
        for name, h in nn.in_turn(self.chain(), x):
            if name in heads:
                scores.append(getattr(self, heads[name])(h))
        return (h, *scores) if heads else h


def googlenet(
    num_classes: int = 1000,
    *,
    width: float = 1.0,
    image_size: int = 224,
    dropout: float = CAFFE.dropout,
    auxiliary: bool = False,
    rng: np.random.Generator | None = None,
) -> GoogLeNet:
    """Return the GoogLeNet classifier: images (N, 3, 224, 224) to scores (N, num_classes).

    6,998,552 parameters with 1000 classes on the main path.

    Parameters
    ----------
    num_classes
        Number of classes.
    width
        Factor for all numbers of channels (rounded to multiples of 8).
    image_size
        Side of the images in pixels. The last pooling averages over all that inception_5b leaves
        of them, 7 x 7 pixels of 224, and keeps its name pool5_7x7_s1 where that is less.
    dropout
        Share of the averages that is dropped in training; in the auxiliary heads it is 0.7.
    auxiliary
        Whether to add the heads loss1 and loss2 for training: see `GoogLeNet`.
    rng
        Draws the starting weights; those of the main path first.

    Raises
    ------
    ModelError
        For a width, a size or a number of classes that makes no net.

    Examples
    --------
    >>> net = googlenet(10, width=0.125, image_size=64, auxiliary=True)
    >>> x = Tensor(np.zeros((2, 3, 64, 64), np.float32))
    >>> [scores.shape for scores in net(x)], net.eval()(x).shape
    ([(2, 10), (2, 10), (2, 10)], (2, 10))
    """
    return _classifier(CAFFE, num_classes, width, image_size, dropout, auxiliary, rng)


def googlenet_torchvision(
    num_classes: int = 1000,
    *,
    width: float = 1.0,
    image_size: int = 224,
    dropout: float = TORCHVISION.dropout,
    auxiliary: bool = False,
    rng: np.random.Generator | None = None,
) -> GoogLeNet:
    """Return torchvision's GoogLeNet; the arguments are those of `googlenet`.

    6,617,624 parameters with 1000 classes, batch normalisation folded. Layers have Caffe's names,
    also 5x5, which sees 3 x 3 pixels here.

    >>> net = googlenet_torchvision(10, width=0.125, image_size=64)
    >>> getattr(net.inception_3a, "5x5")
    Conv2d(8 -> 8, kernel 3, stride 1, padding 1)
    """
    return _classifier(TORCHVISION, num_classes, width, image_size, dropout, auxiliary, rng)


def googlenet_trunk(
    *,
    width: float = 1.0,
    padding: int = 100,
    dropout: float = CAFFE.dropout,
    in_channels: int = 3,
    rng: np.random.Generator | None = None,
) -> Trunk:
    """Return GoogLeNet up to inception_5b: the last average pooling is left out.

    Leaving it out improved the scores (Long, Shelhamer and Darrell 2015, section 4.1). With it, one
    output would see the 907 pixels across that the paper's table 1 has for GoogLeNet; without, 715.
    The dropout before the scores stays. No FCN-GoogLeNet was published, so its padding and crops
    follow from the same rules as the other nets': they need upsampling kernels of odd size.

    Parameters
    ----------
    width, dropout, rng
        As in `googlenet`.
    padding
        Of the first convolution: 3 in the classifier.
    in_channels
        3 for colour images.

    Examples
    --------
    >>> googlenet_trunk().taps
    {16: ('inception_4e', 832), 8: ('inception_3b', 480)}
    """
    return _trunk(CAFFE, width, padding, dropout, in_channels, rng)


def googlenet_torchvision_trunk(
    *,
    width: float = 1.0,
    padding: int = 100,
    dropout: float = TORCHVISION.dropout,
    in_channels: int = 3,
    rng: np.random.Generator | None = None,
) -> Trunk:
    """Return torchvision's GoogLeNet up to inception_5b; see `googlenet_trunk`.

    >>> googlenet_torchvision_trunk(width=0.125).taps
    {16: ('inception_4e', 104), 8: ('inception_3b', 64)}
    """
    return _trunk(TORCHVISION, width, padding, dropout, in_channels, rng)


def _classifier(
    plan: Plan,
    num_classes: int,
    width: float,
    image_size: int,
    dropout: float,
    auxiliary: bool,
    rng: np.random.Generator | None,
) -> GoogLeNet:
    check_count("num_classes", num_classes, least=2)
    rng = rng or np.random.default_rng()
    layers, channels = _convolutions(plan, width, 3, 3, rng)
    # The heads first: they need larger images than the main path does.
    heads = HEADS if auxiliary else {}
    sides = {at: _head_side(layers, at, heads[at], image_size) for at in heads}
    main = layers | {
        "pool5_7x7_s1": nn.AvgPool2d(side_after(layers, image_size), stride=1),
        "pool5_drop": nn.Dropout(dropout, rng=rng),
        "flatten": nn.Flatten(),  # (N, C, 1, 1) -> (N, C)
        "loss3_classifier": nn.Linear(channels["inception_5b"], num_classes, rng=rng),
    }
    for at, head in heads.items():
        main[head] = _head(channels[at], sides[at], width, num_classes, rng)
    options = {"width": width, "dropout": dropout, "auxiliary": auxiliary}
    return GoogLeNet(main, plan.name, num_classes, image_size, **options)


def _trunk(
    plan: Plan,
    width: float,
    padding: int,
    dropout: float,
    in_channels: int,
    rng: np.random.Generator | None,
) -> Trunk:
    rng = rng or np.random.default_rng()
    layers, channels = _convolutions(plan, width, padding, in_channels, rng)
    layers["pool5_drop"] = nn.Dropout(dropout, rng=rng)
    taps = {16: "inception_4e", 8: "inception_3b"}
    return Trunk(
        layers,
        channels["inception_5b"],
        {stride: (name, channels[name]) for stride, name in taps.items()},
    )


def _up_to(layers: dict[str, nn.Module], last: str) -> dict[str, nn.Module]:
    names = list(layers)
    return {name: layers[name] for name in names[: names.index(last) + 1]}


def _convolutions(
    plan: Plan, width: float, padding: int, in_channels: int, rng: np.random.Generator
) -> tuple[dict[str, nn.Module], dict[str, int]]:
    """Return the layers up to inception_5b, and the channels of the inception blocks."""
    few, many = scaled(64, width), scaled(192, width)
    layers: dict[str, nn.Module] = {
        "conv1_7x7_s2": nn.Conv2d(in_channels, few, 7, stride=2, padding=padding, rng=rng),
        "conv1_relu_7x7": nn.ReLU(),
        "pool1_3x3_s2": _pool(),
        "pool1_norm1": nn.LocalResponseNorm(5),
        "conv2_3x3_reduce": nn.Conv2d(few, few, 1, rng=rng),
        "conv2_relu_3x3_reduce": nn.ReLU(),
        "conv2_3x3": nn.Conv2d(few, many, 3, padding=1, rng=rng),
        "conv2_relu_3x3": nn.ReLU(),
        "conv2_norm2": nn.LocalResponseNorm(5),
        "pool2_3x3_s2": _pool(),
    }
    if not plan.norm:
        del layers["pool1_norm1"], layers["conv2_norm2"]
    channels, inputs, stage = {}, many, "3"
    for name, widths in GOOGLENET.items():
        if name[0] != stage:
            layers[f"pool{stage}_3x3_s2"] = _pool(plan.last_pool if stage == "4" else 3)
            stage = name[0]
        a, b, c, d, e, f = (scaled(w, width) for w in widths)
        block = Inception(inputs, (a, b, c, d, e, f), rng, plan.large)
        layers[f"inception_{name}"] = block
        channels[f"inception_{name}"] = inputs = block.out_channels
    return layers, channels


def _pool(kernel: int = 3) -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel, stride=2, ceil_mode=True)


def _head_pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(5, stride=3, ceil_mode=True)


def _head_side(layers: dict[str, nn.Module], at: str, head: str, image_size: int) -> int:
    """Return the side of the maps that a head starting at a layer scores."""
    return side_after(_up_to(layers, at) | {f"{head}.ave_pool": _head_pool()}, image_size)


def _head(
    channels: int, side: int, width: float, num_classes: int, rng: np.random.Generator
) -> nn.Sequential:
    """Return an auxiliary head, which makes class scores of maps in the middle of the net."""
    few, hidden = scaled(128, width), scaled(1024, width)
    layers = {
        "ave_pool": _head_pool(),
        "conv": nn.Conv2d(channels, few, 1, rng=rng),
        "relu_conv": nn.ReLU(),
        "flatten": nn.Flatten(),  # (N, C, H, W) -> (N, C*H*W)
        "fc": nn.Linear(few * side * side, hidden, rng=rng),
        "relu_fc": nn.ReLU(),
        "drop_fc": nn.Dropout(0.7, rng=rng),
        "classifier": nn.Linear(hidden, num_classes, rng=rng),
    }
    return nn.Sequential(layers)
