"""Keras's weight files: the three ways in which it has named arrays in HDF5 files.

    Keras 3, model.weights.h5          layers/conv2d_1/vars/0, where the group vars has the layer's
                                       name as its attribute "name"
    Keras 1 and 2, model.h5            block1_conv1/block1_conv1_W_1:0 or, later,
                                       block1_conv1/block1_conv1/kernel:0, where the attributes
                                       layer_names and weight_names say which there are, in order;
                                       within the group model_weights if the model is there, too
    before                             layer_1/param_0

A list of names that is too long for one attribute is cut into layer_names0, layer_names1, ...
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..foreign import Foreign
from .hdf5 import Hdf5
from .mapped import shown

VARIABLE = re.compile(r"(.*/)?vars/(\d+)")
SKIPPED = ("optimizer/",)  # its variables stand beside those of the layers


def is_keras(content: Hdf5) -> bool:
    """Tell whether an HDF5 file is named in one of Keras's ways."""
    return _lists(content) is not None or any(map(VARIABLE.fullmatch, content.datasets))


def read_keras(content: Hdf5) -> Foreign:
    """Return the weights in a Keras file, ``.h5`` or ``.weights.h5``.

    Returns
    -------
    Foreign
        ``tensors`` has the datasets' paths as names (without ``model_weights/``), in the order of
        the file's own lists. ``info`` has ``backend`` and ``keras_version`` where the file tells
        them: with the backend "theano" kernels are mirrored. Of Keras 3's files it has the name of
        each layer, as ``layers/conv2d_1/name``.

    Raises
    ------
    WeightsError
        If what the file lists is not there, or is not made of numbers.
    """
    info = {}
    place = _lists(content)
    if place is None:
        names = sorted(
            (name for name in content.datasets if VARIABLE.fullmatch(name)),
            key=lambda name: (name.rpartition("/")[0], int(name.rpartition("/")[2])),
        )
        tensors = {n: content.array(n) for n in names if not n.startswith(SKIPPED)}
        for name in tensors:
            variables = name.rpartition("/")[0]
            layer = variables.removesuffix("vars")
            if title := content.groups.get(variables, {}).get("name"):
                info[f"{layer}name"] = str(title)
    else:
        tensors = {name: content.array(place + name) for name in _listed(content, place)}
    for group in dict.fromkeys(("", (place or "").rstrip("/"))):
        for key in ("backend", "keras_version"):
            if key in content.groups[group]:
                info[key] = str(content.groups[group][key])
    if not tensors:
        raise content.file.error("a Keras file without weights")
    return Foreign(content.file.path, "keras", tensors, info)


def _lists(content: Hdf5) -> str | None:
    """Return the prefix of the group that lists layers; None if there is none."""
    for place in ("", "model_weights/"):
        attributes = content.groups.get(place.rstrip("/"), {})
        if any(key in attributes for key in ("layer_names", "layer_names0", "nb_layers")):
            return place
    return None


def _listed(content: Hdf5, place: str) -> Iterator[str]:
    """Yield the paths, below ``place``, of the datasets that the file lists."""
    top = content.groups[place.rstrip("/")]
    if "nb_layers" in top:
        layers = [f"layer_{i}" for i in range(_count(content, top, "nb_layers"))]
    else:
        layers = _names(top, "layer_names")
    for layer in layers:
        if place + layer not in content.groups:
            raise content.file.error(f"damaged: it lists a layer {shown(layer)} that is not there")
        attributes = content.groups[place + layer]
        if "nb_layers" in top:
            count = _count(content, attributes, "nb_params")
            yield from (f"{layer}/param_{i}" for i in range(count))
        else:
            yield from (f"{layer}/{name}" for name in _names(attributes, "weight_names"))


def _names(attributes: dict[str, str | list[str]], key: str) -> list[str]:
    """Return a list of names, put together if it was cut."""
    pieces = [key] if key in attributes else []
    while (piece := f"{key}{len(pieces)}") in attributes:
        pieces.append(piece)
    names: list[str] = []
    for piece in pieces:
        value = attributes[piece]
        names += [value] if isinstance(value, str) else value
    return names


def _count(content: Hdf5, attributes: dict[str, str | list[str]], key: str) -> int:
    """Return a number of layers or arrays, no larger than there are datasets and groups."""
    text = str(attributes.get(key, "0"))
    most = len(content.groups) + len(content.datasets)
    if not text.isdecimal() or len(text) > 9 or int(text) > most:
        raise content.file.error(
            f"damaged: its {key} is {shown(text)}, of {most} groups and arrays"
        )
    return int(text)
