"""Steps on made-up images: random pixels and classes, of whatever size is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import Tensor, no_grad
from ..backend import is_numpy
from ..flow import Net
from ..models import FCN, LateFusion
from ..nn import Conv2d, Module, naming_layers
from ..optim import SGD
from ..pretrain import classification_loss

RATE, MOMENTUM, DECAY = 1e-5, 0.9, 5e-4  # so small a rate that nothing can become infinite
ADVICE = "fewer or smaller images: a lower --batch or --size"  # where memory does not suffice


def training_step(net: Net, height: int, width: int, images: int) -> Callable[[], None]:
    """Return what makes a training step: forward, loss, backward, SGD with momentum.

    Parameters
    ----------
    net
        A net on the device where it is to work; it is set to training.
    height, width, images
        Of the batch, which is the same in each step.

    Examples
    --------
    >>> from minifcn import models
    >>> training_step(models.fcn32s(4, "small"), 32, 32, images=1)()
    """
    x, labels = batch(net.train(), height, width, images)
    optimizer = SGD(net.parameters(), RATE, MOMENTUM, DECAY)

    def step() -> None:
        with naming_layers(net, ADVICE):
            loss = _loss(net(x), labels)  # nobody else holds the scores
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


def _loss(output: Any, labels: dict[str, Tensor]) -> Tensor:
    """Return the sum of the losses of all heads."""
    heads = output if isinstance(output, dict) else {"": output}
    losses = [classification_loss(heads[head], labels[head]) for head in heads]
    return sum(losses[1:], losses[0])


def forward_pass(net: Net, height: int, width: int, images: int) -> Callable[[], None]:
    """Return what computes scores, as in inference: nothing is recorded; the net is set so.

    >>> from minifcn import models
    >>> forward_pass(models.fcn32s(4, "small"), 32, 32, images=1)()
    """
    x, _ = batch(net.eval(), height, width, images)

    def step() -> None:
        with no_grad(), naming_layers(net, ADVICE):
            net(x)

    return step


def batch(
    net: Net, height: int, width: int, images: int, seed: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return random images for a net, and random classes by head, on its device.

    A classifier has one class for each image, other nets one for each pixel.

    >>> from minifcn import models
    >>> x, labels = batch(models.fcn32s(4, "small"), 20, 30, images=2)
    >>> x.shape, labels[""].shape
    ((2, 3, 20, 30), (2, 20, 30))
    """
    rng, device = np.random.default_rng(seed), next(iter(net.parameters())).device
    shape: tuple[int, ...] = (images,)
    heads: dict[str, int] = {"": getattr(net, "num_classes", 2)}
    if isinstance(net, FCN | LateFusion):
        shape = images, height, width
        heads = {head.removeprefix("_"): classes for head, classes in net.heads.items()}
        channels = sum(net.streams.values())
    else:
        channels = next(m.in_channels for _, m in net.named_modules() if isinstance(m, Conv2d))
    x = rng.standard_normal((images, channels, height, width), dtype=np.float32)
    dtype = np.int64 if device == "cpu" else np.int32
    labels = {
        head: Tensor(rng.integers(0, classes, shape).astype(dtype)).to(device)
        for head, classes in heads.items()
    }
    return Tensor(x).to(device), labels


def waited(net: Module, step: Callable[[], Any]) -> None:
    """Make a step, and wait until a GPU is through with it."""
    step()
    array = next(iter(net.parameters())).data
    if not is_numpy(array):
        array.device.synchronize()
