"""An FCN as a list of steps: which layer reads which array. For planning, nothing is computed.

What `minifcn.models.FCN.forward` does with arrays, others do with something about them: with their
sizes in bytes (`minifcn.memory`), or with the rows of them that a cut-off edge spoils
(`minifcn.tiling`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .backend import xp_of
from .kernels.conv import few_pixels_fit, winograd_fits
from .models import FCN, output_size
from .nn import Conv2d, ConvTranspose2d, Module, Sequential
from .shapes import Pair

Shape = tuple[int, int, int, int]  # N, C, H, W

IMAGE = "image"  # the array that the first step reads


class Read(NamedTuple):
    """An array that a step reads, from some row and column on."""

    array: str
    offset: Pair = (0, 0)


class Step(NamedTuple):
    """One layer at work, or (``layer`` None) a sum of arrays; the array it makes has its name."""

    name: str
    layer: Module | None
    reads: tuple[Read, ...]


def steps(net: FCN) -> list[Step]:
    """Return what a net does, in order. The last array holds the scores, from `FCN.offset` on.

    >>> from minifcn import models
    >>> for step in steps(models.fcn16s(4, "small"))[-3:]:
    ...     print(step.name, "reads", *(tuple(read) for read in step.reads))
    score_pool4 reads ('pool4', (0, 0))
    score_pool4 + upscore2 reads ('upscore2', (1, 1)) ('score_pool4', (0, 0))
    upscore16 reads ('score_pool4 + upscore2', (0, 0))
    """
    found: list[Step] = []

    def add(name: str, reads: str | tuple[Read, ...], layer: Module | None = None) -> str:
        chain = dict(_leaves(name, layer)) if isinstance(layer, Sequential) else {name: layer}
        for inner, leaf in chain.items():
            found.append(Step(inner, leaf, (Read(reads),) if isinstance(reads, str) else reads))
            reads = inner
        return found[-1].name

    here, ends = IMAGE, {}
    for name in net.trunk_names:
        here = ends[name] = add(name, here, getattr(net, name))
    here = add("score_fr", here, net.score_fr)
    for skip in net.skips:
        up = add(skip.upsample, here, getattr(net, skip.upsample))
        tap = ends[skip.tap]
        tap = tap if skip.scale == 1 else add(f"{tap} * {skip.scale}", tap)
        finer = add(skip.score, tap, getattr(net, skip.score))
        offsets = ((0, 0), skip.offset) if skip.crop_finer else (skip.offset, (0, 0))
        here = add(f"{finer} + {up}", (Read(up, offsets[0]), Read(finer, offsets[1])))
    add(net.last, here, getattr(net, net.last))
    return found


def shapes(net: FCN, height: int, width: int, images: int = 1) -> dict[str, Shape]:
    """Return the shape (N, C, H, W) of each array that a net makes of images of some size.

    >>> from minifcn import models
    >>> shapes(models.fcn32s(4, "small"), 100, 200)["fc6"]
    (1, 96, 4, 7)
    """
    found: dict[str, Shape] = {IMAGE: (images, 3, height, width)}
    for step in steps(net):
        # A sum is as large as the arrays overlap; a layer reads one array.
        N, C, *_ = found[step.reads[0].array]
        size = [
            min(found[read.array][2 + axis] - read.offset[axis] for read in step.reads)
            for axis in (0, 1)
        ]
        if step.layer is not None:
            size = [output_size([step.layer], n, axis) for axis, n in enumerate(size)]
        if isinstance(step.layer, Conv2d | ConvTranspose2d):
            C = step.layer.out_channels
        found[step.name] = (N, C, size[0], size[1])
    return found


def algorithm(layer: Conv2d, x: Shape, y: Shape) -> str:
    """Return what computes a convolution of x to y: a file's name in `minifcn.kernels`.

    >>> algorithm(Conv2d(8, 8, 3), x=(1, 8, 102, 102), y=(1, 8, 100, 100))
    'winograd'
    """
    weight, groups = layer.weight, layer.groups
    # An array of this shape that has a single number: (N, C, H, W) -> (N, H, W, C)
    like = xp_of(weight.data).broadcast_to(weight.data[:1, 0, 0, 0], (x[0], x[2], x[3], x[1]))
    if winograd_fits(like, weight.shape, layer.stride, layer.dilation, groups):
        return "winograd"
    few = few_pixels_fit(y[0] * y[2] * y[3], weight.shape, groups)
    return "few_pixels" if few else "im2col"


def _leaves(name: str, layer: Module) -> Iterator[tuple[str, Module]]:
    """Yield the layers of a chain, and of chains in it, under dotted names."""
    for inner, child in layer.named_children():
        path = f"{name}.{inner}"
        yield from _leaves(path, child) if isinstance(child, Sequential) else [(path, child)]
