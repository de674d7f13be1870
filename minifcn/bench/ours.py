"""minifcn's side: for each kind of case a function that returns what is to be timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import functional as F
from .. import nn
from ..autograd import Tensor, no_grad
from ..models import FCN, output_size
from ..optim import SGD
from ..shapes import conv_transpose_size
from . import inputs, works
from .works import Settings


class Task(NamedTuple):
    """Something to be called again and again; ``flops`` are its multiplications and additions.

    They are counted as the convolutions' definition has them, whichever algorithm is at work, and 0
    where they are not counted.
    """

    run: Callable[[], Any]
    flops: float = 0.0


Tasks: TypeAlias = dict[str, Task]
Builder: TypeAlias = Callable[[Settings, dict[str, str]], Tasks]  # settings, how -> tasks


def training_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build a step: forward, cross-entropy, backward, SGD; it returns the loss."""
    net = inputs.new_net(settings)
    images, labels = inputs.images_and_labels(settings)
    optimizer = SGD(net.parameters(), inputs.LR, inputs.MOMENTUM, inputs.DECAY)
    # Backward has two products for each one of forward, but the image needs no gradient.
    forward = convolution_flops(net, settings["batch"])
    step = _step(net, Tensor(images), Tensor(labels), optimizer)
    return {"step": Task(step, 3 * sum(forward) - forward[0])}


def _step(net: nn.Module, x: Tensor, y: Tensor, optimizer: SGD) -> Callable[[], float]:
    def step() -> float:
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build a forward pass with nothing recorded."""
    net = inputs.new_net(settings).eval()
    images, _ = inputs.images_and_labels(settings)

    def forward() -> np.ndarray:
        with no_grad():
            return net(Tensor(images)).numpy()

    return {"forward": Task(forward, sum(convolution_flops(net, settings["batch"])))}


def convolution(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build a convolution without bias, and its two gradients."""
    x, given, g = inputs.layer_arrays(settings)
    O, I, kh, kw = given.shape
    owner = nn.Conv2d(I, O, (kh, kw))
    owner.weight.data[...] = given  # in the memory order in which layers keep their weights
    weight = owner.weight.data
    geometry = {name: settings[name] for name in ("stride", "padding", "groups")}
    stride, padding, kernel = settings["stride"], settings["padding"], weight.shape[2:]
    reached = (conv_transpose_size(g.shape[a], weight.shape[a], stride, padding, 0) for a in (2, 3))
    rest = tuple(pixels - n for pixels, n in zip(x.shape[2:], reached, strict=True))
    flops = 2.0 * g.size * math.prod(weight.shape[1:])
    tasks = {"forward": Task(lambda: F.conv2d(x, weight, None, **geometry), flops)}
    if not settings["first"]:
        tasks["data gradient"] = Task(
            lambda: F.conv_transpose2d(g, weight, None, output_padding=rest, **geometry), flops
        )
    tasks["weight gradient"] = Task(lambda: F.conv2d_weight(x, g, kernel, **geometry), flops)
    return tasks


def pooling(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build maxima of 2x2 pixels, and their gradient."""
    return _both_ways(lambda x: F.max_pool2d(x, 2, ceil_mode=True), settings)


def rectifier(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build ReLU and its gradient."""
    return _both_ways(F.relu, settings)


def bias_gradient(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the sum of a gradient over images and pixels."""
    g = inputs.channels_last(np.random.default_rng(2), settings["x"])
    return {"gradient": Task(lambda: F.sum(g, (0, 2, 3)))}


def _both_ways(operation: Any, settings: Settings) -> Tasks:
    """Return the forward pass of an operation, and its gradient rule alone."""
    rng = np.random.default_rng(2)
    array = inputs.channels_last(rng, settings["x"])
    y = operation(Tensor(array, requires_grad=True))
    g = inputs.channels_last(rng, y.shape)

    def backward() -> Any:
        return next(y.node.gradients(g, create_graph=False))[1]  # as backward() does, node by node

    return {"forward": Task(lambda: operation(array)), "backward": Task(backward)}


def cross_entropy(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build softmax cross-entropy together with its gradient in the scores."""
    rng = np.random.default_rng(2)
    n, classes, height, width = settings["x"]
    scores = Tensor(inputs.channels_last(rng, settings["x"]), requires_grad=True)
    labels = Tensor(rng.integers(0, classes, (n, height, width)))

    def both() -> Any:
        scores.grad = None
        F.cross_entropy(scores, labels).backward()
        return scores.grad.data if scores.grad else None

    return {"forward and backward": Task(both)}


def upsampling(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build bilinear upsampling, and its gradient in the scores."""
    rng = np.random.default_rng(2)
    x, factor = inputs.channels_last(rng, settings["x"]), settings["factor"]
    classes = x.shape[1]
    layer = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, bias=False)
    weight = nn.init.bilinear_(layer.weight).data
    g = inputs.channels_last(rng, F.conv_transpose2d(x, weight, None, factor).shape)
    return {
        "forward": Task(lambda: F.conv_transpose2d(x, weight, None, factor)),
        "backward": Task(lambda: F.conv2d(g, weight, None, factor)),
    }


def update(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build an update of all parameters of a net by SGD, with gradients that stay."""
    parameters = [p for p in inputs.new_net(settings).parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = Tensor(parameter.data * np.float32(0.1))
    optimizer = SGD(parameters, inputs.LR, inputs.MOMENTUM, inputs.DECAY)

    def step() -> Any:
        optimizer.step()
        return parameters[0].data

    return {"update": Task(step)}


def common_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the step that all libraries can do; it returns the loss."""
    start = inputs.common_start(settings)
    images, labels = Tensor(start.pop("images")), Tensor(start.pop("labels"))
    net = nn.Sequential(
        conv1=nn.Conv2d(images.shape[1], 32, 3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, 3, padding=1),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        score=nn.Conv2d(64, inputs.COMMON_CLASSES, 1),
    )
    for parameter, numbers in zip(net.parameters(), start.values(), strict=True):
        parameter.data[...] = numbers
    return {"step": Task(_step(net, images, labels, SGD(net.parameters(), inputs.COMMON_LR)))}


BUILDERS: dict[str, Builder] = {
    works.TRAIN: training_step,
    works.INFER: inference,
    works.LAYER: convolution,
    works.POOL: pooling,
    works.RELU: rectifier,
    works.BIAS: bias_gradient,
    works.LOSS: cross_entropy,
    works.UPSAMPLING: upsampling,
    works.UPDATE: update,
    works.COMMON: common_step,
}


def convolution_flops(net: FCN, batch: list[int]) -> list[float]:
    """Return the floating-point operations of each convolution of a net, forward.

    A multiplication with its addition counts two. Biases and upsampling do not count.

    >>> from minifcn import models
    >>> net = models.fcn32s(2, "small", widths=(4, 4, 4, 4, 4))
    >>> convolution_flops(net, [1, 3, 64, 64])[0] == 2 * 32 * 32 * 4 * (3 * 4 * 4)
    True
    """
    n, _, *size = batch
    flops: list[float] = []
    scores = {skip.tap: getattr(net, skip.score) for skip in net.skips}
    for name in net.trunk_names:
        layer = getattr(net, name)
        size = [output_size([layer], pixels, axis) for axis, pixels in enumerate(size)]
        for conv in (layer, scores.get(name)):
            if isinstance(conv, nn.Conv2d):
                flops.append(2.0 * n * math.prod(size) * conv.weight.data.size)
    flops.append(2.0 * n * math.prod(size) * net.state_dict()["score_fr.weight"].size)
    return flops
