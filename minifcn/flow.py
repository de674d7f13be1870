"""A net as a list of steps: which layer reads which array. For planning, nothing is computed.

What the ``forward`` of `minifcn.models.FCN` and of `minifcn.nn.Sequential` does with arrays, others
do with something about them: with their sizes in bytes (`minifcn.memory`), with the rows of them
that a cut-off edge spoils (`minifcn.tiling`), or they list them (`minifcn.layer_table`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .backend import is_numpy
from .kernels.conv import few_pixels_fit, is_wide, winograd_fits
from .models import FCN, Classifier, LateFusion, build, output_size
from .nn import Branches, Conv2d, ConvTranspose2d, Flatten, Linear, Module, Sequential
from .shapes import Pair, ShapeError

Net: TypeAlias = FCN | LateFusion | Sequential
Shape: TypeAlias = tuple[int, ...]  # N, C, H, W; behind a Flatten N, C

IMAGE = "image"  # the array that the first step reads
FUSED = {"sum": "+", "max": "max"}  # stands between the names of two arrays


class Undrawn(np.random.Generator):
    """A generator that draws nothing but zeros."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, *args: Any, **kwargs: Any) -> Any:
        """Return 0."""
        return 0.0

    uniform = standard_normal


def planned(model: str, **options: Any) -> FCN | LateFusion | Classifier:
    """Return a net by its name, as `minifcn.models.build`, but with zeros for starting weights.

    That is all that planning needs, and VGG16 draws 138 million numbers otherwise.

    >>> planned("vgg16", num_classes=10, width=0.125).fc8
    Linear(512 -> 10)
    """
    return build(model, rng=Undrawn(), **options)


class Read(NamedTuple):
    """An array that a step reads, from some row and column on."""

    array: str
    offset: Pair = (0, 0)


class Step(NamedTuple):
    """One layer at work; the array it makes has its name.

    Without a layer it multiplies one array with ``factor``, or joins two as ``fusion`` says. With a
    `Branches` it puts side by side what the chains have made: their layers are steps of their own.
    """

    name: str
    layer: Module | None
    reads: tuple[Read, ...]
    held: str = ""  # an array that is there until the step is done, though others have read it
    factor: float = 1.0
    fusion: str = "sum"  # or "max"


def steps(net: Net) -> list[Step]:
    """Return what a net does, in order; `outputs` tells which arrays are its results.

    >>> from minifcn import models
    >>> for step in steps(models.fcn16s(4, "small"))[-3:]:
    ...     print(step.name, "reads", *(tuple(read) for read in step.reads))
    score_pool4 reads ('pool4', (0, 0))
    score_pool4 + upscore2 reads ('upscore2', (1, 1)) ('score_pool4', (0, 0))
    upscore16 reads ('score_pool4 + upscore2', (0, 0))
    """
    if isinstance(net, FCN):
        found, scores = _coarse_steps(net)
        for head, score in scores.items():
            found += _chain([(net.last + head, getattr(net, net.last + head))], score)
        return found
    if isinstance(net, LateFusion):
        return _late_fusion_steps(net)
    layers = net.chain().items() if isinstance(net, Classifier) else net.named_children()
    return _chain(layers, IMAGE)


def outputs(net: Net) -> list[str]:
    """Return the names of the arrays that hold the scores; an FCN's, from `FCN.offset` on.

    >>> from minifcn import models
    >>> outputs(models.fcn16s(4, "small"))
    ['upscore16']
    """
    read = {read.array for step in steps(net) for read in step.reads}
    return [step.name for step in steps(net) if step.name not in read]


def _late_fusion_steps(net: LateFusion) -> list[Step]:
    found: list[Step] = []
    share, total = 1 / len(net.nets), ""
    for name, one in zip(net.stream_names, net.nets, strict=True):
        part, scores = _coarse_steps(one, f"{name}.")
        weighed = f"{scores['']} * {share:.2g}"
        found += [*part, Step(weighed, None, (Read(scores[""]),), factor=share)]
        if total:
            both = f"{total} + {weighed}"
            found.append(Step(both, None, (Read(total), Read(weighed))))
        total = found[-1].name
    first = net.nets[0]
    end = [(first.last, getattr(first, first.last))]
    return [*found, *_chain(end, total, f"{net.stream_names[0]}.")]


def _coarse_steps(net: FCN, prefix: str = "") -> tuple[list[Step], dict[str, str]]:
    """Return the steps before the last upsampling, and the array with the scores of each head."""
    found: list[Step] = []

    def add(name: str, array: str) -> str:
        more = _chain([(name, getattr(net, name))], array, prefix)
        found.extend(more)
        return _end(more, array)

    here, ends = IMAGE, {}
    for name in net.trunk_names:
        here = ends[name] = add(name, here)
    scores = {head: add(f"score_fr{head}", here) for head in net.heads}
    for skip in net.skips:
        tap = ends[skip.tap]
        if skip.scale != 1:
            scaled = f"{tap} * {skip.scale}"
            found.append(Step(scaled, None, (Read(tap),), factor=skip.scale))
            tap = found[-1].name
        over, under = skip.starts
        for head in net.heads:
            up, finer = add(skip.upsample + head, scores[head]), add(skip.score + head, tap)
            reads = Read(up, over), Read(finer, under)
            scores[head] = f"{finer} {FUSED[net.fusion]} {up}"
            found.append(Step(scores[head], None, reads, fusion=net.fusion))
    return found, scores


def _chain(layers: Iterable[tuple[str, Module]], here: str, prefix: str = "") -> list[Step]:
    """Return the steps of layers that read one another, the first the array ``here``.

    Chains among the layers are taken apart; their layers have dotted names.
    """
    found: list[Step] = []
    for name, layer in layers:
        path = prefix + name
        if isinstance(layer, Sequential):
            found += _chain(layer.named_children(), here, f"{path}.")
        elif isinstance(layer, Branches):
            parts = [_chain(chain.items(), here, f"{path}.") for chain in layer.chains()]
            found += [step for part in parts for step in part]
            ends = tuple(Read(_end(part, here)) for part in parts)
            found.append(Step(path, layer, ends, held=here))
        else:
            found.append(Step(path, layer, (Read(here),)))
        here = _end(found, here)
    return found


def _end(chain: list[Step], here: str) -> str:
    """Return the array that a chain makes of the array ``here``: that itself, if it is empty."""
    return chain[-1].name if chain else here


def shapes(net: Net, height: int, width: int, images: int = 1) -> dict[str, Shape]:
    """Return the shape (N, C, H, W) of each array that a net makes of images of some size.

    Raises
    ------
    ShapeError
        If the images are too small, or not of the size that a classifier takes; it names the layer.

    Examples
    --------
    >>> from minifcn import models
    >>> shapes(models.fcn32s(4, "small"), 100, 200)["fc6"]
    (1, 96, 4, 7)
    """
    every = steps(net)
    if isinstance(net, FCN | LateFusion):
        channels = sum(net.streams.values())  # one behind the other
    else:
        first = every[0].layer
        channels = first.in_channels if isinstance(first, Conv2d) else 0
    found: dict[str, Shape] = {IMAGE: (images, channels, height, width)}
    for step in every:
        found[step.name] = _shape(step, found)
        if min(found[step.name]) < 1:
            raise ShapeError(
                f"images of {height} x {width} pixels (height x width) are too small for this net: "
                f"nothing is left of them in {step.name!r}, {step.layer!r}"
            )
    return found


def _shape(step: Step, found: dict[str, Shape]) -> Shape:
    """Return the shape of what a step makes of arrays whose shapes have been found."""
    layer, (N, C, *size) = step.layer, found[step.reads[0].array]
    if isinstance(layer, Flatten):
        return N, C * math.prod(size)
    if isinstance(layer, Linear):
        if layer.in_features != C:
            raise ShapeError(
                f"{step.name!r}, {layer!r}, would be given {C} numbers by images of this size: a "
                "fully connected layer takes images of one size only"
            )
        return N, layer.out_features
    if isinstance(layer, Branches):
        C = sum(found[read.array][1] for read in step.reads)
    if layer is None:  # a sum is as large as the arrays overlap
        for axis in range(len(size)):
            size[axis] = min(found[r.array][2 + axis] - r.offset[axis] for r in step.reads)
    elif not isinstance(layer, Branches):
        size = [output_size([layer], n, axis) for axis, n in enumerate(size)]
    if isinstance(layer, Conv2d | ConvTranspose2d):
        C = layer.out_channels
    return N, C, *size


def algorithm(layer: Conv2d, x: Shape, y: Shape) -> str:
    """Return what computes a convolution of x to y: a file's name in `minifcn.kernels`, or "cuda".

    >>> algorithm(Conv2d(8, 8, 3), x=(1, 8, 102, 102), y=(1, 8, 100, 100))
    'winograd'
    """
    weight, groups = layer.weight, layer.groups
    if not is_numpy(weight.data):
        return "cuda"
    # An array of this shape that has a single number: (N, C, H, W) -> (N, H, W, C)
    like = np.broadcast_to(weight.data[:1, 0, 0, 0], (x[0], x[2], x[3], x[1]))
    if winograd_fits(like, weight.shape, layer.stride, layer.dilation, groups):
        return "winograd2d" if is_wide(weight.shape) else "winograd"
    few = few_pixels_fit(y[0] * y[2] * y[3], weight.shape, groups)
    return "few_pixels" if few else "im2col"
