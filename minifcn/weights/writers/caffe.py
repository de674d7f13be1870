"""Nets for Caffe: a ``.prototxt`` that describes the net and a ``.caffemodel`` with its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...data import Preprocessing
from ...files import replacing
from ...models import FCN, Classifier
from ...shapes import Pair, pair
from ..header import WeightsError, title
from ..wire import bytes_field, varint
from ..writing import check_place, saying_why
from .caffe_layers import Layer, Word, caffe_layers
from .facts import check_length, check_numbers, in_words
from .message import Piece, field, length, write_pieces

USUAL_SIZE = 500  # pixels, of the published FCNs
ENDINGS = (".prototxt", ".caffemodel")


def write_caffe(
    net: FCN | Classifier,
    path: str | Path,
    *,
    size: int | Pair | None = None,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Write a net for Caffe and all that reads its files, OpenCV's ``dnn`` among them.

    Layers have the names of the published nets. The scores are the array ``score`` of an FCN
    (``score_sem``, ... of one with several heads), the last layer's of a classifier.

    Parameters
    ----------
    net
        An FCN or a classifier with float32 parameters.
    path
        The files' name; ``.prototxt`` and ``.caffemodel`` are added (or take each other's place).
    size
        Of the images: the side, or (height, width). Caffe's nets are written for one size. As a
        rule 500; classifiers have their own.
    preprocessing, classes
        For the comment that the ``.prototxt`` starts with. Caffe's files have no place for them,
        and programs often assume `minifcn.data.CAFFE`.

    Returns
    -------
    tuple[Path, Path]
        The ``.prototxt`` and the ``.caffemodel``.

    Raises
    ------
    ShapeError
        If the net cannot take images of this size.
    WeightsError
        If Caffe cannot do what the net does, or the files cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from minifcn import models
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = write_caffe(models.fcn8s(4, "small"), folder + "/net", size=(200, 300))
    ...     [path.name for path in paths]
    ['net.prototxt', 'net.caffemodel']
    """
    path = Path(path)
    stem = path.name.removesuffix(path.suffix) if path.suffix in ENDINGS else path.name
    description, weights = (path.with_name(stem + ending) for ending in ENDINGS)
    if not isinstance(net, FCN | Classifier):
        raise WeightsError(f"{path}: a {type(net).__name__}: only FCNs and classifiers can be so")
    check_numbers(path, net)
    if size is None:
        size = net.image_size if isinstance(net, Classifier) else USUAL_SIZE
    layers = caffe_layers(net, pair(size, "size", least=1))
    name = str(net.config.get("model", "minifcn"))
    message = _message(name, layers)
    check_length(path, length(message))
    for place in (description, weights):
        check_place(place)
    with saying_why(path), replacing(weights) as first, replacing(description) as second:
        with first.open("wb") as file:
            write_pieces(file, message)
        lines = [*_comment(net, preprocessing, classes), *_description(name, layers)]
        second.write_text("\n".join(lines) + "\n", "utf-8")
    return description, weights


def _message(name: str, layers: Sequence[Layer]) -> list[Piece]:
    """Return the message that `minifcn.weights.readers.caffe` describes, arrays as they are."""
    net: list[Piece] = [bytes_field(1, name)]
    for layer in layers:
        texts = [(1, layer.name), (2, layer.type)]
        texts += [(3, bottom) for bottom in layer.bottoms] + [(4, layer.top)]
        content: list[Piece] = [bytes_field(*text) for text in texts]
        for blob in layer.blobs:
            sizes = bytes_field(1, b"".join(varint(size) for size in blob.shape))
            content += field(7, [bytes_field(7, sizes), *field(5, [blob])])
        net += field(100, content)
    return net


def _comment(
    net: FCN | Classifier, preprocessing: Preprocessing | None, classes: Sequence[str]
) -> Iterator[str]:
    """Yield the first lines of a description: what Caffe's format has no words for."""
    yield f"# {title(net.config) if net.config else type(net).__name__}, by minifcn {__version__}"
    if preprocessing is not None:
        yield f"# input: {in_words(preprocessing)}"
    if classes:
        yield f"# classes: {json.dumps(list(classes), ensure_ascii=False)}"


def _description(name: str, layers: Sequence[Layer]) -> Iterator[str]:
    """Yield the lines of a net's description in protocol buffers' text format."""
    yield f"name: {_text(name)}"
    for layer in layers:
        names = {"name": layer.name, "type": layer.type}
        arrays = {"bottom": list(layer.bottoms), "top": layer.top}
        yield from _block("layer", {**names, **arrays, **layer.settings})


def _block(name: str, content: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    yield f"{indent}{name} {{"
    for key, value in content.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield from _block(key, one, indent + "  ")
            else:
                yield f"{indent}  {key}: {_text(one)}"
    yield f"{indent}}}"


def _text(value: Any) -> str:
    """Return a setting as the text format writes it.

    >>> _text(0.5), _text(True), _text("data"), _text(Word("MAX"))
    ('0.5', 'true', '"data"', 'MAX')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, Word):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
