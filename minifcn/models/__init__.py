"""The networks, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from .fcn import FCN, ModelError
from .geometry import coordinate_map, output_size, receptive_field_of
from .small import small_trunk
from .vgg import VGG16, Trunk, vgg16, vgg_trunk

__all__ = [
    "BACKBONES",
    "FCN",
    "MODELS",
    "VGG16",
    "ModelError",
    "Trunk",
    "build",
    "coordinate_map",
    "fcn8s",
    "fcn16s",
    "fcn32s",
    "output_size",
    "receptive_field_of",
    "small_trunk",
    "vgg16",
    "vgg_trunk",
]


BACKBONES: dict[str, Callable[..., Trunk]] = {"vgg16": vgg_trunk, "small": small_trunk}


def _fcn(stride: int, num_classes: int, backbone: str, rng: Any, options: dict[str, Any]) -> FCN:
    if backbone not in BACKBONES:
        raise ModelError(f"backbone={backbone!r} must be one of {', '.join(BACKBONES)}")
    # All options, not only those given: a file must not change its meaning with a default.
    config = {"model": f"fcn{stride}s", "num_classes": num_classes, "backbone": backbone}
    config |= _defaults(BACKBONES[backbone]) | _defaults(FCN) | options
    ours = {name: options.pop(name) for name in _defaults(FCN) if name in options}
    net = FCN(BACKBONES[backbone](rng=rng, **options), num_classes, stride, **ours)
    net.config = config
    return net


def _defaults(builder: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a trunk or of `FCN` that have a default and can be saved."""
    parameters = inspect.signature(builder).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {name: value for name, value in given.items() if name not in ("rng", "stride")}


def fcn32s(
    num_classes: int = 21,
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
    num_classes: int = 21,
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
    num_classes: int = 21,
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


MODELS: dict[str, Callable[..., FCN]] = {"fcn32s": fcn32s, "fcn16s": fcn16s, "fcn8s": fcn8s}


def build(model: str, **options: Any) -> FCN:
    """Return a net by its name: fcn32s, fcn16s or fcn8s. ``build(**net.config)`` is one like net.

    >>> config = build("fcn32s", num_classes=4, backbone="small").config
    >>> config["model"], config["num_classes"], config["widths"]
    ('fcn32s', 4, (24, 48, 64, 96, 96))
    """
    if model not in MODELS:
        raise ModelError(f"model {model!r} is unknown: use one of {', '.join(MODELS)}")
    return MODELS[model](**options)
