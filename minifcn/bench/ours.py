"""minifcn's side: for each kind of case a function that returns what is to be timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import functional as F
from .. import nn
from ..autograd import Tensor, no_grad
from ..backend import Array, to_device
from ..kernels.cuda.graph import Recorded
from ..optim import SGD
from ..recorded import Gradients
from ..shapes import conv_transpose_size
from . import floor, inputs, works
from .floor import Piece
from .works import Settings


class Task(NamedTuple):
    """Something to be called again and again; ``pieces`` are what nobody can compute it without."""

    run: Callable[[], Any]
    pieces: Sequence[Piece] = ()

    @property
    def flops(self) -> float:
        """Multiplications and additions, as the convolutions' definition has them."""
        return sum((piece.flops for piece in self.pieces), 0.0)


Tasks: TypeAlias = dict[str, Task]
Builder: TypeAlias = Callable[[Settings, dict[str, str]], Tasks]  # settings, how -> tasks


def training_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build a step: forward, cross-entropy, backward, SGD; it returns the loss."""
    net = inputs.new_net(settings)
    pieces = floor.training_step(net, settings["batch"])
    images, labels = (_placed(array, how) for array in inputs.images_and_labels(settings))
    net.to(_device(how))
    optimizer = SGD(net.parameters(), inputs.LR, inputs.MOMENTUM, inputs.DECAY)
    return {"step": Task(_step(net, images, labels, optimizer), pieces)}


def _device(how: dict[str, str]) -> str:
    return how.get("device", "cpu")


def _placed(array: np.ndarray, how: dict[str, str]) -> Array:
    """Return an array on the device of a side."""
    return to_device(array, _device(how))


def _step(net: nn.Module, images: Array, labels: Array, optimizer: SGD) -> Callable[[], Array]:
    def compute(images: Array, labels: Array) -> list[Array]:
        loss = F.cross_entropy(net(Tensor(images)), Tensor(labels))
        loss.backward()
        return [loss.data]

    gradients = Gradients(net, compute)  # as in training: replayed on a GPU

    def step() -> Array:
        (loss,) = gradients(images, labels)
        optimizer.step()
        return loss  # not its number: on a GPU that would have to be waited for

    return step


def inference(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build a forward pass with nothing recorded."""
    net = inputs.new_net(settings).eval()
    pieces = floor.convolutions(net, settings["batch"])
    images = _placed(inputs.images_and_labels(settings)[0], how)
    net.to(_device(how))

    def forward(images: Array) -> list[Array]:
        with no_grad():
            return [net(Tensor(images)).data]

    recorded = Recorded(forward, lambda: [p.data for p in net.parameters()])
    return {"forward": Task(lambda: recorded(images)[0], pieces)}


def convolution(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build a convolution without bias, and its two gradients."""
    x, given, g = inputs.layer_arrays(settings)
    O, I, kh, kw = given.shape
    owner = nn.Conv2d(I, O, (kh, kw))
    owner.weight.data[...] = given  # in the memory order in which layers keep their weights
    x, weight, g = (_placed(array, how) for array in (x, owner.weight.data, g))
    return convolution_of(x, weight, g, settings)


def convolution_of(x: Array, weight: Array, g: Array, settings: Settings) -> Tasks:
    """Return a convolution of these arrays and its gradients, with the geometry of a case."""
    geometry = {name: settings[name] for name in ("stride", "padding", "groups")}
    stride, padding, kernel = settings["stride"], settings["padding"], weight.shape[2:]
    reached = (conv_transpose_size(g.shape[a], weight.shape[a], stride, padding, 0) for a in (2, 3))
    rest = tuple(pixels - n for pixels, n in zip(x.shape[2:], reached, strict=True))
    flops = 2.0 * g.size * math.prod(weight.shape[1:])
    piece = [Piece(flops, x.size + g.size + weight.size)]
    tasks = {"forward": Task(lambda: F.conv2d(x, weight, None, **geometry), piece)}
    if not settings["first"]:
        tasks["data gradient"] = Task(
            lambda: F.conv_transpose2d(g, weight, None, output_padding=rest, **geometry), piece
        )
    tasks["weight gradient"] = Task(lambda: F.conv2d_weight(x, g, kernel, **geometry), piece)
    return tasks


def pooling(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build maxima of 2x2 pixels, and their gradient."""
    return _both_ways(lambda x: F.max_pool2d(x, 2, ceil_mode=True), settings, how)


def rectifier(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build ReLU and its gradient."""
    return _both_ways(F.relu, settings, how)


def bias_gradient(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the sum of a gradient over images and pixels."""
    g = _placed(inputs.channels_last(np.random.default_rng(2), settings["x"]), how)
    return {"gradient": Task(lambda: F.sum(g, (0, 2, 3)), _moving(g))}


def _moving(*arrays: Array) -> list[Piece]:
    """Return the piece of an operation that does next to nothing but read and write arrays."""
    return [Piece(0.0, sum(array.size for array in arrays))]


def _both_ways(operation: Any, settings: Settings, how: dict[str, str]) -> Tasks:
    """Return the forward pass of an operation, and its gradient rule alone."""
    rng = np.random.default_rng(2)
    array = _placed(inputs.channels_last(rng, settings["x"]), how)
    y = operation(Tensor(array, requires_grad=True))
    g = _placed(inputs.channels_last(rng, y.shape), how)
    moved = _moving(array, g)

    def backward() -> Any:
        return next(y.node.gradients(g, create_graph=False))[1]  # as backward() does, node by node

    return {"forward": Task(lambda: operation(array), moved), "backward": Task(backward, moved)}


def cross_entropy(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build softmax cross-entropy together with its gradient in the scores."""
    rng = np.random.default_rng(2)
    n, classes, height, width = settings["x"]
    scores = Tensor(_placed(inputs.channels_last(rng, settings["x"]), how), requires_grad=True)
    labels = Tensor(_placed(rng.integers(0, classes, (n, height, width)), how))

    def both() -> Any:
        scores.grad = None
        F.cross_entropy(scores, labels).backward()
        return scores.grad.data if scores.grad else None

    return {"forward and backward": Task(both, _moving(scores.data, scores.data))}


def upsampling(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build bilinear upsampling, and its gradient in the scores."""
    rng = np.random.default_rng(2)
    x, factor = _placed(inputs.channels_last(rng, settings["x"]), how), settings["factor"]
    classes = x.shape[1]
    layer = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, bias=False)
    weight = _placed(nn.init.bilinear_(layer.weight).data, how)
    shape = F.conv_transpose2d(x, weight, None, factor).shape
    g = _placed(inputs.channels_last(rng, shape), how)
    return {
        "forward": Task(lambda: F.conv_transpose2d(x, weight, None, factor), _moving(x, g)),
        "backward": Task(lambda: F.conv2d(g, weight, None, factor), _moving(x, g)),
    }


def update(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build an update of all parameters of a net by SGD, with gradients that stay."""
    net = inputs.new_net(settings).to(_device(how))
    parameters = [p for p in net.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = Tensor(parameter.data * np.float32(0.1))
    optimizer = SGD(parameters, inputs.LR, inputs.MOMENTUM, inputs.DECAY)

    def step() -> Any:
        optimizer.step()
        return parameters[0].data

    moved = floor.UPDATED * sum(p.data.size for p in parameters)
    return {"update": Task(step, [Piece(0.0, moved)])}


def common_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the step that all libraries can do; it returns the loss."""
    start = inputs.common_start(settings)
    images, labels = (_placed(start.pop(name), how) for name in ("images", "labels"))
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
    net.to(_device(how))
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
