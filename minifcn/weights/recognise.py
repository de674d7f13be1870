"""What a foreign file is for: which net, with which options, and how its images were prepared.

Names and shapes tell much, but not all. What they cannot tell is asked for, never guessed: wrong
answers would give a net that works, and badly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import data
from ..data import Preprocessing
from ..models import CLASSIFIERS, MODELS
from ..models.fcn import AT_ONCE_SCALES
from .foreign import Foreign
from .header import WeightsError
from .keymaps import Named

ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "fcn8s-atonce": ("fcn8s", {"at_once": True}),
    "fcn-alexnet": ("fcn32s", {"backbone": "caffenet"}),
}
"""Names of published nets, and what they are called here."""

WIDEST = {
    "vgg16": {"fc6": 4096, "conv5_3": 512},
    "alexnet": {"fc6": 4096, "conv5": 256},
    "caffenet": {"fc6": 4096, "conv5": 256},
    "alexnet_torchvision": {"fc6": 4096, "conv5": 256},
    "googlenet": {"inception_5b.1x1": 384},
    "googlenet_torchvision": {"inception_5b.1x1": 384},
}
"""Channels of each net's widest layers; a file of the convolutions alone has no fc6."""

BEFORE_FC6 = {"vgg16": "conv5_3", "alexnet": "conv5", "caffenet": "conv5"}
BEFORE_FC6["alexnet_torchvision"] = "conv5"

SOURCES: dict[str, tuple[Preprocessing, dict[str, Preprocessing]]] = {
    # where weights are from: as a rule, and where it differs, by the net that they are for
    "caffe": (data.CAFFE, {"vgg16": data.CAFFE_VGG, "googlenet": data.CAFFE_GOOGLENET}),
    "chainer": (data.CAFFE, {"vgg16": data.CAFFE_VGG}),
    "wkentaro": (data.CAFFE, {}),
    "keras": (data.CAFFE_VGG, {}),
    "torchvision": (data.TORCHVISION, {"googlenet_torchvision": data.TORCHVISION_GOOGLENET}),
    "nyud": (data.NYUD, {}),
    "nyud-hha": (data.NYUD_HHA, {}),
    "siftflow": (data.SIFTFLOW, {}),
    "unit": (data.UNIT, {}),  # these two: nets that were trained with minifcn
    "landcover": (data.LANDCOVER, {}),
}
"""How images are prepared for weights of an origin."""


class Target(NamedTuple):
    """A net to be built."""

    model: str
    options: dict[str, Any]

    @property
    def trunk(self) -> str:
        """The classifier whose layers it has."""
        return self.options.get("backbone", self.model)

    @property
    def is_classifier(self) -> bool:
        """Whether it is a classifier itself."""
        return self.model in CLASSIFIERS


def target(
    path: Path,
    named: Named,
    info: Mapping[str, str],
    model: str | None = None,
    classes: int | None = None,
    **options: Any,
) -> Target:
    """Return the net that arrays are for.

    Parameters
    ----------
    path
        The file, for messages.
    named, info
        What is in it.
    model
        What is wanted: a name of `MODELS` or `ALIASES`. If None, what the names tell.
    classes
        For other classes than those of the file.
    **options
        Of the net; others follow from the shapes.

    Raises
    ------
    WeightsError
        If it cannot be told.
    """
    trunk = options.get("backbone") or _trunk(named, info, bool(_heads(named)))
    if model is None:
        model = _model(path, named, trunk)
    if model in ALIASES:
        model, more = ALIASES[model]
        options = more | options
    if model not in MODELS or model == "late_fusion":
        known = ", ".join(name for name in [*MODELS, *ALIASES] if name != "late_fusion")
        raise WeightsError(f"{path}: the model {model!r} is unknown: use one of {known}")
    found: dict[str, Any] = {}
    if model not in CLASSIFIERS:
        if trunk is None:
            backbones = ", ".join(WIDEST)
            raise WeightsError(
                f"{path}: its layers ({_some(named)}) do not tell the net that it was made from: "
                f"say which (backbone, one of {backbones}, small)"
            )
        found["backbone"] = trunk
        found |= _fc6_kernel(named, trunk)
        if "scale_pool4.weight" in named.sources and "at_once" not in options:
            found["at_once"] = _is_at_once(named)
    found |= _width(named, model if model in CLASSIFIERS else str(trunk))
    found["num_classes"] = classes or _classes(path, named, model)
    return Target(model, found | options)


def _some(named: Named) -> str:
    names = list(named.sources) + list(named.unknown)
    return ", ".join(names[:4]) + ", ..." * (len(names) > 4)


def _trunk(named: Named, info: Mapping[str, str], is_fcn: bool) -> str | None:
    """Return the classifier whose layers are there; None if that is not certain."""
    if {"conv1_1", "conv5_3"} <= named.layers():
        return "vgg16"
    if "inception_3a.5x5" in named.layers():
        side = named.sources["inception_3a.5x5.weight"].array.shape[-1]
        return "googlenet_torchvision" if side == 3 else "googlenet"
    if {"conv1", "conv5"} <= named.layers():
        second = named.sources.get("conv2.weight")
        if second is not None and second.array.shape[1] == named.size("conv1"):
            return "alexnet_torchvision"
        if is_fcn:  # the published one is made from CaffeNet
            return "caffenet"
        return {"alexnet": "alexnet", "caffenet": "caffenet"}.get(info.get("net", "").lower())
    return None


def _model(path: Path, named: Named, trunk: str | None) -> str:
    """Return the net that the names are of, if it is certain."""
    layers = named.layers()
    if _heads(named):
        stride = 8 if _has(layers, "upscore8") else 16 if _has(layers, "upscore16") else 32
        from_caffe = named.naming == "caffe"
        if stride == 8 and not from_caffe and "scale_pool4" not in layers:
            raise WeightsError(
                f"{path}: an FCN-8s or an FCN-8s-at-once, which have the same names here: say "
                "which (model fcn8s or fcn8s-atonce)"
            )
        return f"fcn{stride}s"
    if {"conv1", "conv5"} <= layers and trunk is None:
        raise WeightsError(
            f"{path}: an AlexNet or a CaffeNet, which have the same names and shapes, but not the "
            "same order of layers: say which (model alexnet or caffenet)"
        )
    if {"fc8", "loss3_classifier"} & layers and trunk in CLASSIFIERS:
        return str(trunk)
    raise WeightsError(
        f"{path}: its names ({_some(named)}) do not tell a net that is known: say which (model), "
        "if it is one"
    )


def _has(layers: set[str], name: str) -> bool:
    return any(layer == name or layer.startswith(f"{name}_") for layer in layers)


def _heads(named: Named) -> dict[str, int]:
    """Return the classes of each head of an FCN, by what its layers' names end in."""
    return {
        layer.removeprefix("score_fr"): named.size(layer)
        for layer in sorted(named.layers())
        if layer.startswith("score_fr")
    }


def _classes(path: Path, named: Named, model: str) -> Any:
    """Return the number of classes, or those of several heads."""
    if model in CLASSIFIERS:
        last = "loss3_classifier" if model.startswith("googlenet") else "fc8"
        found: Any = named.size(last)
    else:
        heads = _heads(named)
        # The published net for SIFT Flow has its larger head first.
        by_size = sorted(heads, key=lambda name: -heads[name])
        found = heads.get("") or {name.removeprefix("_"): heads[name] for name in by_size}
    if not found:
        raise WeightsError(
            f"{path}: has no scores for {model}: say how many classes it is to tell apart (classes)"
        )
    return found


def _width(named: Named, trunk: str) -> dict[str, Any]:
    """Return the share of the published channels, if it is not all of them."""
    if trunk not in WIDEST:
        return {}
    for layer, published in WIDEST[trunk].items():
        # Channels are rounded to multiples of 8, so wide layers tell the share best.
        if size := named.size(layer):
            return {} if size == published else {"width": size / published}
    return {}


def _fc6_kernel(named: Named, trunk: str) -> dict[str, Any]:
    """Return the side of fc6's kernel, which a fully connected weight's size tells."""
    weight = named.sources.get("fc6.weight")
    channels = named.size(BEFORE_FC6.get(trunk, ""))
    if weight is None or not channels or not named.size("fc6"):
        return {}
    side = math.isqrt(weight.array.size // named.size("fc6") // channels)
    return {"fc6_kernel": side} if side > 0 else {}


def _is_at_once(named: Named) -> bool:
    """Tell whether the Scale layers of a file are those of the net that is trained at once."""
    return all(
        np.allclose(named.sources[name].array, AT_ONCE_SCALES[stride], rtol=1e-6, atol=0)
        for stride, name in ((16, "scale_pool4.weight"), (8, "scale_pool3.weight"))
        if name in named.sources
    )


def origin(foreign: Foreign, named: Named) -> str:
    """Return where weights are from, a key of `SOURCES`, as far as the file's names tell it.

    Raises
    ------
    WeightsError
        If they do not.
    """
    path, choices = foreign.path, ", ".join(SOURCES)
    match named.naming:
        case "keras":
            return "keras"
        case "torchvision googlenet" | "torchvision alexnet":
            return "torchvision"
        case "torchvision vgg16":
            raise WeightsError(
                f"{path}: has torchvision's names, but these are used for two kinds of weights: "
                "torchvision's own (RGB, 0 to 1, normalised) and vgg16_from_caffe.pth (BGR, 0 to "
                "255, minus a mean). The names cannot tell which, and a net that is fed the other "
                "colours fails silently: say it (source torchvision or wkentaro)"
            )
        case "caffe" if foreign.info.get("net") in MODELS:
            raise WeightsError(
                f"{path}: a net as minifcn writes it for Caffe; such a file does not tell how "
                f"images are prepared for it: say it (source, one of {choices}), or convert the "
                "file that it was made from"
            )
        case "layers" if foreign.format != "torch" or not _heads(named):
            raise WeightsError(
                f"{path}: its names do not tell how images were prepared for these weights: say "
                f"where they are from (source, one of {choices})"
            )
    if "_sem" in _heads(named):
        return "siftflow"
    if set(_heads(named).values()) == {40}:
        raise WeightsError(
            f"{path}: an FCN with 40 classes, as those for NYUDv2, which have mean colours of "
            "their own: say where it is from (source nyud, nyud-hha, or caffe for none of them)"
        )
    return "wkentaro" if named.naming == "layers" else named.naming


def preprocessing(path: Path, source: str, chosen: Target) -> Preprocessing:
    """Return how images are prepared for weights of an origin.

    Raises
    ------
    WeightsError
        For an origin that is unknown.
    """
    if source not in SOURCES:
        raise WeightsError(
            f"{path}: the source {source!r} is unknown: use one of {', '.join(SOURCES)}"
        )
    usual, others = SOURCES[source]
    # The FCNs of Caffe all have one mean, whatever their trunk's.
    by_trunk = chosen.is_classifier or source == "torchvision"
    return others.get(chosen.trunk, usual) if by_trunk else usual
