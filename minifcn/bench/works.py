"""What can be measured: works, each a list of cases with all that is needed to build them anywhere.

A case holds plain numbers only, so that it can be sent to another process as JSON. What is computed
for each kind of case stands in ours.py (minifcn), torch_peer.py (PyTorch) and peers.py (others).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..backend import Error
from ..shapes import conv_size

Settings: TypeAlias = dict[str, Any]  # whole numbers, floats, strings and lists of them

TRAIN, INFER, LAYER, COMMON = "train", "infer", "convolution", "common"  # kinds of cases
POOL, RELU, BIAS, LOSS, UPSAMPLING, UPDATE = "pool", "relu", "bias", "loss", "upsampling", "update"
CONVOLVING = (TRAIN, INFER, LAYER, COMMON)  # kinds in which a GPU's precision makes a difference
NETS = (TRAIN, INFER, COMMON)  # kinds whose memory is of interest
STEPS = (TRAIN, COMMON)  # kinds that return the loss, which changes from call to call
LAYER_TASKS = ("forward", "data gradient", "weight gradient")
LAYOUTS = ("contiguous", "channels_last")  # how a peer may store images, in PyTorch's words


class BenchError(Error, ValueError):
    """A benchmark that cannot be done as asked for."""


@dataclass(frozen=True)
class Case:
    """One thing to compute.

    Attributes
    ----------
    name
        For people.
    kind
        Which function builds it, such as ``"train"`` or ``"convolution"``.
    settings
        That function's numbers.
    count
        How often it stands in the net it was taken from; a sum over a work counts it so often.
    """

    name: str
    kind: str
    settings: Settings
    count: int = 1


@dataclass(frozen=True)
class Work:
    """A named list of cases.

    ``seconds`` is the time spent in one block, the stretch in which only one side computes.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    seconds: float = 0.3


def _net(name: str, title: str, kind: str, net: Settings, batch: Sequence[int]) -> Work:
    case = Case(name, kind, {"net": net, "batch": list(batch)})
    n, _, height, width = batch
    images = f"{n} image{'s' * (n != 1)} of {height}x{width}"
    what = "training step" if kind == TRAIN else "inference"
    return Work(name, f"{title}: {what}, {images}", (case,))


def _plan(stages: Sequence[Sequence[int]], hidden: int, classes: int) -> Settings:
    """Return the settings of an FCN-8s of VGG's plan, without the 100 pixels around the image."""
    net = {"model": "fcn8s", "num_classes": classes, "backbone": "vgg16", "dropout": 0.0}
    plan = {"stages": [list(widths) for widths in stages], "hidden": hidden, "padding": 1}
    return net | plan | {"fc6_kernel": 3, "fc6_padding": 1}


VGG_NET = {"model": "fcn8s", "num_classes": 21, "backbone": "vgg16", "dropout": 0.0}
DEMO_NET = {"model": "fcn8s", "num_classes": 9, "backbone": "small", "dropout": 0.0}


def layer(
    channels: int,
    outputs: int,
    size: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    batch: int = 1,
    count: int = 1,
    first: bool = False,
) -> Case:
    """Return the case of one convolution over ``batch`` images of ``size`` x ``size`` pixels.

    The padding keeps the size where it is not given. The ``first`` layer of a net needs no
    gradient in its input, the image.

    >>> layer(64, 192, 56).name
    '3x3, 64 -> 192 @56'
    """
    padding = kernel // 2 if padding is None else padding
    further = f" /{stride}" * (stride > 1) + f", {groups} groups" * (groups > 1)
    repeated = f", {count} times" * (count > 1)
    name = f"{kernel}x{kernel}{further}, {channels} -> {outputs} @{size}{repeated}"
    output = conv_size(size, kernel, stride, padding, 1)
    settings = {
        "x": [batch, channels, size, size],
        "weight": [outputs, channels // groups, kernel, kernel],
        "g": [batch, outputs, output, output],
        "stride": stride,
        "padding": padding,
        "groups": groups,
        "first": first,
    }
    return Case(name, LAYER, settings, count)


def _vgg_layers(sizes: Sequence[int]) -> tuple[Case, ...]:
    """Return VGG16's convolutions, given the size of the image in each of the five stages."""
    a, b, c, d, e = sizes
    return (
        layer(3, 64, a, first=True),
        layer(64, 64, a),
        layer(64, 128, b),
        layer(128, 128, b),
        layer(128, 256, c),
        layer(256, 256, c, count=2),
        layer(256, 512, d),
        layer(512, 512, d, count=2),
        layer(512, 512, e, count=3),
    )


SMALL_LAYERS = (
    layer(3, 16, 128, batch=8, first=True),
    layer(16, 16, 128, batch=8),
    layer(16, 32, 64, batch=8),
    layer(32, 32, 64, batch=8),
    layer(32, 64, 32, batch=8),
    layer(64, 64, 32, batch=8),
    layer(64, 128, 16, batch=8),
    layer(128, 128, 16, batch=8),
    layer(128, 128, 8, batch=8, count=2),
)
ALEXNET_LAYERS = (  # of the FCN on an image of 500 x 500 pixels, padded by 100
    layer(3, 96, 500, 11, stride=4, padding=100, first=True),
    layer(96, 256, 86, 5, groups=2),
    layer(256, 384, 43),
    layer(384, 384, 43, groups=2),
    layer(384, 256, 43, groups=2),
    layer(256, 4096, 21, 6, padding=0),
    layer(4096, 4096, 16, 1),
)
GOOGLENET_LAYERS = (  # the first ones, and three of the nine inception modules
    layer(3, 64, 224, 7, stride=2, batch=8, first=True),
    layer(64, 64, 56, 1, batch=8),
    layer(64, 192, 56, batch=8),
    layer(192, 64, 28, 1, batch=8),
    layer(96, 128, 28, batch=8),
    layer(16, 32, 28, 5, batch=8),
    layer(480, 192, 14, 1, batch=8),
    layer(96, 208, 14, batch=8),
    layer(16, 48, 14, 5, batch=8),
    layer(832, 384, 7, 1, batch=8),
    layer(192, 384, 7, batch=8),
    layer(48, 128, 7, 5, batch=8),
)


def _operations() -> tuple[Case, ...]:
    """Return what a net does besides convolutions, at sizes of VGG16 and of a small net."""
    images = [[1, 64, 224, 224], [8, 16, 128, 128]]
    cases = []
    for kind in (POOL, RELU, BIAS):
        cases += [Case(f"{kind}, {shown(shape)}", kind, {"x": shape}) for shape in images]
    for shape in ([1, 21, 500, 500], [8, 5, 128, 128]):
        cases.append(Case(f"cross-entropy, {shown(shape)}", LOSS, {"x": shape}))
    for factor, shape in ((2, [1, 21, 34, 34]), (8, [1, 21, 70, 70]), (32, [1, 21, 16, 16])):
        name = f"bilinear x{factor}, {shown(shape)}"
        cases.append(Case(name, UPSAMPLING, {"x": shape, "factor": factor}))
    return (*cases, Case("SGD, the 134 million numbers of FCN-8s", UPDATE, {"net": VGG_NET}))


def shown(shape: Sequence[int]) -> str:
    """Write a shape as people do.

    >>> shown([8, 16, 128, 128])
    '8x16x128x128'
    """
    return "x".join(map(str, shape))


_SMALL64 = _plan([[16], [32], [64], [128], [128]], hidden=128, classes=5)
_SMALL128 = _plan([[16] * 2, [32] * 2, [64] * 2, [128] * 2, [128] * 2], hidden=256, classes=5)

WORKS: dict[str, Work] = {
    work.name: work
    for work in (
        _net("small64", "FCN-8s of 5 convolutions", TRAIN, _SMALL64, (8, 3, 64, 64)),
        _net("small128", "FCN-8s of 10 convolutions", TRAIN, _SMALL128, (8, 3, 128, 128)),
        _net("demo96", "the demo's FCN-8s", TRAIN, DEMO_NET, (8, 3, 96, 96)),
        _net("vgg224", "VGG16 as FCN-8s", TRAIN, VGG_NET, (1, 3, 224, 224)),
        _net("vgg500", "VGG16 as FCN-8s", TRAIN, VGG_NET, (1, 3, 500, 500)),
        _net("vgg224-forward", "VGG16 as FCN-8s", INFER, VGG_NET, (1, 3, 224, 224)),
        _net("vgg500-forward", "VGG16 as FCN-8s", INFER, VGG_NET, (1, 3, 500, 500)),
        _net("vgg500x20", "VGG16 as FCN-8s", TRAIN, VGG_NET, (20, 3, 500, 500)),
        _net("vgg500x20-forward", "VGG16 as FCN-8s", INFER, VGG_NET, (20, 3, 500, 500)),
        Work("layers-small", "convolutions of small128, 8 images", SMALL_LAYERS, 0.15),
        Work(
            "layers-vgg224",
            "VGG16's convolutions, 1 image of 224x224",
            _vgg_layers((224, 112, 56, 28, 14)),
            0.15,
        ),
        Work(
            "layers-vgg500",
            "VGG16's convolutions, 1 image of 500x500",
            _vgg_layers((500, 250, 125, 63, 32)),
            0.15,
        ),
        Work(
            "layers-alexnet",
            "AlexNet's convolutions in an FCN, 1 image of 500x500",
            ALEXNET_LAYERS,
            0.15,
        ),
        Work(
            "layers-googlenet",
            "convolutions of GoogLeNet, 8 images of 224x224",
            GOOGLENET_LAYERS,
            0.15,
        ),
        Work("ops", "all that is no convolution", _operations(), 0.15),
        Work(
            "common-step",
            "a training step that every library can do: two 3x3 convolutions, 8 images of 64x64",
            (Case("common-step", COMMON, {"x": [8, 3, 64, 64]}),),
        ),
    )
}
DEFAULT_WORKS = ("small64", "small128", "demo96")


def find(names: Sequence[str]) -> list[Work]:
    """Return works by their names.

    Raises
    ------
    BenchError
        If a name is unknown.

    Examples
    --------
    >>> [work.title for work in find(["demo96"])]
    ["the demo's FCN-8s: training step, 8 images of 96x96"]
    """
    for name in names:
        if name not in WORKS:
            raise BenchError(f"no work is called {name!r}: there are {', '.join(WORKS)}")
    return [WORKS[name] for name in names]
