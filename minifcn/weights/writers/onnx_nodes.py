"""A net in ONNX's words: its nodes, their settings and arrays, without writing any file.

ONNX describes a net as a graph. Each node reads named arrays and makes one; what is read is the
image, a constant (a parameter, for one), or what another node has made. Where a crop ends depends
on the size of the image, so that is computed in the graph too, from the shapes of its arrays: one
file serves images of all sizes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ... import nn
from ...backend import to_numpy
from ...flow import IMAGE, Net, Read, Shape, Step, outputs, shapes, steps
from ...models import FCN, Classifier, LateFusion
from ...shapes import Pair
from ..header import WeightsError

Dims: TypeAlias = tuple[int | str, ...]  # a name stands for any size
ANY = ("height", "width")
USUAL_SIZE = (500, 500)  # pixels: the arrays of such an image are looked at if any size will do
FUSION = {"sum": "Add", "max": "Max"}


class Node(NamedTuple):
    """One operation of a graph; the array that it makes has its name.

    Attributes
    ----------
    name, type
        Such as ``conv1_1`` and ``Conv``.
    inputs
        The arrays that it reads.
    settings
        By ONNX's names.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    settings: Mapping[str, Any]


class Graph(NamedTuple):
    """A net as ONNX describes it.

    Attributes
    ----------
    image
        Sizes of the input, (N, C, H, W).
    scores
        Names and sizes of the outputs.
    nodes
        In the order of computation.
    arrays
        The constants: parameters under the names of `state_dict`, and those of crops and scales.
    """

    image: Dims
    scores: dict[str, Dims]
    nodes: list[Node]
    arrays: dict[str, np.ndarray]


def onnx_nodes(net: Net, size: Pair | None = None) -> Graph:
    """Return what a net does, in evaluation, as a graph of ONNX.

    Parameters
    ----------
    net
        An FCN, a late fusion of them, or a chain of layers such as a classifier.
    size
        Of the images (height, width): then nothing is left to compute about crops. None: any,
        except for a classifier, which has its own.

    Raises
    ------
    ShapeError
        If the net cannot take images of this size.
    WeightsError
        If ONNX cannot do what a layer does; it names the layer.

    Examples
    --------
    >>> from minifcn import models
    >>> graph = onnx_nodes(models.fcn32s(4, "small"))
    >>> graph.image, graph.scores
    (('N', 3, 'height', 'width'), {'score': ('N', 4, 'height', 'width')})
    >>> for node in graph.nodes[-4:]:
    ...     print(node.type, *node.inputs, "->", node.name)
    ConvTranspose score_fr upscore.weight -> upscore
    Shape image -> image.size
    Add image.size upscore.start -> upscore.end
    Slice upscore upscore.start upscore.end rows_and_columns -> score
    """
    if isinstance(net, Classifier):
        size = size or (net.image_size, net.image_size)
    return _Translation(net, size).graph


class _Translation:
    """Goes through the steps of a net and adds nodes for each."""

    def __init__(self, net: Net, size: Pair | None) -> None:
        self.shapes, self.fixed = shapes(net, *(size or USUAL_SIZE)), size is not None
        if size is not None:
            _check_size(net, self.shapes[IMAGE])
        self.nodes: list[Node] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.parameters = {id(parameter): name for name, parameter in net.named_parameters()}
        self.made = {IMAGE: IMAGE}  # ONNX's name of each of our arrays
        # A late fusion's streams share the channels of the image out among them.
        self.streams = isinstance(net, LateFusion)
        self.channels_seen = 0
        for step in steps(net):
            self.made[step.name] = self.translate(step)
        scores = self.add_scores(net, size or ANY)
        image: Dims = ("N", self.shapes[IMAGE][1], *(size or ANY))
        self.graph = Graph(image, scores, self.nodes, self.arrays)

    def add(self, name: str, kind: str, *inputs: str, **settings: Any) -> str:
        """Add a node; return the name of the array that it makes."""
        self.nodes.append(Node(name, kind, inputs, settings))
        return name

    def constant(self, name: str, values: Any, dtype: Any = np.int64) -> str:
        """Add an array that is known now; return its name."""
        self.arrays[name] = np.array(values, dtype)
        return name

    def translate(self, step: Step) -> str:
        """Add what a step does; return the name of the array that it makes."""
        layer, name = step.layer, onnx_name(step.name)
        arrays = [self.made[read.array] for read in step.reads]
        if layer is None:
            return self.scale(name, step) if len(arrays) == 1 else self.fuse(name, step)
        if isinstance(layer, nn.Dropout):
            return arrays[0]  # it does nothing in evaluation
        if self.streams and arrays == [IMAGE]:
            arrays = [self.stream(name, layer)]
        if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            return self.pool(name, layer, arrays[0])
        both = getattr(layer, "weight", None), getattr(layer, "bias", None)
        arrays += [self.parameter(parameter) for parameter in both if parameter is not None]
        kind, settings = described(name, layer)
        return self.add(name, kind, *arrays, **settings)

    def parameter(self, parameter: nn.Parameter) -> str:
        """Add a parameter, once if layers share it; return its name."""
        name = self.parameters[id(parameter)]
        self.arrays[name] = to_numpy(parameter.data)
        return name

    def stream(self, name: str, layer: Any) -> str:
        """Add a cut that leaves the image's channels that one stream of a late fusion sees."""
        start = self.constant(f"{name}.first", [self.channels_seen])
        self.channels_seen += layer.in_channels
        stop = self.constant(f"{name}.stop", [self.channels_seen])
        axis = self.constant("channels", [1])
        return self.add(f"{name}.image", "Slice", IMAGE, start, stop, axis)

    def scale(self, name: str, step: Step) -> str:
        """Add what multiplies an array with a number."""
        factor = self.constant(f"{name}.factor", step.factor, np.float32)
        return self.add(name, "Mul", self.made[step.reads[0].array], factor)

    def fuse(self, name: str, step: Step) -> str:
        """Add the sum (or maximum) of two arrays where both have pixels."""
        size: str | Shape = self.shapes[step.name][2:]
        if not self.fixed:
            size = self.add(f"{name}.size", "Min", *(self.size(read) for read in step.reads))
        names = [f"{self.made[read.array]}.cropped" for read in step.reads]
        parts = map(self.crop, names, step.reads, (size, size))
        return self.add(name, FUSION[step.fusion], *parts)

    def size(self, read: Read) -> str:
        """Add how many rows and columns an array has from an offset on."""
        array = self.made[read.array]
        size = self.add(f"{array}.size", "Shape", array, start=2, end=4)
        if not any(read.offset):
            return size
        start = self.constant(f"{array}.start", read.offset)
        return self.add(f"{array}.rest", "Sub", size, start)

    def crop(self, name: str, read: Read, size: str | Shape) -> str:
        """Add a cut of so many rows and columns of an array, from an offset on.

        ``size`` is the name of an array that holds the two numbers, or the numbers.
        """
        array = self.made[read.array]
        start = self.constant(f"{array}.start", read.offset)
        if not isinstance(size, str):
            end = self.constant(f"{array}.end", np.add(read.offset, size))
        else:
            end = self.add(f"{array}.end", "Add", size, start) if any(read.offset) else size
        axes = self.constant("rows_and_columns", [2, 3])
        return self.add(name, "Slice", array, start, end, axes)

    def pool(self, name: str, layer: nn.MaxPool2d | nn.AvgPool2d, array: str) -> str:
        """Add a pooling layer.

        A window that starts behind the last pixel does not count. In ``ceil_mode`` older versions
        of onnxruntime count it all the same, and they divide by too much in averages that take in
        zeros around the image. So where there could be such a window, less padding at the end rules
        it out; and what is around the image is put there beforehand.
        """
        begin: tuple[int, ...] = layer.padding
        end, ceil = begin, layer.ceil_mode
        around: tuple[int, ...] = ()  # as a rule, nothing is put there
        settings: dict[str, Any]
        if isinstance(layer, nn.MaxPool2d):
            kind, steps, outside = "MaxPool", layer.dilation, -np.inf
            settings = {"dilations": steps}
        else:
            kind, steps, outside = "AveragePool", (1, 1), 0.0
            settings = {"count_include_pad": layer.count_include_pad and not ceil}
            around = begin if ceil and layer.count_include_pad else around
        reach = [d * (k - 1) + 1 for d, k in zip(steps, layer.kernel_size, strict=True)]
        axes = list(zip(reach, layer.stride, layer.padding, strict=True))
        if ceil and any(k < p + s for k, s, p in axes):
            # Rounded down, the padding p + s - 1 makes as many windows as rounding up does, and
            # k - 1 as many as start before the padding behind the last pixel: the lesser is right.
            end, ceil = tuple(min(p + s - 1, k - 1) for k, s, p in axes), False
            around = end if kind == "MaxPool" else around
        if any(around):
            sizes = self.constant(f"{name}.around", [0, 0, *begin, 0, 0, *around])
            value = self.constant(f"{name}.outside", outside, np.float32)
            array = self.add(f"{name}.padded", "Pad", array, sizes, value)
            begin, end = (0, 0), tuple(e - p for e, p in zip(end, around, strict=True))
        settings |= {"kernel_shape": layer.kernel_size, "strides": layer.stride}
        return self.add(name, kind, array, **settings, pads=(*begin, *end), ceil_mode=ceil)

    def add_scores(self, net: Net, size: Dims) -> dict[str, Dims]:
        """Add what makes the results of the last arrays; return their names and sizes."""
        first = net.nets[0] if isinstance(net, LateFusion) else net
        found: dict[str, Dims] = {}
        if not isinstance(first, FCN):
            (array,) = outputs(net)
            self.add("score", "Identity", self.made[array])
            _, channels, *rest = self.shapes[array]
            return {"score": ("N", channels, *(f"score_{axis}" for axis in ANY[: len(rest)]))}
        image = self.shapes[IMAGE][2:] if self.fixed else self.size(Read(IMAGE))
        for head, array in zip(first.heads, outputs(net), strict=True):
            name = self.crop(f"score{head}", Read(array, first.offset), image)
            found[name] = ("N", self.shapes[array][1], *size)
        return found


def onnx_name(name: str) -> str:
    """Return the name of a step without the signs that some programs do not take in names.

    >>> onnx_name("score_pool4 + upscore2"), onnx_name("inception_3a.1x1")
    ('score_pool4_upscore2', 'inception_3a.1x1')
    """
    return re.sub(r"[^\w.]+", "_", name)


def described(name: str, layer: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return ONNX's type of a layer with one input, not a pooling layer, and its settings.

    Raises
    ------
    WeightsError
        If ONNX has no such layer.

    Examples
    --------
    >>> described("fc8", nn.Linear(4, 3))
    ('Gemm', {'transB': 1})
    """
    for ours, kind, settings in TYPES:
        if isinstance(layer, ours):
            return kind, settings(name, layer)
    raise WeightsError(f"{name}, {layer!r}: ONNX has no such layer")


def _convolution(name: str, layer: Any) -> dict[str, Any]:
    return {
        "kernel_shape": layer.kernel_size,
        "strides": layer.stride,
        "pads": layer.padding * 2,  # at the start, then at the end
        "dilations": layer.dilation,
        "group": layer.groups,
    }


def _transposed(name: str, layer: Any) -> dict[str, Any]:
    return {**_convolution(name, layer), "output_padding": layer.output_padding}


def _normalisation(name: str, layer: Any) -> dict[str, Any]:
    if layer.size % 2 == 0:
        raise WeightsError(
            f"{name}, {layer!r}: of an even size, ONNX's LRN has one channel more after the "
            "middle one, this layer before it: only odd sizes can be written"
        )
    # alpha is divided by the size there too.
    return {"size": layer.size, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}


Settings = Callable[[str, Any], dict[str, Any]]

TYPES: list[tuple[type[nn.Module], str, Settings]] = [
    (nn.Conv2d, "Conv", _convolution),
    (nn.ConvTranspose2d, "ConvTranspose", _transposed),
    (nn.LocalResponseNorm, "LRN", _normalisation),
    (nn.Linear, "Gemm", lambda name, layer: {"transB": 1}),
    (nn.ReLU, "Relu", lambda name, layer: {}),
    (nn.Flatten, "Flatten", lambda name, layer: {"axis": 1}),
    (nn.Branches, "Concat", lambda name, layer: {"axis": 1}),
]
"""Our layers, ONNX's types, and what writes the settings down."""


def _check_size(net: Net, image: Shape) -> None:
    """Raise a ShapeError if a net cannot take images of a shape."""
    if isinstance(net, FCN | LateFusion):
        net.check_image(image)
    elif isinstance(net, Classifier):
        net.check(image)
