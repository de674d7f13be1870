"""A net in Caffe's words: its layers, their types, settings and arrays, without writing any file.

Caffe's nets are lists of layers that read and write named arrays, Caffe's "blobs". Names are those
of the published nets: in GoogLeNet "/" stands again where minifcn has "_" or ".".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ... import nn
from ...backend import to_numpy
from ...flow import IMAGE, Shape, Step, shapes, steps
from ...models import FCN, Classifier
from ...shapes import Pair, pool_size
from ..header import WeightsError

DATA = "data"  # Caffe's name of the image
FUSION = {"sum": "SUM", "max": "MAX"}


class Word(str):
    """A setting that is one of a few words, and so is written without quotation marks."""


class Layer(NamedTuple):
    """A layer as Caffe describes it.

    Attributes
    ----------
    name, type
        Such as ``conv1_1`` and ``Convolution``.
    bottoms, top
        The arrays that it reads and the one that it writes; it may write to the one that it reads.
    settings
        By Caffe's names; a list stands for a setting that occurs several times.
    blobs
        Its weights, then its biases.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    top: str
    settings: Mapping[str, Any] = {}
    blobs: tuple[np.ndarray, ...] = ()


def caffe_layers(net: FCN | Classifier, size: Pair) -> list[Layer]:
    """Return what a net does to one image of some size (height, width), as Caffe's layers.

    The first is the input. ReLU and dropout overwrite what they read, as in the published nets.

    Raises
    ------
    ShapeError
        If the net cannot take images of this size.
    WeightsError
        If Caffe cannot do what a layer does; it names the layer.

    Examples
    --------
    >>> from minifcn import models
    >>> for layer in caffe_layers(models.fcn32s(4, "small"), (100, 200))[-3:]:
    ...     print(layer.name, layer.type, *layer.bottoms, "->", layer.top)
    score_fr Convolution fc7 -> score_fr
    upscore Deconvolution score_fr -> upscore
    score Crop upscore data -> score
    """
    return _Translation(net, size).layers


def caffe_name(name: str) -> str:
    """Return the name that a layer has in the published Caffe net.

    >>> caffe_name("conv1_7x7_s2"), caffe_name("inception_3a.1x1"), caffe_name("conv1_1")
    ('conv1/7x7_s2', 'inception_3a/1x1', 'conv1_1')
    """
    # conv1_1 of VGG16 has no slash: it is followed by no letter, and not by 3x3 or the like.
    name = re.sub(r"^(conv\d|pool\d|loss\d)_(?=[a-z]|\dx\d)", r"\1/", name)
    return name.replace(".", "/")


class _Translation:
    """Goes through the steps of a net and adds a layer of Caffe for each."""

    def __init__(self, net: FCN | Classifier, size: Pair) -> None:
        every = steps(net)
        self.shapes = shapes(net, *size)
        self.readers = Counter(read.array for step in every for read in step.reads)
        self.tops = {IMAGE: DATA}  # Caffe's name of each of our arrays
        dims = {"shape": {"dim": list(self.shapes[IMAGE])}}
        self.layers = [Layer("input", "Input", (), DATA, {"input_param": dims})]
        for step in every:
            self.tops[step.name] = self.translate(step)
        if isinstance(net, FCN):
            net.check_image(self.shapes[IMAGE])
            for head in net.heads:
                self.crop(f"score{head}", self.tops[net.last + head], DATA, net.offset)

    def add(
        self,
        name: str,
        kind: str,
        *bottoms: str,
        settings: Mapping[str, Any],
        blobs: tuple[np.ndarray, ...] = (),
        top: str = "",
    ) -> str:
        """Add a layer; return the array that it writes, which has its name if no other is given."""
        self.layers.append(Layer(name, kind, bottoms, top or name, settings, blobs))
        return self.layers[-1].top

    def translate(self, step: Step) -> str:
        """Add what a step does; return Caffe's name of the array that it makes."""
        layer, name, array = step.layer, caffe_name(step.name), step.reads[0].array
        bottoms = [self.tops[read.array] for read in step.reads]
        if layer is None:
            return self.scale(step) if len(bottoms) == 1 else self.fuse(step)
        kind, settings = described(name, layer, self.shapes[array])
        if isinstance(layer, nn.ReLU | nn.Dropout) and self.readers[array] == 1:
            return self.add(name, kind, *bottoms, settings=settings, top=bottoms[0])
        name += "/output" if isinstance(layer, nn.Branches) else ""
        both = (getattr(layer, "weight", None), getattr(layer, "bias", None))
        blobs = tuple(to_numpy(parameter.data) for parameter in both if parameter is not None)
        return self.add(name, kind, *bottoms, settings=settings, blobs=blobs)

    def scale(self, step: Step) -> str:
        """Add what multiplies a tapped array in a net that was trained at once."""
        tap = step.reads[0].array
        settings = {"filler": {"type": "constant", "value": step.factor}, "bias_term": False}
        factors = np.full(self.shapes[tap][1], step.factor, np.float32)  # one for each channel
        return self.add(
            f"scale_{caffe_name(tap)}",
            "Scale",
            self.tops[tap],
            settings={"scale_param": settings},
            blobs=(factors,),
        )

    def fuse(self, step: Step) -> str:
        """Add the sum (or maximum) of upsampled and tapped scores, the larger of them cropped."""
        up, finer = step.reads
        name = "fuse_" + self.tops[finer.array].removeprefix("score_")
        names = [self.tops[up.array], self.tops[finer.array]]
        sizes = [self.shapes[read.array][2:] for read in step.reads]
        larger = [size != self.shapes[step.name][2:] for size in sizes]
        if all(larger):
            raise WeightsError(
                f"{name}: of {names[0]} ({sizes[0][0]} x {sizes[0][1]}) and {names[1]} "
                f"({sizes[1][0]} x {sizes[1][1]}), each would be cropped on one side, but Caffe "
                "crops one array to the size of another: write the net for another image size"
            )
        for i, read in enumerate(step.reads):
            if larger[i]:
                names[i] = self.crop(f"{names[i]}c", names[i], names[1 - i], read.offset)
        settings = {"operation": Word(FUSION[step.fusion])}
        return self.add(name, "Eltwise", *names, settings={"eltwise_param": settings})

    def crop(self, name: str, array: str, reference: str, offset: Pair) -> str:
        """Add a crop of an array to the height and width of another, from ``offset`` on."""
        starts = [offset[0]] if offset[0] == offset[1] else list(offset)
        settings = {"crop_param": {"axis": 2, "offset": starts}}
        return self.add(name, "Crop", array, reference, settings=settings)


def described(name: str, layer: nn.Module, shape: Shape) -> tuple[str, dict[str, Any]]:
    """Return Caffe's type of a layer that reads an array of some shape, and its settings.

    Raises
    ------
    WeightsError
        If Caffe has no such layer.

    Examples
    --------
    >>> described("fc8", nn.Linear(4, 3), (1, 4))
    ('InnerProduct', {'inner_product_param': {'num_output': 3, 'bias_term': True}})
    """
    for ours, kind, settings in TYPES:
        if isinstance(layer, ours):
            return kind, settings(name, layer, shape)
    raise WeightsError(f"{name}, {layer!r}: Caffe has no such layer")


def _convolution(name: str, layer: Any, shape: Shape) -> dict[str, Any]:
    if any(getattr(layer, "output_padding", ())):
        raise WeightsError(f"{name}, {layer!r}: Caffe's Deconvolution has no output_padding")
    settings = {"num_output": layer.out_channels, "bias_term": layer.bias is not None}
    for axes in ("pad", layer.padding), ("kernel", layer.kernel_size), ("stride", layer.stride):
        settings |= _both_axes(*axes)
    settings |= {"dilation": list(layer.dilation)} if layer.dilation != (1, 1) else {}
    settings |= {"group": layer.groups} if layer.groups != 1 else {}
    return {"convolution_param": settings}


def _pooling(name: str, layer: Any, shape: Shape) -> dict[str, Any]:
    for axis in (0, 1):
        n, k, s, p = (
            shape[2 + axis],
            *(setting[axis] for setting in (layer.kernel_size, layer.stride, layer.padding)),
        )
        ours = pool_size(n, k, s, p, 1, layer.ceil_mode)
        caffes = -(-(n + 2 * p - k) // s) + 1  # it always rounds up
        if any(layer.padding) and (caffes - 1) * s >= n + p:
            caffes -= 1
        if ours != caffes:
            raise WeightsError(
                f"{name}, {layer!r}: makes {ours} of {n} rows or columns, but Caffe rounds up, to "
                f"{caffes}: write the net for another image size, or build it with ceil_mode=True"
            )
    is_max = isinstance(layer, nn.MaxPool2d)
    if is_max and layer.dilation != (1, 1):
        raise WeightsError(f"{name}, {layer!r}: Caffe's Pooling has no dilation")
    if not is_max and any(layer.padding) and not layer.count_include_pad:
        raise WeightsError(f"{name}, {layer!r}: Caffe's averages count the padding as zeros")
    settings: dict[str, Any] = {"pool": Word("MAX" if is_max else "AVE")}
    for axes in ("pad", layer.padding), ("kernel", layer.kernel_size), ("stride", layer.stride):
        settings |= _both_axes(*axes)
    return {"pooling_param": settings}


def _both_axes(name: str, value: Pair) -> dict[str, int]:
    """Return a setting of both axes: one number if they are alike.

    >>> _both_axes("kernel", (3, 3)), _both_axes("pad", (1, 0))
    ({'kernel_size': 3}, {'pad_h': 1, 'pad_w': 0})
    """
    if value[0] == value[1]:
        return {"kernel_size" if name == "kernel" else name: value[0]}
    return {f"{name}_h": value[0], f"{name}_w": value[1]}


def _normalisation(name: str, layer: Any, shape: Shape) -> dict[str, Any]:
    if layer.size % 2 == 0:
        raise WeightsError(f"{name}, {layer!r}: Caffe's LRN needs an odd size")
    settings = {"local_size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "k": layer.k}
    return {"lrn_param": settings}


def _fully_connected(name: str, layer: Any, shape: Shape) -> dict[str, Any]:
    settings = {"num_output": layer.out_features, "bias_term": layer.bias is not None}
    return {"inner_product_param": settings}


def _dropout(name: str, layer: Any, shape: Shape) -> dict[str, Any]:
    return {"dropout_param": {"dropout_ratio": layer.p}}


def _none(name: str, layer: Any, shape: Shape) -> dict[str, Any]:
    return {}


Settings = Callable[[str, Any, Shape], dict[str, Any]]

TYPES: list[tuple[type[nn.Module], str, Settings]] = [
    (nn.Conv2d, "Convolution", _convolution),
    (nn.ConvTranspose2d, "Deconvolution", _convolution),
    (nn.MaxPool2d, "Pooling", _pooling),
    (nn.AvgPool2d, "Pooling", _pooling),
    (nn.LocalResponseNorm, "LRN", _normalisation),
    (nn.Linear, "InnerProduct", _fully_connected),
    (nn.Dropout, "Dropout", _dropout),
    (nn.ReLU, "ReLU", _none),
    (nn.Flatten, "Flatten", _none),
    (nn.Branches, "Concat", _none),
]
"""Our layers, Caffe's types, and what writes the settings down."""
