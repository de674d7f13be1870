"""Nets for ONNX, the format that most programs read which only run nets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..._version import __version__
from ...data import Preprocessing
from ...files import replacing
from ...flow import Net
from ...models import FCN, LateFusion
from ...nn import Sequential
from ...shapes import Pair, pair
from ..header import WeightsError, title
from ..writing import check_place, saying_why
from .facts import check_length, check_numbers, in_words, least_image
from .message import Piece, field, length, write_pieces
from .onnx_nodes import Dims, Graph, onnx_nodes

OPSET, IR = 15, 8
"""The oldest version of the operations that has all we need (``Shape`` of some axes, for crops),
and the version of the format that came with it (ONNX 1.10, of 2021): old programs read no newer."""


def write_onnx(
    net: Net,
    path: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] = (),
    palette: np.ndarray | None = None,
    origin: str = "",
    size: int | Pair | None = None,
) -> Graph:
    """Write a net for onnxruntime and all that reads ONNX.

    The input is called ``image``, (N, C, height, width), as the preprocessing makes it. The output
    is ``score``, (N, classes, height, width) of an FCN and (N, classes) of a classifier; a net with
    several heads has ``score_sem`` and so on. Parameters keep their names.

    Parameters
    ----------
    net
        An FCN, a late fusion of FCNs, or a chain of layers such as a classifier, with float32
        parameters.
    path
        The file; ``.onnx`` is the customary ending.
    preprocessing, classes, palette, origin
        As in `minifcn.weights.save`. They become properties of the file (``metadata_props``), as
        does the net's ``config``. Nothing of them is computed in the graph.
    size
        The side of the images, or (height, width), if the file is to be for these alone. As a rule
        it takes all sizes (a classifier its own); the property ``least_size`` tells from which on
        an FCN has scores for all pixels.

    Returns
    -------
    Graph
        What is in the file, with the names and sizes of input and outputs.

    Raises
    ------
    ShapeError
        If the net cannot take images of this size.
    WeightsError
        If the library ``onnx`` is missing, if ONNX cannot do what a layer does, if classes and
        colours are not as many as the net's, or if the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from minifcn import models
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
    ...     write_onnx(models.fcn8s(4, "small"), folder + "/net.onnx").image
    ('N', 3, 'height', 'width')
    """
    path = Path(path)
    onnx = _library(path)
    if not isinstance(net, FCN | LateFusion | Sequential):
        raise WeightsError(f"{path}: a {type(net).__name__}: only FCNs and chains of layers can be")
    check_numbers(path, net)
    properties = _properties(path, net, preprocessing, classes, palette, origin)
    graph = onnx_nodes(net, None if size is None else pair(size, "size", least=1))
    message = _message(onnx, graph, properties)
    check_length(path, length(message))
    check_place(path)
    with saying_why(path), replacing(path) as temporary, temporary.open("wb") as file:
        write_pieces(file, message)
    return graph


def _library(path: Path) -> ModuleType:
    try:
        import onnx.helper
    except ImportError as error:
        raise WeightsError(
            f"{path}: ONNX files need the library onnx ({error}): pip install 'minifcn[onnx]'"
        ) from error
    return onnx


def _properties(
    path: Path,
    net: Net,
    preprocessing: Preprocessing | None,
    classes: Sequence[str],
    palette: np.ndarray | None,
    origin: str,
) -> dict[str, str]:
    """Return what a file says of itself: names and texts, JSON where they are more than words."""
    config = getattr(net, "config", {})
    found: dict[str, Any] = {"minifcn": __version__, "model": config, "origin": origin}
    found["least_size"] = least_image(net)
    if preprocessing is not None:
        found |= {"preprocessing": preprocessing.to_dict(), "input": in_words(preprocessing)}
    count = getattr(net, "num_classes", len(classes))
    for name, values in ("classes", classes), ("palette", palette):
        if values is None or len(values) == 0:
            continue
        if len(values) != count:
            raise WeightsError(f"{path}: {name} has {len(values)} entries for {count} classes")
        found[name] = np.asarray(values).tolist()
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in found.items()
        if value
    }


def _message(onnx: Any, graph: Graph, properties: dict[str, str]) -> list[Piece]:
    """Return the message that is the file.

    The library makes all but the arrays: in its messages they would be copied, and once more when
    those are written.
    """
    helper, config = onnx.helper, json.loads(properties.get("model", "{}"))
    name = title(config) if config else "a net"
    described = onnx.GraphProto(
        name=name,
        input=[_described(onnx, "image", graph.image)],
        output=[_described(onnx, *score) for score in graph.scores.items()],
        node=[
            helper.make_node(node.type, node.inputs, [node.name], node.name, **node.settings)
            for node in graph.nodes
        ],
    )
    content: list[Piece] = [described.SerializeToString()]
    for name, array in graph.arrays.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=kind)
        numbers = field(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, [array])
        whole = [tensor.SerializeToString(), *numbers]
        content += field(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, whole)
    model = onnx.ModelProto(
        ir_version=IR,
        producer_name="minifcn",
        producer_version=__version__,
        opset_import=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(model, properties)
    return [model.SerializeToString(), *field(onnx.ModelProto.GRAPH_FIELD_NUMBER, content)]


def _described(onnx: Any, name: str, dims: Dims) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
