"""Smaller libraries: how each is started, and its form of the step that all libraries can do.

That step: conv 3x3 to 32 channels, ReLU, pooling, conv 3x3 to 64, ReLU, pooling, conv 1x1 to the
classes, cross-entropy, plain SGD. Each function below writes it as the library's own examples do,
and returns something that does one step and returns its loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .inputs import COMMON_CLASSES, COMMON_LR, common_start
from .ours import Builder, Task, Tasks
from .works import Settings

# DeZero and Chainer were written for an older NumPy: these are names that it had then.
OLD_NAMES: dict[str, Any] = {
    "int": int,
    "float": float,
    "object": object,
    "sctypes": {"int": [np.int8, np.int16, np.int32, np.int64]},
}


def _start_mygrad(threads: int) -> str:
    import mygrad

    return mygrad.__version__  # its threads are those of NumPy's BLAS, set by the environment


def mygrad_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the step in MyGrad."""
    import mygrad
    from mygrad.nnet.activations import relu
    from mygrad.nnet.layers import conv_nd, max_pool
    from mygrad.nnet.losses import softmax_crossentropy

    start = common_start(settings)
    images, labels = start.pop("images"), start.pop("labels").ravel()
    w1, b1, w2, b2, w3, b3 = parameters = [
        mygrad.tensor(a if a.ndim == 4 else a.reshape(1, -1, 1, 1)) for a in start.values()
    ]

    def step() -> float:
        h = max_pool(relu(conv_nd(images, w1, stride=1, padding=1) + b1), (2, 2), 2)
        h = max_pool(relu(conv_nd(h, w2, stride=1, padding=1) + b2), (2, 2), 2)
        scores = mygrad.transpose(conv_nd(h, w3, stride=1) + b3, (0, 2, 3, 1))
        loss = softmax_crossentropy(scores.reshape(-1, COMMON_CLASSES), labels)
        loss.backward()
        for p in parameters:
            p.data -= COMMON_LR * p.grad
            p.null_grad()
        return loss.item()

    return {"step": Task(step)}


def _start_dezero(threads: int) -> str:
    _give_old_names()
    import dezero

    return getattr(dezero, "__version__", "of unknown version")


def _give_old_names() -> None:
    for name, value in OLD_NAMES.items():
        if name not in vars(np):
            setattr(np, name, value)


def dezero_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the step in DeZero."""
    import dezero.functions as D
    from dezero import Parameter

    start = common_start(settings)
    images, labels = start.pop("images"), start.pop("labels").ravel()
    w1, b1, w2, b2, w3, b3 = parameters = [Parameter(a) for a in start.values()]

    def step() -> float:
        for p in parameters:
            p.cleargrad()
        h = D.pooling(D.relu(D.conv2d(images, w1, b1, 1, 1)), 2, 2, 0)
        h = D.pooling(D.relu(D.conv2d(h, w2, b2, 1, 1)), 2, 2, 0)
        scores = D.transpose(D.conv2d(h, w3, b3, 1, 0), (0, 2, 3, 1))
        loss = D.softmax_cross_entropy(D.reshape(scores, (-1, COMMON_CLASSES)), labels)
        loss.backward()
        for p in parameters:
            p.data -= COMMON_LR * p.grad.data
        return float(loss.data)

    return {"step": Task(step)}


def _start_chainer(threads: int) -> str:
    _give_old_names()
    import chainer

    return chainer.__version__


def chainer_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the step in Chainer."""
    import chainer.functions as C
    from chainer import Parameter

    start = common_start(settings)
    images, labels = start.pop("images"), start.pop("labels")
    w1, b1, w2, b2, w3, b3 = parameters = [Parameter(a) for a in start.values()]

    def step() -> float:
        for p in parameters:
            p.cleargrad()
        h = C.max_pooling_2d(C.relu(C.convolution_2d(images, w1, b1, 1, 1)), 2)
        h = C.max_pooling_2d(C.relu(C.convolution_2d(h, w2, b2, 1, 1)), 2)
        loss = C.softmax_cross_entropy(C.convolution_2d(h, w3, b3), labels)
        loss.backward()
        for p in parameters:
            p.data -= COMMON_LR * p.grad
        return float(loss.data)

    return {"step": Task(step)}


def _use_processors(threads: int) -> None:
    """Leave this process so many processors: two libraries start one thread for each it may use."""
    if not hasattr(os, "sched_setaffinity"):
        if threads != os.cpu_count():
            raise RuntimeError("the number of its threads cannot be set on this system")
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _start_jax(threads: int) -> str:
    _use_processors(threads)
    import jax

    jax.config.update("jax_platforms", "cpu")
    return jax.__version__


def jax_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the step in JAX, compiled as a whole."""
    import jax
    import jax.numpy as jnp

    start = common_start(settings)
    images, labels = start.pop("images"), jnp.array(start.pop("labels"))
    last = how["layout"] == "channels_last"
    orders = ("NHWC", "HWIO", "NHWC") if last else ("NCHW", "OIHW", "NCHW")
    window = (1, 2, 2, 1) if last else (1, 1, 2, 2)
    x = jnp.array(images.transpose(0, 2, 3, 1) if last else images)
    parameters = [
        jnp.array(a.transpose(2, 3, 1, 0) if a.ndim == 4 and last else a) for a in start.values()
    ]

    def convolve(h: Any, weight: Any, bias: Any, pad: int) -> Any:
        pads = [(pad, pad)] * 2
        y = jax.lax.conv_general_dilated(h, weight, (1, 1), pads, dimension_numbers=orders)
        return y + (bias if last else bias[:, None, None])

    def pool(h: Any) -> Any:
        return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, window, window, "VALID")

    def loss_of(parameters: list[Any]) -> Any:
        w1, b1, w2, b2, w3, b3 = parameters
        h = pool(jax.nn.relu(convolve(x, w1, b1, 1)))
        h = pool(jax.nn.relu(convolve(h, w2, b2, 1)))
        scores = convolve(h, w3, b3, 0)
        scores = scores if last else scores.transpose(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], -1)
        return -chosen.mean()

    @jax.jit
    def updated(parameters: list[Any]) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        return loss, [p - COMMON_LR * g for p, g in zip(parameters, gradients, strict=True)]

    def step() -> float:
        nonlocal parameters
        loss, parameters = updated(parameters)
        jax.block_until_ready(parameters)
        return float(loss)

    return {"step": Task(step)}


def _start_tinygrad(threads: int) -> str:
    _use_processors(threads)
    os.environ.setdefault("DEV", "CPU")
    from importlib.metadata import version

    import tinygrad

    (tinygrad.Tensor([1.0]) + 1).realize()  # fails where it finds no compiler
    return version("tinygrad")


def tinygrad_step(settings: Settings, how: dict[str, str]) -> Tasks:
    """Build the step in tinygrad, compiled as a whole."""
    from tinygrad import Context, Tensor, TinyJit
    from tinygrad.nn.optim import SGD

    start = common_start(settings)
    images, labels = (Tensor(start.pop(name)).realize() for name in ("images", "labels"))
    w1, b1, w2, b2, w3, b3 = parameters = [Tensor(a).realize() for a in start.values()]
    optimizer = SGD(parameters, lr=COMMON_LR)

    @TinyJit
    def compiled() -> Any:
        optimizer.zero_grad()
        h = images.conv2d(w1, b1, padding=1).relu().max_pool2d()
        h = h.conv2d(w2, b2, padding=1).relu().max_pool2d()
        scores = h.conv2d(w3, b3).permute(0, 2, 3, 1).reshape(-1, COMMON_CLASSES)
        loss = scores.sparse_categorical_crossentropy(labels.reshape(-1))
        loss.backward()
        return loss.realize(*optimizer.schedule_step())  # the loss before the update

    def step() -> float:
        with Context(TRAINING=1):
            return compiled().item()

    return {"step": Task(step)}


STARTS: dict[str, Callable[[int], str]] = {
    "mygrad": _start_mygrad,
    "dezero": _start_dezero,
    "chainer": _start_chainer,
    "jax": _start_jax,
    "tinygrad": _start_tinygrad,
}
STEPS: dict[str, Builder] = {
    "mygrad": mygrad_step,
    "dezero": dezero_step,
    "chainer": chainer_step,
    "jax": jax_step,
    "tinygrad": tinygrad_step,
}
