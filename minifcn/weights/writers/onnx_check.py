"""Whether another program computes from an ONNX file what the net computes here."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import numpy as np

from ...autograd import Tensor, no_grad
from ...flow import Net
from ...nn import evaluation_mode
from ..header import WeightsError
from .facts import least_image
from .onnx_nodes import Graph

SIZE = (65, 97)  # pixels; small, and with no side a multiple of any stride
ALLOWED = 1e-4  # difference, as a share of the largest score


def onnxruntime_is_there() -> bool:
    """Tell whether the library onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def check_with_onnxruntime(net: Net, graph: Graph, path: str | Path) -> float:
    """Let onnxruntime score a random image with a file, and compare with the net.

    Parameters
    ----------
    net, graph, path
        What was given to `write_onnx`, what it returned, and its file.

    Returns
    -------
    float
        The largest difference, as a share of the largest score.

    Raises
    ------
    WeightsError
        If onnxruntime does not read the file, or gives other scores.
    """
    onnxruntime = importlib.import_module("onnxruntime")
    usual = (1, 3, *map(max, SIZE, least_image(net) or SIZE))
    sizes = [n if isinstance(n, int) else m for n, m in zip(graph.image, usual, strict=True)]
    image = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
    with evaluation_mode(net), no_grad():
        scores = net(Tensor(image))
    ours = list(scores.values()) if isinstance(scores, dict) else [scores]
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        theirs = session.run(list(graph.scores), {"image": image})
    except Exception as error:  # onnxruntime has a class of its own for each kind of failure
        raise WeightsError(f"{path}: was written, but onnxruntime fails: {error}") from error
    largest = max(float(abs(score.data).max()) for score in ours)
    # A new net's scores are all zero.
    difference = max(
        float(abs(a.data - b).max()) / (largest or 1) for a, b in zip(ours, theirs, strict=True)
    )
    if not difference <= ALLOWED:
        raise WeightsError(
            f"{path}: was written, but onnxruntime {onnxruntime.__version__} gives other scores: "
            f"they differ by {difference:.1e} of the largest one, where {ALLOWED} is allowed"
        )
    return difference
