"""PyTorch's side: for each kind of case a function that returns what is to be timed.

``how["layout"]`` is the order of images and weights in memory, ``how["sgd"]`` the form of SGD, and
on a GPU ``how["device"]`` where they are and ``how["precision"]`` in what convolutions compute.
PyTorch is imported when a case is built, so that this file can be read where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from . import inputs, works
from .ours import Builder, Task, Tasks
from .torch_twin import Twin, placed
from .works import Settings


def start(threads: int) -> str:
    """Import PyTorch, give it so many threads, and return its version."""
    import torch

    torch.set_num_threads(threads)
    cudnn = f", cuDNN {torch.backends.cudnn.version()}" if torch.version.cuda else ""
    return f"{torch.__version__}{cudnn}"


def training_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build a step: forward, cross-entropy, backward, SGD; it returns the loss."""
    import torch

    twin = Twin(inputs.new_net(settings), *_place(how))
    images, labels = inputs.images_and_labels(settings)
    x, y = placed(images, *_place(how)), torch.from_numpy(labels).to(_place(how)[1])
    return {"step": Task(_replayed(_step(twin, x, y, _sgd(twin.parameters, how), how), how))}


def _place(how: dict[str, str]) -> tuple[str, str]:
    """Return layout and device of a side's arrays; numbers in a row have no layout."""
    return how.get("layout", "contiguous"), how.get("device", "cpu")


def _step(
    net: Callable[[Any], Any], x: Any, y: Any, optimizer: Any, how: dict[str, str]
) -> Callable[[], Any]:
    import torch.nn.functional as T

    def step() -> Any:
        with _mixed(how):
            loss = T.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _mixed(how: dict[str, str]) -> AbstractContextManager[Any]:
    """Let PyTorch compute in bf16 where it thinks that safe, if a side is to; weights stay float32.

    All that is stored between its convolutions is bf16 then, which takes half the memory.
    """
    import torch

    if how.get("precision") != "bf16":
        return nullcontext()
    return torch.autocast(_place(how)[1].partition(":")[0], torch.bfloat16)


def _sgd(parameters: list[Any], how: dict[str, str]) -> Any:
    """Return PyTorch's SGD: as it comes (on a CPU that is a loop), or in one of its two others."""
    import torch

    form = how.get("sgd", "default")
    option = {} if form == "default" else {form: True}
    return torch.optim.SGD(
        parameters, inputs.LR, inputs.MOMENTUM, weight_decay=inputs.DECAY, **option
    )


def inference(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build a forward pass with nothing recorded."""
    import torch

    twin = Twin(inputs.new_net(settings).eval(), *_place(how))
    x = placed(inputs.images_and_labels(settings)[0], *_place(how))

    def forward() -> Any:
        with torch.inference_mode(), _mixed(how):
            return twin(x)

    return {"forward": Task(_replayed(forward, how))}


def _replayed(run: Callable[[], Any], how: dict[str, str]) -> Callable[[], Any]:
    """Record a function as a CUDA graph in its fourth call, if a side is to, and then replay it."""
    import torch

    if "graph" not in how:
        return run
    aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    calls, results = 0, list[Any]()

    def replayed() -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            if not results:
                with torch.cuda.graph(graph):
                    results.append(run())
            graph.replay()
            return results[0]
        # As PyTorch asks for: first some calls beside the stream that everything else is in.
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            result = run()
        torch.cuda.current_stream().wait_stream(aside)
        return result

    return replayed


def convolution(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build a convolution without bias, and its two gradients."""
    import torch

    kind = torch.bfloat16 if how.get("precision") == "bf16" else torch.float32
    x, weight, g = (placed(a, *_place(how)).to(kind) for a in inputs.layer_arrays(settings))
    stride, padding = [settings["stride"]] * 2, [settings["padding"]] * 2
    plain = None, stride, padding, [1, 1], False, [0, 0], settings["groups"]

    def gradient(which: int) -> Callable[[], Any]:
        mask = [which == i for i in range(3)]  # of the input, the weight, the bias
        return lambda: torch.ops.aten.convolution_backward(g, x, weight, *plain, mask)[which]

    tasks = {"forward": Task(lambda: torch.ops.aten.convolution(x, weight, *plain))}
    if not settings["first"]:
        tasks["data gradient"] = Task(gradient(0))
    return tasks | {"weight gradient": Task(gradient(1))}


def pooling(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build maxima of 2x2 pixels, and their gradient."""
    import torch.nn.functional as T

    def pool(x: Any) -> Any:
        return T.max_pool2d(x, 2, ceil_mode=True)

    return _both_ways(pool, settings, how)


def rectifier(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build ReLU, in place as `Twin` has it, and its gradient."""
    import torch

    tasks = _both_ways(torch.relu, settings, how)
    x = placed(inputs.channels_last(np.random.default_rng(2), settings["x"]), *_place(how))
    return tasks | {"forward": Task(lambda: torch.relu_(x))}


def bias_gradient(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the sum of a gradient over images and pixels."""
    g = placed(inputs.channels_last(np.random.default_rng(2), settings["x"]), *_place(how))
    return {"gradient": Task(lambda: g.sum((0, 2, 3)))}


def _both_ways(operation: Any, settings: Settings, how: dict[str, str]) -> Tasks:
    rng = np.random.default_rng(2)
    x = placed(inputs.channels_last(rng, settings["x"]), *_place(how))
    shape = operation(x).shape
    g = placed(inputs.channels_last(rng, shape), *_place(how))
    return {
        "forward": Task(lambda: operation(x)),
        "backward": Task(_gradient(operation, x, g)),
    }


def _gradient(operation: Any, x: Any, g: Any) -> Callable[[], Any]:
    """Return a function that differentiates an operation, already computed, in its input."""
    import torch

    x = x.detach().requires_grad_()
    y = operation(x)
    return lambda: torch.autograd.grad(y, x, g, retain_graph=True)[0]


def cross_entropy(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build softmax cross-entropy together with its gradient in the scores."""
    import torch

    rng = np.random.default_rng(2)
    n, classes, height, width = settings["x"]
    x = placed(inputs.channels_last(rng, settings["x"]), *_place(how)).requires_grad_()
    labels = torch.from_numpy(rng.integers(0, classes, (n, height, width))).to(x.device)

    def both() -> Any:
        return torch.autograd.grad(torch.nn.functional.cross_entropy(x, labels), x)[0]

    return {"forward and backward": Task(both)}


def upsampling(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build bilinear upsampling, each class by itself, and its gradient in the scores."""
    import torch

    from ..nn.init import bilinear_kernel

    rng = np.random.default_rng(2)
    factor, classes = settings["factor"], settings["x"][1]
    x = placed(inputs.channels_last(rng, settings["x"]), *_place(how))
    kernel = bilinear_kernel(2 * factor).astype(np.float32)
    weight = placed(np.tile(kernel, (classes, 1, 1, 1)), *_place(how))  # (C, 1, k, k)

    def enlarge(x: Any) -> Any:
        return torch.nn.functional.conv_transpose2d(x, weight, stride=factor, groups=classes)

    def forward() -> Any:
        with torch.no_grad():
            return enlarge(x)

    g = placed(inputs.channels_last(rng, forward().shape), *_place(how))
    return {"forward": Task(forward), "backward": Task(_gradient(enlarge, x, g))}


def update(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build an update of all parameters of a net by SGD, with gradients that stay."""
    parameters = Twin(inputs.new_net(settings), *_place(how)).parameters
    for parameter in parameters:
        parameter.grad = parameter.detach() * 0.1
    optimizer = _sgd(parameters, how)

    def step() -> Any:
        optimizer.step()
        return parameters[0].detach()

    return {"update": Task(step)}


def common_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the step that all libraries can do; it returns the loss."""
    import torch
    import torch.nn.functional as T

    start = inputs.common_start(settings)
    x, y = placed(start.pop("images"), *_place(how)), torch.from_numpy(start.pop("labels")).long()
    parameters = [torch.nn.Parameter(placed(a, *_place(how))) for a in start.values()]
    w1, b1, w2, b2, w3, b3 = parameters

    def net(x: Any) -> Any:
        h = T.max_pool2d(T.relu(T.conv2d(x, w1, b1, padding=1), inplace=True), 2)
        h = T.max_pool2d(T.relu(T.conv2d(h, w2, b2, padding=1), inplace=True), 2)
        return T.conv2d(h, w3, b3)

    optimizer = torch.optim.SGD(parameters, inputs.COMMON_LR)
    return {"step": Task(_step(net, x, y.to(x.device), optimizer, how))}


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
