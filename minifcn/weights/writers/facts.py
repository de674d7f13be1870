"""What writers check of a net before they write it, and what they say about it."""

from __future__ import annotations

from pathlib import Path

from ...data import Preprocessing
from ...models import FCN, LateFusion
from ...models.alignment import least_size
from ...nn import Module
from ...shapes import Pair
from ..header import WeightsError

LARGEST = 2**31 - 1  # bytes of a message of protocol buffers


def check_numbers(path: str | Path, net: Module) -> None:
    """Raise a WeightsError unless all parameters are float32, all that other programs take.

    >>> from minifcn import models
    >>> check_numbers("net.onnx", models.fcn32s(4, "small"))
    """
    dtypes = {array.dtype.name for array in net.state_dict().values()}
    if dtypes != {"float32"}:
        found = ", ".join(sorted(dtypes)) or "no kind, as there are none"
        raise WeightsError(f"{path}: parameters of {found}: convert with net.to(np.float32) first")


def check_length(path: str | Path, total: int) -> None:
    """Raise a WeightsError if a file of protocol buffers would have too many bytes.

    >>> check_length("net.onnx", 1000)
    """
    if total > LARGEST:
        rule = f"no program reads such a file above {LARGEST}"
        raise WeightsError(f"{path}: {total} bytes, but {rule}")


def in_words(rule: Preprocessing) -> str:
    """Return how pixels become a net's input, for whoever has another program do it.

    >>> from minifcn.data import CAFFE
    >>> in_words(CAFFE).partition(", mean")[0]
    '(pixel * 1.0 - mean) / std, pixels from 0 to 255, BGR'
    """
    pixels = "pixels from 0 to 255, " if rule.channels == 3 else ""  # others are no colours
    how = f"(pixel * {rule.scale} - mean) / std, {pixels}{rule.channel_order}"
    return f"{how}, mean {rule.mean}, std {rule.std}"


def least_image(net: Module) -> Pair | None:
    """Return the height and width from which on an FCN, or a late fusion, scores all pixels.

    None for other nets.

    >>> from minifcn import models
    >>> least_image(models.fcn32s(4, "small"))
    (2, 2)
    """
    nets = net.nets if isinstance(net, LateFusion) else [net]
    sizes = [
        [least_size(one.trunk_layers(), one.alignment, one.stride, axis) for axis in (0, 1)]
        for one in nets
        if isinstance(one, FCN)
    ]
    if not sizes or any(None in both for both in sizes):
        return None
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)
