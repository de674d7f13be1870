"""How much memory a net needs for images of some size, from the shapes of its arrays.

The largest moment decides: the arrays that are still to be read, the one that is being made, and
what the layer at work needs beside them. In inference an array lives until its last reader is done.
In training many live until the backward pass has come back to them (see `minifcn.profile`).

Nothing is computed here. What a layer needs beside its input and output, `minifcn.kernels` decides,
and this file repeats the larger parts of that: the results are right within some ten percent.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

from .backend import Array, is_numpy, xp_of
from .flow import IMAGE, Read, Shape, Step, algorithm, shapes, steps
from .kernels import im2col, winograd
from .kernels.threads import ALONE, num_threads
from .models import FCN
from .nn import Conv2d, ConvTranspose2d, Dropout, LocalResponseNorm, MaxPool2d, Module, ReLU

READ_AGAIN = Conv2d, LocalResponseNorm, MaxPool2d  # layers whose gradient needs their input
MASK = "mask of "  # of a dropout
LABEL_BYTES = 20  # per pixel, of the loss: the class as int64, the loss, its share, and a mask

# Where Linux tells what is available, and what a container may have ("max": no limit), in bytes.
LIMITS = {
    Path("/proc/meminfo"): (r"MemAvailable: *(\d+) kB", 1024),
    Path("/sys/fs/cgroup/memory.max"): (r"^(\d+)", 1),
}


class Memory(NamedTuple):
    """What a net needs, in bytes.

    Attributes
    ----------
    weights
        The parameters; in training also their gradients and momenta.
    arrays
        Activations, gradients, and what a layer needs while it works, at the largest moment.
    buffers
        What the threads keep for the next time.
    largest
        The step that was at work at that moment.
    """

    weights: int
    arrays: int
    buffers: int
    largest: str

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.extra

    @property
    def extra(self) -> int:
        """What it takes beside the weights."""
        return self.arrays + self.buffers


def inference(net: FCN, height: int, width: int, images: int = 1) -> Memory:
    """Return what it takes to compute the scores of images, without gradients.

    >>> from minifcn import models
    >>> need = inference(models.fcn8s(4, "small"), 1000, 1000)
    >>> need.largest, round(need.arrays / 1e6)
    ('conv2_1', 84)
    """
    plan = Plan(net, height, width, images, training=False)
    moments, _ = plan.forward(kept={IMAGE})  # whoever calls the net holds the images
    peak, largest = max(moments)
    weights = sum(parameter.data.nbytes for parameter in net.parameters())
    return Memory(weights, peak, plan.buffers(training=False), largest)


def training(net: FCN, height: int, width: int, images: int = 1) -> Memory:
    """Return what a training step takes, with SGD and momentum.

    >>> from minifcn import models
    >>> need = training(models.fcn8s(4, "small"), 96, 96, images=8)
    >>> need.largest, round(need.arrays / 1e6)
    ('upscore8, backward', 16)
    """
    plan = Plan(net, height, width, images, training=True)
    moments, alive = plan.forward(plan.saved())
    pixels, last = images * height * width, plan.steps[-1].name
    scores = pixels * net.num_classes * plan.itemsize
    moments.append((sum(alive.values()) + scores + pixels * LABEL_BYTES, "the loss"))
    gradients = {last: plan.bytes(last) + scores}  # these are cut out of those
    for step in reversed(plan.steps):
        gradients |= {r.array: plan.bytes(r.array) for r in step.reads if r.array != IMAGE}
        x, y = plan.shapes[step.reads[0].array], plan.shapes[step.name]
        now = sum(alive.values()) + sum(gradients.values())
        now += _backward_work(step.layer, x, y, plan.itemsize)
        moments.append((now, f"{step.name}, backward"))
        alive.pop(step.name, None)
        alive.pop(MASK + step.name, None)
        del gradients[step.name]
    peak, largest = max(moments)
    weights = sum(p.data.nbytes * (3 if p.requires_grad else 1) for p in net.parameters())
    return Memory(weights, peak, plan.buffers(training=True), largest)


class Plan:
    """The steps of a net, as `nn.in_turn` computes them, and the shapes of the arrays they make.

    A ReLU overwrites what it reads, or comes after the max-pooling behind it; dropout may do
    nothing. What makes no new array is no step here: the next one reads the old array.
    """

    def __init__(self, net: FCN, height: int, width: int, images: int, training: bool) -> None:
        self.shapes = shapes(net, height, width, images)
        self.itemsize = next(iter(net.parameters())).dtype.itemsize
        self.steps: list[Step] = []
        same: dict[str, str] = {}  # the name of an array to that of the one it lies in
        makers: dict[str, Module | None] = {}
        late: Module | None = None  # a ReLU that waits for the pooling
        every = steps(net)
        for step, following in zip(every, [*every[1:], None], strict=True):
            name, layer = step.name, step.layer
            reads = tuple(Read(same.get(array, array), offset) for array, offset in step.reads)
            before_pooling = following is not None and isinstance(following.layer, MaxPool2d)
            if isinstance(layer, ReLU) and before_pooling:
                late = layer
            elif late is not None:
                first = f"{name} before ReLU"
                self.shapes[first] = self.shapes[name]
                # While the ReLU works, what the pooling has read is there still.
                self.steps += [Step(first, layer, reads), Step(name, late, (Read(first), *reads))]
                late = None
                continue
            idle = isinstance(layer, Dropout) and not (training and layer.p)
            over = isinstance(layer, ReLU) and isinstance(makers.get(reads[0].array), Conv2d)
            if idle or over or late:
                same[name] = reads[0].array
            else:
                self.steps.append(Step(name, layer, reads))
                makers[name] = layer

    def bytes(self, name: str) -> int:
        """Return the size of an array, or of a dropout's mask."""
        return math.prod(self.shapes[name.removeprefix(MASK)]) * self.itemsize

    def saved(self) -> set[str]:
        """Return the arrays that are kept for the backward pass."""
        kept = {IMAGE, self.steps[-1].name}  # the loss reads the scores again
        for name, layer, reads in self.steps:
            kept |= {name} if isinstance(layer, ReLU | MaxPool2d) else set()
            kept |= {MASK + name} if isinstance(layer, Dropout) else set()
            kept |= {read.array for read in reads if isinstance(layer, READ_AGAIN)}
        return kept

    def forward(self, kept: set[str]) -> tuple[list[tuple[int, str]], dict[str, int]]:
        """Return the bytes while each step computes, with its name; and the arrays that stay."""
        last_reader = {read.array: i for i, step in enumerate(self.steps) for read in step.reads}
        alive, moments = {IMAGE: self.bytes(IMAGE)}, []
        for i, (name, layer, reads) in enumerate(self.steps):
            made = {name, MASK + name} & kept | {name}
            alive |= {array: self.bytes(array) for array in made}
            work = _work(layer, self.shapes[reads[0].array], self.shapes[name], self.itemsize)
            moments.append((sum(alive.values()) + work, name))
            for array in list(alive):
                if array not in kept and last_reader.get(array, len(self.steps)) <= i:
                    del alive[array]
        return moments, alive

    def buffers(self, training: bool) -> int:
        """Return the bytes that threads keep (see `minifcn.kernels.threads.workspace`)."""
        each = dict.fromkeys(("V", "M", "rows", "product", "patches"), 0)
        once = 0
        for step in self.steps:
            layer, x, y = step.layer, self.shapes[step.reads[0].array], self.shapes[step.name]
            if not isinstance(layer, Conv2d):
                continue
            C, O, patch = layer.in_channels, layer.out_channels, math.prod(layer.weight.shape[1:])
            way = algorithm(layer, x, y)
            # As in the kernels: a thread is not woken for little work.
            operations = (9 * C * O if way == "winograd" else 2 * O * patch) * y[0] * y[2] * y[3]
            threads = num_threads() if operations >= ALONE else 1
            if way == "winograd":
                pixels = max(winograd.LEAST_PIXELS, winograd.BLOCK_FLOATS // (6 * C + 7 * O), y[3])
                every = -(-y[2] // 4) * y[3] * y[0]  # four rows become one
                deep = C * O >= winograd.DEEP and every <= winograd.DEEP_PIXELS
                pixels, rooms = (every, 1) if deep else (min(pixels, every), threads)
                each["V"] = max(each["V"], rooms * 6 * C * pixels)
                each["M"] = max(each["M"], rooms * 7 * O * pixels)
                each["rows"] = max(each["rows"], threads * 3 * C * pixels * deep)
                sums = threads * 18 * C * O * training * (not deep)
                each["product"] = max(each["product"], sums)
            elif way == "few_pixels":
                once = max(once, y[0] * y[2] * y[3] * patch)
            elif layer.kernel_size != (1, 1):
                pixels = max(im2col.TILE_PIXELS[0], y[3], im2col.TILE_FLOATS // patch)
                pixels = min(pixels, math.prod(y[2:]))
                each["patches"] = max(each["patches"], threads * pixels * patch)
        return self.itemsize * (sum(each.values()) + once)


def _work(layer: Module | None, x: Shape, y: Shape, itemsize: int) -> int:
    """Return the bytes that a layer needs beside its input x and its output y."""
    if isinstance(layer, Conv2d) and algorithm(layer, x, y) == "winograd":
        return 2 * layer.weight.data.nbytes  # transformed: six rows for three
    if isinstance(layer, ConvTranspose2d):  # rows and columns are enlarged one after the other
        return x[0] * x[1] * x[2] * y[3] * itemsize
    return 0


def _backward_work(layer: Module | None, x: Shape, y: Shape, itemsize: int) -> int:
    """Return the same of a layer's backward pass, beside the gradients in x and y."""
    if isinstance(layer, Conv2d) and algorithm(layer, x, y) == "winograd":
        return 2 * (winograd.SHARES + 1) * layer.weight.data.nbytes  # partial sums
    return _work(layer, x, y, itemsize)


def available(like: Array) -> int | None:
    """Return how many bytes can be had where an array lies; None if the system does not tell.

    On Linux this is what the kernel deems available, or a container's limit if that is less; on
    other systems all memory that the computer has.

    >>> import numpy as np
    >>> available(np.zeros(1)) != 0
    True
    """
    if not is_numpy(like):
        xp = xp_of(like)
        free, _ = xp.cuda.runtime.memGetInfo()
        return free + xp.get_default_memory_pool().free_bytes()
    found = []
    for file, (pattern, unit) in LIMITS.items():
        number = re.search(pattern, file.read_text()) if file.is_file() else None
        if number:
            found.append(int(number[1]) * unit)
    if not found and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(found, default=None)
