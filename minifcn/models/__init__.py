"""The networks, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import nn
from .alexnet import (
    alexnet,
    alexnet_torchvision,
    alexnet_torchvision_trunk,
    alexnet_trunk,
    caffenet,
    caffenet_trunk,
)
from .alignment import smallest_padding
from .classifier import Classifier, Trunk
from .fcn import FCN, ModelError
from .geometry import coordinate_map, output_size, receptive_field_of
from .googlenet import (
    GOOGLENET,
    GoogLeNet,
    Inception,
    googlenet,
    googlenet_torchvision,
    googlenet_torchvision_trunk,
    googlenet_trunk,
)
from .late_fusion import LateFusion
from .small import small_trunk
from .surgery import Report, SurgeryError, check_loaded, convolutionalize, expand_score, transplant
from .vgg import VGG16, vgg16, vgg_trunk

__all__ = [
    "BACKBONES",
    "CLASSIFIERS",
    "FCN",
    "GOOGLENET",
    "MODELS",
    "VGG16",
    "Classifier",
    "GoogLeNet",
    "Inception",
    "LateFusion",
    "ModelError",
    "Report",
    "SurgeryError",
    "Trunk",
    "alexnet",
    "alexnet_torchvision",
    "alexnet_torchvision_trunk",
    "alexnet_trunk",
    "build",
    "caffenet",
    "caffenet_trunk",
    "check_loaded",
    "convolutionalize",
    "coordinate_map",
    "expand_score",
    "fcn8s",
    "fcn16s",
    "fcn32s",
    "for_data",
    "googlenet",
    "googlenet_torchvision",
    "googlenet_torchvision_trunk",
    "googlenet_trunk",
    "late_fusion",
    "output_size",
    "receptive_field_of",
    "small_trunk",
    "smallest_padding",
    "transplant",
    "trunk_options",
    "vgg16",
    "vgg_trunk",
]


BACKBONES: dict[str, Callable[..., Trunk]] = {
    "vgg16": vgg_trunk,
    "alexnet": alexnet_trunk,
    "caffenet": caffenet_trunk,
    "googlenet": googlenet_trunk,
    "alexnet_torchvision": alexnet_torchvision_trunk,
    "googlenet_torchvision": googlenet_torchvision_trunk,
    "small": small_trunk,
}
CLASSIFIERS: dict[str, Callable[..., Classifier]] = {
    "vgg16": vgg16,
    "alexnet": alexnet,
    "caffenet": caffenet,
    "googlenet": googlenet,
    "alexnet_torchvision": alexnet_torchvision,
    "googlenet_torchvision": googlenet_torchvision,
}


def _fcn(
    stride: int,
    num_classes: int | Mapping[str, int],
    backbone: str,
    rng: Any,
    options: dict[str, Any],
) -> FCN:
    if backbone not in BACKBONES:
        raise ModelError(f"backbone={backbone!r} must be one of {', '.join(BACKBONES)}")
    # All options, not only those given: a file must not change its meaning with a default.
    config = {"model": f"fcn{stride}s", "num_classes": num_classes, "backbone": backbone}
    config |= _defaults(BACKBONES[backbone]) | _defaults(FCN) | options
    ours = {name: options.pop(name) for name in _defaults(FCN) if name in options}
    smallest = options.get("padding") == "smallest" and options.pop("padding")
    trunk = BACKBONES[backbone](rng=rng, **options)
    if smallest:
        padding = smallest_padding(trunk.layers, trunk.taps, stride)
        first = next(iter(trunk.layers.values()))
        assert isinstance(first, nn.Conv2d)
        first.padding = (padding, padding)
        config["padding"] = padding
    net = FCN(trunk, num_classes, stride, **ours)
    net.config = config
    return net


def _defaults(builder: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a trunk or of `FCN` that have a default and can be saved."""
    parameters = inspect.signature(builder).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {name: value for name, value in given.items() if name not in ("rng", "stride")}


def fcn32s(
    num_classes: int | Mapping[str, int] = 21,
    backbone: str = "vgg16",
    *,
    rng: np.random.Generator | None = None,
    **options: Any,
) -> FCN:
    """Return an FCN-32s: see `FCN`; further options go to it and to the backbone.

    >>> fcn32s(5, "small").offset
    (16, 16)
    """
    return _fcn(32, num_classes, backbone, rng, options)


def fcn16s(
    num_classes: int | Mapping[str, int] = 21,
    backbone: str = "vgg16",
    *,
    rng: np.random.Generator | None = None,
    **options: Any,
) -> FCN:
    """Return an FCN-16s, with a skip from stride 16: see `FCN`.

    >>> [skip.tap for skip in fcn16s(5, "small").skips]
    ['pool4']
    """
    return _fcn(16, num_classes, backbone, rng, options)


def fcn8s(
    num_classes: int | Mapping[str, int] = 21,
    backbone: str = "vgg16",
    *,
    rng: np.random.Generator | None = None,
    **options: Any,
) -> FCN:
    """Return an FCN-8s, with skips from strides 16 and 8: see `FCN`.

    >>> [skip.tap for skip in fcn8s(5, "small").skips]
    ['pool4', 'pool3']
    """
    return _fcn(8, num_classes, backbone, rng, options)


def late_fusion(
    streams: Mapping[str, Mapping[str, Any]], *, rng: np.random.Generator | None = None
) -> LateFusion:
    """Return a `LateFusion` of FCNs; ``streams`` has the arguments of `build` for each, by name.

    >>> one = {"model": "fcn32s", "num_classes": 5, "backbone": "small"}
    >>> late_fusion({"color": one, "hha": one}).num_classes
    5
    """
    nets = {name: build(**{"rng": rng, **options}) for name, options in streams.items()}
    config = {"streams": {name: net.config for name, net in nets.items()}}
    net = LateFusion(nets)
    net.config = {"model": "late_fusion", **config}
    return net


MODELS: dict[str, Callable[..., FCN | LateFusion | Classifier]] = {
    "fcn32s": fcn32s,
    "fcn16s": fcn16s,
    "fcn8s": fcn8s,
    "late_fusion": late_fusion,
    **CLASSIFIERS,
}


def build(model: str, **options: Any) -> Any:
    """Return a net by its name: an FCN or a classifier. ``build(**net.config)`` is one like net.

    The names are those of `MODELS`: fcn32s, fcn16s, fcn8s, vgg16, alexnet, ...

    >>> config = build("fcn32s", num_classes=4, backbone="small").config
    >>> config["model"], config["num_classes"], config["widths"]
    ('fcn32s', 4, (24, 48, 64, 96, 96))
    """
    if model not in MODELS:
        raise ModelError(f"model {model!r} is unknown: use one of {', '.join(MODELS)}")
    return MODELS[model](**options)


def for_data(
    model: str,
    heads: Mapping[str, int],
    streams: Mapping[str, int],
    *,
    rng: np.random.Generator | None = None,
    **options: Any,
) -> FCN | LateFusion:
    """Return a net for a data set with these kinds of labels and of images.

    Parameters
    ----------
    model
        ``"fcn32s"``, ``"fcn16s"`` or ``"fcn8s"``.
    heads
        The number of classes of each kind of labels, by name. The name of a single one is not used:
        its net is like any other.
    streams
        The channels of each kind of images, by name. All channels of one stream go into one net
        (early fusion); of several streams each has a net of its own (late fusion).
    rng, **options
        As for `build`: options of every stream's net.

    Raises
    ------
    ModelError
        If an option is out of range, or there are several streams and several heads.

    Examples
    --------
    >>> for_data("fcn16s", {"sem": 5, "geo": 3}, {"": 4}, backbone="small").streams
    {'': 4}
    >>> for_data("fcn32s", {"": 5}, {"color": 3, "hha": 3}, backbone="small").streams
    {'color': 3, 'hha': 3}
    """
    counts = dict(heads) if len(heads) > 1 else sum(heads.values())
    each = {
        name: {"model": model, "num_classes": counts, **options, "in_channels": channels}
        for name, channels in streams.items()
    }
    if len(each) == 1:
        (only,) = each.values()
        return build(rng=rng, **only)
    return late_fusion(each, rng=rng)


def trunk_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the trunk that a classifier with this ``config`` turns into.

    They are ``backbone`` and its width, dropout and, where it has an fc6, fc6_kernel: the side of
    the maps that fc6 sees, which follows from the images' size. Weights of the classifier then fit
    the layers of the same names.

    Raises
    ------
    ModelError
        If it is not the config of a classifier.

    Examples
    --------
    >>> config = vgg16(10, width=0.125, image_size=64).config
    >>> trunk_options(config)
    {'backbone': 'vgg16', 'width': 0.125, 'dropout': 0.5, 'fc6_kernel': 2}
    >>> net = fcn32s(5, **trunk_options(config))
    """
    name = config.get("model")
    if name not in CLASSIFIERS:
        rule = f"only a classifier turns into a trunk: {', '.join(CLASSIFIERS)}"
        raise ModelError(f"a config of model {name!r}: {rule}")
    options = {"backbone": name, "width": config["width"], "dropout": config["dropout"]}
    if "fc6_kernel" in _defaults(BACKBONES[name]):
        # Sizes do not depend on the width: the narrowest net of this kind tells them at once.
        layers = build(**{**config, "width": 1e-9}).chain()
        before = list(layers)[: list(layers).index("flatten")]
        sizes = (layers[name] for name in before)
        options["fc6_kernel"] = output_size(sizes, config["image_size"])
    return options
