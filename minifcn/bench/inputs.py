"""The nets, weights and data that every side starts from: the same numbers in each process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import models
from ..backend import is_array, to_numpy
from ..models import FCN
from ..nn import Conv2d
from .works import Settings

LR, MOMENTUM, DECAY = 1e-3, 0.9, 5e-4  # of the nets' SGD
COMMON_LR, COMMON_CLASSES = 0.1, 5


def new_net(settings: Settings) -> FCN:
    """Return the net of a case, with weights from a fixed seed.

    Score layers start at zero in a new FCN. Here they start as other layers do, or the first loss
    would be log(classes) whatever the rest of the net computes, and would check nothing.
    """
    rng = np.random.default_rng(0)
    net = models.build(rng=rng, **settings["net"])
    for layer in (getattr(net, name) for name in ("score_fr", *(s.score for s in net.skips))):
        if isinstance(layer, Conv2d):
            deviation = math.sqrt(1 / layer.in_channels)
            layer.weight.data[...] = rng.normal(0, deviation, layer.weight.shape)
    return net


def images_and_labels(settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3, H, W) of normal numbers, and a random class (N, H, W) for each pixel."""
    shape = settings["batch"]
    rng = np.random.default_rng(1)
    images = np.asarray(rng.standard_normal(shape, dtype=np.float32))
    classes = settings["net"]["num_classes"]
    return images, rng.integers(0, classes, (shape[0], *shape[2:]))


def layer_arrays(settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return input, weight and output gradient of a convolution; images stored channels-last."""
    rng = np.random.default_rng(2)
    weight = _he(rng, settings["weight"])
    return channels_last(rng, settings["x"]), weight, channels_last(rng, settings["g"])


def _he(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Return a convolution's weight of normal numbers that keeps the size of activations."""
    deviation = np.float32(math.sqrt(2 / math.prod(shape[1:])))
    return rng.standard_normal(tuple(shape), dtype=np.float32) * deviation


def channels_last(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Return normal numbers (N, C, H, W), with the channels of a pixel side by side in memory."""
    n, c, h, w = shape
    return rng.standard_normal((n, h, w, c), dtype=np.float32).transpose(0, 3, 1, 2)


def common_start(settings: Settings) -> dict[str, np.ndarray]:
    """Return images, labels and the six starting parameters of the step that all libraries do."""
    n, c, height, width = settings["x"]
    rng = np.random.default_rng(3)
    return {
        "images": rng.standard_normal((n, c, height, width), dtype=np.float32),
        "labels": rng.integers(0, COMMON_CLASSES, (n, height // 4, width // 4), dtype=np.int32),
        "w1": _he(rng, (32, c, 3, 3)),
        "b1": np.zeros(32, np.float32),
        "w2": _he(rng, (64, 32, 3, 3)),
        "b2": np.zeros(64, np.float32),
        "w3": _he(rng, (COMMON_CLASSES, 64, 1, 1)),
        "b3": np.zeros(COMMON_CLASSES, np.float32),
    }


def sample(result: Any) -> list[float]:
    """Return up to 64 numbers of a result, evenly spaced in it, to compare two sides by.

    >>> sample(np.arange(100.0))[:4]
    [0.0, 1.0, 3.0, 4.0]
    """
    array = np.atleast_1d(_on_cpu(result))
    places = np.linspace(0, array.size - 1, min(64, array.size)).astype(np.int64)
    return array[np.unravel_index(places, array.shape)].astype(np.float64).tolist()


def _on_cpu(result: Any) -> np.ndarray:
    """Return a number, or an array of any library and device, as a NumPy array."""
    if is_array(result):
        return to_numpy(result)
    if hasattr(result, "detach"):  # of PyTorch; NumPy has no name for its bfloat16
        result = result.detach().float().cpu()
    return np.asarray(result)
