"""Which array of a foreign file is which parameter here.

Parameters have the names of the published Caffe nets (with "/" written as "_" or "."), so for most
files only the ending changes. torchvision and Keras have names of their own:

    here, Caffe, Chainer    torchvision         Keras
    VGG16
      conv1_1, conv1_2      features.0, .2      block1_conv1, block1_conv2
      conv2_1, conv2_2      features.5, .7      block2_conv1, block2_conv2
      conv3_1 to conv3_3    features.10 to .14  block3_conv1 to block3_conv3
      ...                   ...                 ...
      fc6, fc7, fc8         classifier.0, 3, 6  fc1, fc2, predictions
    AlexNet
      conv1 to conv5        features.0, .3, .6, .8, .10
      fc6, fc7, fc8         classifier.1, 4, 6
    GoogLeNet
      conv1/7x7_s2          conv1
      conv2/3x3_reduce      conv2
      conv2/3x3             conv3
      inception_3a/1x1      inception3a.branch1
      .../3x3_reduce, 3x3   .branch2.0, .branch2.1
      .../5x5_reduce, 5x5   .branch3.0, .branch3.1
      .../pool_proj         .branch4.1
      loss3/classifier      fc

and a weight is ``conv1_1/0`` in Caffe, ``conv1_1/W`` in Chainer, ``conv1_1.weight`` in PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..models import VGG16
from .foreign import Foreign
from .header import WeightsError
from .transforms import dense_of_keras, fold_batch_norm, hwio_to_oihw


class Source(NamedTuple):
    """The array for a parameter, in the order of axes of Caffe and PyTorch.

    Attributes
    ----------
    raw
        Its name in the file.
    array
        (O, I, h, w), (O, I·h·w) or (N,); in old Caffe files with sizes of 1 in front.
    changed
        What was done to it already: ``"reshaped"``, ``"folded"``, or nothing.
    """

    raw: str
    array: np.ndarray
    changed: str = ""


class Named(NamedTuple):
    """The arrays of a file by our names.

    Attributes
    ----------
    naming
        Whose names the file has: ``"caffe"``, ``"chainer"``, ``"keras"``, ``"layers"`` (Caffe's
        layers in a PyTorch file), ``"torchvision vgg16"``, ``"torchvision alexnet"`` or
        ``"torchvision googlenet"``.
    sources
        By the parameters' names. A Scale layer of Caffe is there, too: ``scale_pool4.weight``.
    unknown
        By their names in the file, the arrays that mean nothing here.
    """

    naming: str
    sources: dict[str, Source]
    unknown: dict[str, np.ndarray]

    def layers(self) -> set[str]:
        """Return the names of the layers."""
        return {name.rpartition(".")[0] for name in self.sources}

    def size(self, layer: str) -> int:
        """Return the number of output channels of a layer; 0 if there is no such layer."""
        bias = self.sources.get(f"{layer}.bias")
        return 0 if bias is None else bias.array.size


def named_tensors(foreign: Foreign) -> Named:
    """Return the arrays of a file by the names of our parameters.

    Raises
    ------
    WeightsError
        If two arrays are for the same parameter, or a batch normalisation is incomplete.

    Examples
    --------
    >>> from pathlib import Path
    >>> tensors = {"features.0.weight": np.zeros((64, 3, 3, 3)), "features.0.bias": np.zeros(64)}
    >>> found = named_tensors(Foreign(Path("a.pth"), "torch", tensors, {}))
    >>> found.naming, list(found.sources)
    ('torchvision vgg16', ['conv1_1.weight', 'conv1_1.bias'])
    """
    naming = _naming(foreign)
    if naming == "keras":
        return _from_keras(foreign)
    rename = NAMINGS[naming]
    sources: dict[str, Source] = {}
    unknown: dict[str, np.ndarray] = {}
    norms: dict[str, dict[Any, np.ndarray]] = {}
    for raw, array in foreign.tensors.items():
        if raw.endswith("num_batches_tracked"):
            continue
        name = rename(raw.removeprefix("module."))
        layer, _, part = name.rpartition(".")
        if name == "":
            unknown[raw] = array
        elif part in ("weight", "bias"):
            _add(sources, name, Source(raw, array), foreign)
        else:
            norms.setdefault(layer, {})[part.removeprefix("bn_")] = array
    for layer, norm in norms.items():
        _fold(foreign, sources, layer, norm)
    return Named(naming, sources, unknown)


def _naming(foreign: Foreign) -> str:
    """Return whose names a file has."""
    if foreign.format in ("caffe", "caffe-hdf5", "chainer", "keras"):
        return foreign.format.partition("-")[0]
    names = {name.removeprefix("module."): array for name, array in foreign.tensors.items()}
    if "conv1.conv.weight" in names:
        return "torchvision googlenet"
    if "features.0.weight" in names:
        is_alexnet = names["features.0.weight"].shape[-2:] == (11, 11)
        return f"torchvision {'alexnet' if is_alexnet else 'vgg16'}"
    return "layers"


def _add(sources: dict[str, Source], name: str, source: Source, foreign: Foreign) -> None:
    if name in sources:
        raise WeightsError(
            f"{foreign.path}: {sources[name].raw} and {source.raw} are both {name}: two nets in "
            "one file?"
        )
    sources[name] = source


# ---- Caffe, Chainer, and PyTorch with Caffe's layers ---------------------------------------------


def caffe_layer(raw: str) -> str:
    """Return the name here of a layer of Caffe.

    >>> caffe_layer("conv1/7x7_s2"), caffe_layer("inception_3a/1x1"), caffe_layer("loss1/conv")
    ('conv1_7x7_s2', 'inception_3a.1x1', 'loss1.conv')
    >>> caffe_layer("fc6-conv")  # a common name of fc6 as a convolution
    'fc6'
    """
    block, slash, part = raw.removesuffix("-conv").partition("/")
    is_block = block.startswith("inception_") or block in ("loss1", "loss2")
    return f"{block}{'.' if is_block else '_'}{part}" if slash else block


def _blobs(parts: Mapping[str, str], raw: str) -> str:
    """Return the name here of LAYER/BLOB, where ``parts`` tells which blob is what."""
    layer, _, blob = raw.rpartition("/")
    return f"{caffe_layer(layer)}.{parts[blob]}" if layer and blob in parts else ""


def _layers(raw: str) -> str:
    layer, _, part = raw.rpartition(".")
    return raw if layer and part in ("weight", "bias") else ""


# ---- torchvision ---------------------------------------------------------------------------------


def _vgg16_layers() -> dict[str, str]:
    """Return the names of torchvision's layers: a convolution counts 2, with its ReLU."""
    names, place = {}, 0
    for stage, widths in enumerate(VGG16, start=1):
        for i in range(1, len(widths) + 1):
            names[f"features.{place}"] = f"conv{stage}_{i}"
            place += 2
        place += 1  # the pooling
    return names | {"classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "fc8"}


TORCHVISION_VGG16 = _vgg16_layers()
TORCHVISION_ALEXNET = {
    **{f"features.{n}": f"conv{i}" for i, n in enumerate((0, 3, 6, 8, 10), start=1)},
    **{"classifier.1": "fc6", "classifier.4": "fc7", "classifier.6": "fc8"},
}
TORCHVISION_GOOGLENET = {
    "conv1": "conv1_7x7_s2",
    "conv2": "conv2_3x3_reduce",
    "conv3": "conv2_3x3",
    "fc": "loss3_classifier",
    **{
        f"aux{i}.{part}": f"loss{i}.{ours}"
        for i in (1, 2)
        for part, ours in (("conv", "conv"), ("fc1", "fc"), ("fc2", "classifier"))
    },
}
BRANCHES = {
    "branch1": "1x1",
    "branch2.0": "3x3_reduce",
    "branch2.1": "3x3",
    "branch3.0": "5x5_reduce",
    "branch3.1": "5x5",
    "branch4.1": "pool_proj",
}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def _listed(layers: Mapping[str, str], raw: str) -> str:
    """Return the name here of a layer's part, where ``layers`` has the layers' names."""
    layer, _, part = raw.rpartition(".")
    return f"{layers[layer]}.{part}" if layer in layers and part in ("weight", "bias") else ""


def _torchvision_googlenet(raw: str) -> str:
    """Return the name here; of a batch normalisation's parts, LAYER.bn_PART."""
    layer, _, part = raw.rpartition(".")
    is_norm = layer.endswith(".bn")
    layer = layer.removesuffix(".bn" if is_norm else ".conv")
    block, _, branch = layer.partition(".")
    if (match := re.fullmatch(r"inception(\d[a-e])", block)) and branch in BRANCHES:
        ours = f"inception_{match[1]}.{BRANCHES[branch]}"
    else:
        ours = TORCHVISION_GOOGLENET.get(layer, "")
    allowed = BATCH_NORM if is_norm else ("weight", "bias")
    return f"{ours}.{'bn_' * is_norm}{part}" if ours and part in allowed else ""


NAMINGS: dict[str, Callable[[str], str]] = {
    "caffe": partial(_blobs, {"0": "weight", "1": "bias"}),
    "chainer": partial(_blobs, {"W": "weight", "b": "bias"}),
    "layers": _layers,
    "torchvision vgg16": partial(_listed, TORCHVISION_VGG16),
    "torchvision alexnet": partial(_listed, TORCHVISION_ALEXNET),
    "torchvision googlenet": _torchvision_googlenet,
}
"""Functions from a name in the file to one of ours; empty if there is none."""


def _fold(
    foreign: Foreign, sources: dict[str, Source], layer: str, norm: dict[Any, np.ndarray]
) -> None:
    """Let a convolution do its batch normalisation's work, too."""
    weight, bias = (sources.get(f"{layer}.{part}") for part in ("weight", "bias"))
    missing = [part for part in BATCH_NORM if part not in norm]
    sizes = {array.shape for array in norm.values()}
    if weight is None or missing or sizes != {(len(weight.array),)}:
        found = ", ".join(missing) or "its weight" if weight is None or missing else "equal sizes"
        raise WeightsError(
            f"{foreign.path}: the batch normalisation of {layer} lacks {found}: damaged"
        )
    folded = fold_batch_norm(weight.array, None if bias is None else bias.array, norm)
    raw = weight.raw.removesuffix(".conv.weight")
    for part, array in zip(("weight", "bias"), folded, strict=True):
        sources[f"{layer}.{part}"] = Source(f"{raw}.conv and .bn", array, "folded")


# ---- Keras ---------------------------------------------------------------------------------------

KERAS_DENSE = {"fc1": "fc6", "fc2": "fc7", "predictions": "fc8"}


def keras_layer(raw: str) -> str:
    """Return the name here of a layer of Keras's VGG16; others keep theirs.

    >>> keras_layer("block5_conv3"), keras_layer("fc1"), keras_layer("dsn1")
    ('conv5_3', 'fc6', 'dsn1')
    """
    match = re.fullmatch(r"block(\d)_conv(\d)", raw)
    return f"conv{match[1]}_{match[2]}" if match else KERAS_DENSE.get(raw, raw)


def _from_keras(foreign: Foreign) -> Named:
    if foreign.info.get("backend") == "theano":
        raise WeightsError(
            f"{foreign.path}: written by Keras on Theano, whose kernels are mirrored: load it "
            "there, convert the kernels (keras.utils.conv_utils.convert_kernel) and save it again"
        )
    sources: dict[str, Source] = {}
    unknown = {}
    channels = 0  # of the last convolution: what fc1 reads are its maps
    for raw, array in foreign.tensors.items():
        layer, part = _keras_parts(foreign, raw)
        if part == "":
            unknown[raw] = array
            continue
        source = Source(raw, array)
        if array.ndim == 4:
            source = Source(raw, hwio_to_oihw(array), "reshaped")
            channels = array.shape[3]
        elif array.ndim == 2:
            source = Source(raw, dense_of_keras(array, channels), "reshaped")
            channels = array.shape[1]
        _add(sources, f"{keras_layer(layer)}.{part}", source, foreign)
    return Named("keras", sources, unknown)


def _keras_parts(foreign: Foreign, raw: str) -> tuple[str, str]:
    """Return the layer's name and weight, bias or nothing.

    The endings of three times: ``kernel:0``, ``conv1_W_1:0`` and, in Keras 3, ``vars/0``.
    """
    if match := re.fullmatch(r"(.+/)vars/([01])", raw):
        layer = foreign.info.get(f"{match[1]}name", match[1].rstrip("/"))
        return layer, ("weight", "bias")[int(match[2])]
    layer, _, rest = raw.partition("/")
    ending = re.search(r"(?:/|_)(kernel|bias|W|b)(?:_\d+)?(?::0)?$", f"/{rest}")
    parts = {"kernel": "weight", "W": "weight", "bias": "bias", "b": "bias"}
    return layer, parts[ending[1]] if ending else ""
