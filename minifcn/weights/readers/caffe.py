"""Caffe's weights: ``.caffemodel`` files.

Such a file is one message (`minifcn.weights.wire`): a net, that holds layers, that hold blobs
(arrays), that hold a shape and numbers. The numbers of its fields, from Caffe's caffe.proto:

    net          1 name, 2 layers of the older format ("V1"), 100 layers
    layer        1 name, 2 type, a text such as "Convolution", 7 blobs
    V1 layer     4 name, 5 type, a number such as 4, 6 blobs, 1 a still older layer ("V0")
    blob         7 shape, 5 float32 numbers, 8 float64 numbers, and in old files the sizes
                 1 num, 2 channels, 3 height, 4 width
    shape        1 sizes

All else, settings and solvers' gradients, is skipped.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..foreign import Foreign
from ..header import WeightsError
from ..wire import BYTES, EIGHT, FOUR, VARINT, Field, Part, WireFile
from .mapped import MOST_AXES

V1_TYPES = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}
"""The names that those layer types of V1 files that have weights got later."""


class Numbers(NamedTuple):
    """The numbers of a layer's fields."""

    name: int
    type: int
    blobs: int


LAYERS = {100: Numbers(name=1, type=2, blobs=7), 2: Numbers(name=4, type=5, blobs=6)}
"""By the number of the net's field: the layers of today, and those of V1."""

FLOATS = {5: (FOUR, "<f4"), 8: (EIGHT, "<f8")}  # the blob's fields that hold numbers
LEGACY_SIZES = (1, 2, 3, 4)


def read_caffemodel(path: str | Path) -> Foreign:
    """Return the arrays of a ``.caffemodel``, under Caffe's names.

    Parameters
    ----------
    path
        The file: of the present or the V1 format, its numbers packed or not, float32 or float64.

    Returns
    -------
    Foreign
        ``tensors`` has the blobs as ``conv1_1/0`` (weights) and ``conv1_1/1`` (biases): float32,
        or float64 where the file has that. They are views of the file, not to be written to, with
        the shape that the file says: in old files four sizes, of a bias (1, 1, 1, N). ``info`` has
        the net's name as ``net`` and the layers' types as ``conv1_1/type``.

    Raises
    ------
    WeightsError
        If the file cannot be read, is damaged, or is no Caffe file; it names the byte.

    Notes
    -----
    A file of 550 MB takes milliseconds; its arrays take memory as they are used.
    """
    file = WireFile(path)
    tensors: dict[str, np.ndarray] = {}
    info: dict[str, str] = {}
    layers = 0
    try:
        for number, kind, value in file.fields(file.whole):
            if (number, kind) == (1, BYTES):
                info["net"] = file.text(value)
            elif number in LAYERS and kind == BYTES:
                layers += 1
                _read_layer(file, value, LAYERS[number], tensors, info)
    except WeightsError:
        _refuse_text(file)
        raise
    if not tensors:
        found = f"{layers} layers, but no weights" if layers else "no layers: not a .caffemodel"
        raise file.error(f"the file holds {found}")
    return Foreign(file.path, "caffe", tensors, info)


def _refuse_text(file: WireFile) -> None:
    """Raise an error of its own for a file that is text, as nets' descriptions are."""
    start = file.map[:64]
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        raise file.error(
            "a text file: a .prototxt describes a net, its weights are in a .caffemodel"
        ) from None


def _read_layer(
    file: WireFile,
    layer: Part,
    numbers: Numbers,
    tensors: dict[str, np.ndarray],
    info: dict[str, str],
) -> None:
    """Add the blobs of a layer to ``tensors``, and its type to ``info`` if it has blobs."""
    name, kind_of_layer = "", ""
    blobs: list[Part] = []
    for number, kind, value in file.fields(layer):
        if (number, kind) == (numbers.name, BYTES):
            name = file.text(value)
        elif (number, kind) == (numbers.type, BYTES):
            kind_of_layer = file.text(value)
        elif (number, kind) == (numbers.type, VARINT):
            kind_of_layer = V1_TYPES.get(value, f"V1 type {value}")
        elif (number, kind) == (numbers.blobs, BYTES):
            blobs.append(value)
        elif (number, kind) == (1, BYTES):
            rule = 'a layer of the oldest format ("V0"): Caffe\'s upgrade_net_proto_binary makes '
            raise file.damaged(value.start, rule + "a newer file of it")
    for i, blob in enumerate(blobs):
        key = f"{name}/{i}"
        if not name or key in tensors:
            twice = f"a second layer {name!r}" if name else "a layer without a name"
            raise file.damaged(layer.start, f"{twice}, with weights: which are meant?")
        tensors[key] = _read_blob(file, blob, key)
    if blobs:
        info[f"{name}/type"] = kind_of_layer


def _read_blob(file: WireFile, blob: Part, key: str) -> np.ndarray:
    """Return a blob's numbers in its shape."""
    legacy: dict[int, int] = {}
    sizes: list[int] = []
    pieces: dict[int, list[np.ndarray]] = {number: [] for number in FLOATS}
    for field in file.fields(blob):
        if field.number in LEGACY_SIZES and field.kind == VARINT:
            legacy[field.number] = field.value
        elif (field.number, field.kind) == (7, BYTES):
            sizes += _read_shape(file, field.value)
            if len(sizes) > MOST_AXES:
                raise file.damaged(blob.start, f"{key!r} has more than {MOST_AXES} sizes")
        elif field.number in FLOATS:
            pieces[field.number] += _floats(file, field)
    shape = tuple(legacy.get(number, 0) for number in LEGACY_SIZES) if legacy else tuple(sizes)
    # Caffe takes the float64 numbers if there are both.
    found = pieces[8] or pieces[5]
    count = sum(len(piece) for piece in found)
    if min(shape, default=1) < 1 or math.prod(shape) != count:
        rule = f"{key!r} should be of shape ({', '.join(map(str, shape))}), but has {count} numbers"
        raise file.damaged(blob.start, rule)
    # As a rule it is a single piece, which needs no copy.
    return (found[0] if len(found) == 1 else np.concatenate(found)).reshape(shape)


def _read_shape(file: WireFile, part: Part) -> list[int]:
    sizes: list[int] = []
    for number, kind, value in file.fields(part):
        if (number, kind) == (1, VARINT):
            sizes.append(value)
        elif (number, kind) == (1, BYTES):
            sizes += file.packed_integers(value, MOST_AXES)
    return sizes


def _floats(file: WireFile, field: Field) -> list[np.ndarray]:
    """Return the numbers that a field of a blob holds; none, if it is empty or of another kind."""
    kind, dtype = FLOATS[field.number]
    if field.kind == BYTES:
        numbers = file.packed_floats(field.value, dtype)
        return [numbers] if len(numbers) else []
    return [field.value.view(dtype)] if field.kind == kind else []
