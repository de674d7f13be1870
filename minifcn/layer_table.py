"""A net's layers as a table: kernels, sizes, parameters, receptive fields, memory and work.

Nothing is computed: all numbers follow from the layers' settings and the size of the image.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

from .flops import multiply_adds
from .flow import IMAGE, Net, Shape, Step, outputs, shapes, steps
from .models import FCN, LateFusion
from .nn import (
    AvgPool2d,
    Branches,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
)
from .shapes import Pair

IN_PLACE = Dropout, ReLU  # in evaluation they change numbers where they lie, or none


# The layers that multiply with weights, and what they call.
OPERATIONS: dict[Any, str] = {
    Conv2d: "conv2d",
    ConvTranspose2d: "conv_transpose2d",
    Linear: "linear",
}


class Row(NamedTuple):
    """What there is to know of a layer.

    Attributes
    ----------
    name
        Of the layer; a sum has the names of its two inputs.
    kind
        The layer's class, or ``"sum"``, ``"max"``, ``"scale"``, ``"crop"``.
    kernel, stride, padding
        (vertical, horizontal), or None if the layer has none.
    shape
        Of its output, for one image: (C, H, W), or (C,) behind a Flatten.
    parameters
        How many numbers the layer learns or holds.
    field
        How many pixels of the image, (vertical, horizontal), an output pixel sees; where inputs
        meet, that of the one that sees most.
    bytes
        The memory of its output, for one image.
    multiply_adds
        Products of an input with a weight, each of which is added to an output. Those with the
        padding's zeros count, and those with a bilinear kernel's zeros. Biases, ReLU, pooling,
        normalisation and sums do not count.
    """

    name: str
    kind: str
    kernel: Pair | None
    stride: Pair | None
    padding: Pair | None
    shape: Shape
    parameters: int
    field: Pair
    bytes: int
    multiply_adds: int

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each product that is added."""
        return 2 * self.multiply_adds


def layer_table(net: Net, height: int, width: int) -> list[Row]:
    """Return a row for each layer of a net, in order of computation, for one image of some size.

    ReLU and dropout have none: they need no memory of their own and change no size. The chains of
    an `nn.Branches` come before the row that has its name, where they are put side by side.

    Parameters
    ----------
    net
        An `FCN`, a classifier, or another chain of layers.
    height, width
        Of the image, in pixels.

    Raises
    ------
    ShapeError
        If the image is too small for the net, or not of the size that a classifier takes.

    Examples
    --------
    >>> from minifcn import models
    >>> rows = layer_table(models.fcn32s(4, "small"), 128, 128)
    >>> [(row.name, row.shape, row.field) for row in rows[-3:]]  # doctest: +NORMALIZE_WHITESPACE
    [('score_fr', (4, 4, 4), (166, 166)),
     ('upscore', (4, 160, 160), (198, 198)),
     ('score', (4, 128, 128), (198, 198))]
    """
    found, fields, rows = shapes(net, height, width), _fields(net, height, width), []
    item = next(iter(net.parameters())).dtype.itemsize
    for step in steps(net):
        if isinstance(step.layer, IN_PLACE):
            continue
        x, y, layer = found[step.reads[0].array], found[step.name], step.layer
        own = [] if layer is None or isinstance(layer, Branches) else layer.parameters()
        row = Row(
            step.name,
            _kind(step),
            getattr(layer, "kernel_size", None),
            getattr(layer, "stride", None),
            getattr(layer, "padding", None),
            y[1:],
            sum(parameter.data.size for parameter in own),
            fields[step.name],
            math.prod(y) * item,
            _multiply_adds(step, x, y),
        )
        rows.append(row)
    if isinstance(net, FCN | LateFusion):
        for (head, classes), name in zip(net.heads.items(), outputs(net), strict=True):
            shape, field = (classes, height, width), fields[name]
            # A crop is a view: it takes no memory.
            rows.append(Row(f"score{head}", "crop", None, None, None, shape, 0, field, 0, 0))
    return rows


def default_size(net: Net) -> Pair:
    """Return the height and width of the images that a net is usually trained on.

    A classifier's own size; 500 x 500 pixels, as photographs of PASCAL VOC have, for an FCN of full
    size; 128 x 128, as the bundled land cover has, for the small trunk and for narrow ones.

    >>> from minifcn import models
    >>> default_size(models.fcn8s(4, "small"))
    (128, 128)
    """
    if isinstance(net, LateFusion):
        return default_size(net.nets[0])
    if not isinstance(net, FCN):
        side = getattr(net, "image_size", 224)
        return side, side
    narrow = net.config.get("backbone") == "small" or net.config.get("width", 1) < 1
    return (128, 128) if narrow else (500, 500)


def _kind(step: Step) -> str:
    if step.layer is not None:
        return type(step.layer).__name__
    return "scale" if len(step.reads) == 1 else step.fusion


def _multiply_adds(step: Step, x: Shape, y: Shape) -> int:
    """Return how many inputs are multiplied with a weight, in all outputs of one image."""
    layer = step.layer
    for kind, operation in OPERATIONS.items():
        if isinstance(layer, kind):
            shapes = {"x": x, "weight": layer.weight.shape, "output": y}
            return multiply_adds(operation, shapes)
    return 0


def _fields(net: Net, height: int, width: int) -> dict[str, Pair]:
    """Return how many pixels of the image, (vertical, horizontal), a pixel of each array sees."""
    sizes = shapes(net, height, width)
    fields, strides = {IMAGE: (1, 1)}, {IMAGE: (Fraction(1), Fraction(1))}
    for step in steps(net):
        first = step.reads[0].array
        grown, far = list(strides[first]), [0, 0]
        for axis in (0, 1):
            far[axis] = max(fields[read.array][axis] for read in step.reads)
            steps_more, factor = _reach(step, sizes[first], axis)
            far[axis] += int(steps_more * strides[first][axis])
            grown[axis] *= factor
        fields[step.name], strides[step.name] = (far[0], far[1]), (grown[0], grown[1])
    return fields


def _reach(step: Step, x: Shape, axis: int) -> tuple[int, Fraction]:
    """Return how many pixels of x an output sees beyond one, and its stride in pixels of x."""
    layer = step.layer
    if isinstance(layer, Flatten):
        return x[2 + axis] - 1, Fraction(1)
    if not isinstance(layer, Conv2d | ConvTranspose2d | MaxPool2d | AvgPool2d):
        return 0, Fraction(1)
    kernel, stride = layer.kernel_size[axis], layer.stride[axis]
    extent = getattr(layer, "dilation", (1, 1))[axis] * (kernel - 1) + 1  # average pooling has none
    if isinstance(layer, ConvTranspose2d):
        return -(-extent // stride) - 1, Fraction(1, stride)  # kernels that meet in an output pixel
    return extent - 1, Fraction(stride)
