"""How much memory a net needs for images of some size, from the shapes of its arrays.

The largest moment decides: the arrays that are still to be read, the one that is being made, and
what the layer at work needs beside them. In inference an array lives until its last reader is done.
In training many live until the backward pass has come back to them (see `minifcn.profile`).

Nothing is computed here. What a layer needs beside its input and output, `minifcn.kernels` decides,
and this file repeats the larger parts of that: the results are right within some ten percent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .backend import Array, is_numpy, xp_of
from .flow import IMAGE, Net, Read, Step, algorithm, outputs, shapes, steps
from .kernels import cuda, im2col, winograd, winograd2d
from .kernels.threads import ALONE, num_threads
from .models import FCN, LateFusion
from .nn import (
    AvgPool2d,
    Branches,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    Module,
    Parameter,
    ReLU,
)
from .process_memory import free_memory

WEIGHTED = Conv2d, ConvTranspose2d, Linear  # the weight's gradient needs the layer's input
READ_AGAIN = LocalResponseNorm, MaxPool2d  # layers whose own gradient needs it
INSIDE = "inside "  # what a layer keeps for its gradient beside its input and its output
KEPT_INSIDE = {Dropout: 1, LocalResponseNorm: 2}  # a mask; two powers of the energy: in outputs
LEAST_CROP = 32  # pixels: one score of an FCN-32s
LABEL_BYTES = 20  # per pixel, of the loss: the class as int64, the loss, its share, and a mask


class Memory(NamedTuple):
    """What a net needs, in bytes.

    Attributes
    ----------
    weights
        The parameters; in training also their momenta.
    arrays
        Activations, gradients (the parameters' too), and what a layer needs while it works, at the
        largest moment.
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


def inference(net: Net, height: int, width: int, images: int = 1) -> Memory:
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


def training(net: Net, height: int, width: int, images: int = 1) -> Memory:
    """Return what a training step takes, with SGD and momentum.

    >>> from minifcn import models
    >>> need = training(models.fcn8s(4, "small"), 96, 96, images=8)
    >>> need.largest, round(need.arrays / 1e6)
    ('conv4_1, backward', 15)
    """
    plan = Plan(net, height, width, images, training=True)
    learned = sum(p.data.nbytes for p in net.parameters() if p.requires_grad)
    moments, alive = plan.forward(plan.saved())
    gradients, labels = {}, 0
    for name in plan.outputs:
        (_, classes, *size) = plan.shapes[name]
        # What is cut out of an FCN's scores is as large as the image.
        size = [height, width] if isinstance(net, FCN | LateFusion) else size
        pixels = images * math.prod(size)
        gradients[name] = pixels * classes * plan.itemsize
        labels = max(labels, pixels * LABEL_BYTES)  # of one head after the other
    kept = sum(alive.values())
    # Up to here the parameters' gradients of an earlier batch may be there (of the step before,
    # until they are forgotten, or of this one, if several batches make a step).
    moments = [(size + learned, name) for size, name in [*moments, (kept + labels, "the loss")]]
    moments.append((kept + sum(gradients.values()) + labels, "the loss, backward"))
    alive = {name: size for name, size in alive.items() if name not in plan.outputs}
    own = 0  # their new gradients
    for step in reversed(plan.steps):
        if step.name not in plan.learned:
            continue
        own += sum(p.data.nbytes for p in _parameters(step) if p.requires_grad)
        now = sum(alive.values()) + sum(gradients.values()) + own
        if step.name in plan.outputs:
            moments.append((now + plan.bytes(step.name), f"crop of {step.name}, backward"))
            now += plan.bytes(step.name) - gradients[step.name]
        now += plan.backward_work(step)
        for array in plan.learned & {read.array for read in step.reads}:
            # A gradient from each reader: they are added, to a third array.
            now += plan.bytes(array) * (2 if array in gradients else 1)
            gradients[array] = plan.bytes(array)
        moments.append((now, f"{step.name}, backward"))
        alive.pop(step.name, None)
        alive.pop(INSIDE + step.name, None)
        del gradients[step.name]
    peak, largest = max(moments)
    weights = sum(p.data.nbytes * (2 if p.requires_grad else 1) for p in net.parameters())
    return Memory(weights, peak, plan.buffers(training=True), largest)


class Plan:
    """The steps of a net, as `nn.in_turn` computes them, and the shapes of the arrays they make.

    A ReLU overwrites what it reads, or is done by the max-pooling behind it; dropout may do
    nothing. What makes no new array is no step here: the next one reads the old array.
    """

    def __init__(self, net: Net, height: int, width: int, images: int, training: bool) -> None:
        self.shapes = shapes(net, height, width, images)
        self.itemsize = next(iter(net.parameters())).dtype.itemsize
        self.steps: list[Step] = []
        self.overwritten: set[str] = set()  # the arrays that are a convolution's, then a ReLU's
        same: dict[str, str] = {}  # the name of an array to that of the one it lies in
        makers: dict[str, Module | None] = {}
        every = steps(net)
        for step, following in zip(every, [*every[1:], None], strict=True):
            name, layer = step.name, step.layer
            reads = tuple(Read(same.get(array, array), offset) for array, offset in step.reads)
            # The pooling does the work of a ReLU before it.
            before_pooling = (
                isinstance(layer, ReLU)
                and following is not None
                and isinstance(following.layer, MaxPool2d)
                and following.reads[0].array == name
            )
            idle = isinstance(layer, Dropout) and not (training and layer.p)
            over = isinstance(layer, ReLU) and isinstance(makers.get(reads[0].array), Conv2d)
            if idle or over or before_pooling:
                same[name] = reads[0].array
                self.overwritten |= {same[name]} if over and not before_pooling else set()
            else:
                held = same.get(step.held, step.held)
                self.steps.append(step._replace(reads=reads, held=held))
                makers[name] = layer
        self.outputs = [same.get(name, name) for name in outputs(net)]
        self.learned: set[str] = set()  # the arrays that get a gradient
        for step in self.steps:
            reads_learned = any(read.array in self.learned for read in step.reads)
            if reads_learned or any(p.requires_grad for p in _parameters(step)):
                self.learned.add(step.name)

    def bytes(self, name: str) -> int:
        """Return the size of an array."""
        return math.prod(self.shapes[name]) * self.itemsize

    def saved(self) -> set[str]:
        """Return the arrays that are kept for the backward pass."""
        kept = {IMAGE}  # the scores, which no step reads, are there in any case
        for step in self.steps:
            layer, learned = step.layer, step.name in self.learned
            last = isinstance(layer, ReLU | MaxPool2d) or step.name in self.overwritten
            if last and learned:  # their gradients need their outputs
                kept.add(step.name)
            if type(layer) in KEPT_INSIDE and learned:
                kept.add(INSIDE + step.name)
            again = isinstance(layer, READ_AGAIN) and learned
            again |= isinstance(layer, WEIGHTED) and layer.weight.requires_grad
            kept |= {read.array for read in step.reads} if again else set()
        return kept

    def forward(self, kept: set[str]) -> tuple[list[tuple[int, str]], dict[str, int]]:
        """Return the bytes while each step computes, with its name; and the arrays that stay."""
        last_reader = {read.array: i for i, step in enumerate(self.steps) for read in step.reads}
        last_reader |= {step.held: i for i, step in enumerate(self.steps)}
        alive, moments = {IMAGE: self.bytes(IMAGE)}, []
        for i, step in enumerate(self.steps):
            alive[step.name] = self.bytes(step.name)
            moments.append((sum(alive.values()) + self.work(step), step.name))
            if INSIDE + step.name in kept:
                alive[INSIDE + step.name] = alive[step.name] * KEPT_INSIDE[type(step.layer)]
            for array in list(alive):
                if array not in kept and last_reader.get(array, len(self.steps)) <= i:
                    del alive[array]
        return moments, alive

    def work(self, step: Step) -> int:
        """Return the bytes that a step needs beside what it reads and what it makes."""
        layer, x, y = step.layer, self.shapes[step.reads[0].array], self.shapes[step.name]
        if isinstance(layer, Conv2d) and algorithm(layer, x, y) == "winograd":
            return 2 * layer.weight.data.nbytes  # transformed: six rows for three
        if isinstance(layer, Conv2d) and algorithm(layer, x, y) == "winograd2d":
            return 4 * layer.weight.data.nbytes  # columns too
        if isinstance(layer, ConvTranspose2d):  # rows and columns are enlarged one after the other
            return x[0] * x[1] * x[2] * y[3] * self.itemsize
        if isinstance(layer, Branches):  # halves are put together first
            parts, half = [self.bytes(read.array) for read in step.reads], len(step.reads) // 2
            return sum(sum(some) for some in (parts[:half], parts[half:]) if len(some) > 1)
        return self.bytes(step.name) * (type(layer) in KEPT_INSIDE)  # one array more, for a moment

    def backward_work(self, step: Step) -> int:
        """Return the same of a step's backward pass, beside the gradients of both."""
        layer, x, y = step.layer, self.shapes[step.reads[0].array], self.shapes[step.name]
        if isinstance(layer, Branches):
            return -self.bytes(step.name)  # its parts are the chains' gradients
        if isinstance(layer, AvgPool2d):
            return self.bytes(step.name)
        if not isinstance(layer, Conv2d):
            return self.work(step)
        weight, way = layer.weight.data, algorithm(layer, x, y)
        if way == "winograd":
            return 2 * (winograd.SHARES + 1) * weight.nbytes  # partial sums
        if way == "winograd2d":
            return 5 * weight.nbytes  # transformed, and turned by half a turn
        if way == "cuda":
            return weight.nbytes  # of a tile, before it is added
        if way == "few_pixels":
            return y[0] * y[2] * y[3] * weight[0].nbytes  # a scaled copy of the kernels for each
        shares = len(im2col.tiles(y[0], y[2], y[3], weight[0].size))
        return min(shares, im2col.WEIGHT_SHARES) * weight.nbytes  # partial sums here too

    def buffers(self, training: bool) -> int:
        """Return what threads keep (see `minifcn.kernels.threads.workspace`), or cuBLAS."""
        names = "V", "M", "E", "rows", "transformed", "product", "patches", "band", "windows"
        each = dict.fromkeys(names, 0)
        once = cublas = 0
        for step in self.steps:
            layer, x, y = step.layer, self.shapes[step.reads[0].array], self.shapes[step.name]
            if isinstance(layer, MaxPool2d) and training and layer.kernel_size > layer.stride:
                # Windows that overlap add to the same pixels: a whole image is one thread's.
                threads = min(num_threads(), y[0])
                each["windows"] = max(each["windows"], 3 * threads * math.prod(y[1:]))
            if not isinstance(layer, Conv2d):
                continue
            C, O, patch = layer.in_channels, layer.out_channels, math.prod(layer.weight.shape[1:])
            way = algorithm(layer, x, y)
            # As in the kernels: a thread is not woken for little work.
            counted = 9 * C * O if way.startswith("winograd") else 2 * O * patch
            operations = counted * y[0] * y[2] * y[3]
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
            elif way == "winograd2d":
                pitch = 4 * -(-y[3] // 4) + 2
                every = y[0] * -(-y[2] // 4) * pitch
                pixels = every // -(-every // max(winograd2d.PORTION, pitch))  # of a portion
                patches = pixels // 4 if training else min(winograd2d.PATCHES, pixels // 8)
                each["V"] = max(each["V"], 6 * C * pixels)
                each["M"] = max(each["M"], 7 * O * pixels)
                each["E"] = max(each["E"], 6 * O * pixels * training)
                each["transformed"] = max(each["transformed"], threads * 6 * (C + O) * patches)
                sums = threads * 6 * C * O * training * (pixels < every)
                each["product"] = max(each["product"], sums)
            elif way == "cuda":
                cublas = cuda.cublas.WORKSPACE
                room = cuda.gemm.workspace() // self.itemsize if layer.kernel_size != (1, 1) else 0
                once = max(once, min(room, y[0] * y[2] * y[3] * patch))
            elif way == "few_pixels":
                once = max(once, y[0] * y[2] * y[3] * patch)
            elif layer.kernel_size != (1, 1):
                pixels = max(im2col.TILE_PIXELS[0], y[3], im2col.TILE_FLOATS // patch)
                pixels = min(pixels, math.prod(y[2:]))
                each["patches"] = max(each["patches"], threads * pixels * patch)
        return self.itemsize * (sum(each.values()) + once) + cublas


def advice(net: Net, height: int, width: int, images: int) -> tuple[str, str | None]:
    """Tell what a training step needs, and what to do if that is more than there is.

    Parameters
    ----------
    net
        The net, on the device where it will be trained.
    height, width
        Of the images, or of what is cut out of them.
    images
        In a batch.

    Returns
    -------
    line, advice
        A sentence with the estimate; None, or another with what would fit.

    Examples
    --------
    >>> from minifcn import models
    >>> line, todo = advice(models.fcn8s(4, "small"), 96, 96, images=8)
    >>> line.partition(" takes")[0], todo
    ('a training step on 8 images of 96 x 96 pixels (height x width)', None)
    """
    weight = next(iter(net.parameters())).data
    need, free = training(net, height, width, images), available(weight)
    line = (
        f"a training step on {_count(images)} of {height} x {width} pixels (height x width) takes "
        f"about {_size(need.total)}: {_size(need.weights)} weights and momenta, "
        f"{_size(need.arrays)} arrays and gradients, {_size(need.buffers)} buffers"
    )
    if free is None:
        return line, None
    free += sum(parameter.data.nbytes for parameter in net.parameters())  # they are there already
    line += f"; {_size(free)} are available"
    if need.total <= free:
        return line, None
    batch, crop = images, min(height, width)
    while batch > 1:
        batch = -(-batch // 2)
        if (size := training(net, height, width, batch).total) <= free:
            parts = -(-images // batch)
            same = f"--batch-size {batch} --accumulate {parts} ({_size(size)})"
            return line, f"this will not fit: use smaller batches, {same}"
    while crop > LEAST_CROP:
        crop = max(LEAST_CROP, crop * 9 // 10 // LEAST_CROP * LEAST_CROP)
        if (size := training(net, crop, crop, 1).total) <= free:
            return line, (
                "this will not fit: cut smaller parts out of the images and take them one by one, "
                f"--crop {crop} --batch-size 1 --accumulate {images} ({_size(size)})"
            )
    return line, (
        "this will not fit, and neither will smaller images: use a narrower net (--width 0.5) or "
        "another one (--backbone)"
    )


def _count(images: int) -> str:
    return "1 image" if images == 1 else f"{images} images"


def _size(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _parameters(step: Step) -> list[Parameter]:
    """Return what a step's layer learns; that of branches are their layers', which are steps."""
    layer = step.layer
    return [] if layer is None or isinstance(layer, Branches) else list(layer.parameters())


def available(like: Array) -> int | None:
    """Return how many bytes can be had where an array lies; None if the system does not tell.

    On the CPU see `minifcn.process_memory.free_memory`.

    >>> import numpy as np
    >>> available(np.zeros(1)) != 0
    True
    """
    if not is_numpy(like):
        with like.device:
            pool = xp_of(like).get_default_memory_pool()
            free = like.device.mem_info[0] + pool.free_bytes()
            limit = pool.get_limit()
            return min(free, limit - pool.used_bytes()) if limit else free
    return free_memory()
