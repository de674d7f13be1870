"""Numbers about each layer in a training step: what it puts out, its gradient, how much it changes.

They tell early what a curve of the loss tells late. Outputs that are zero or below nearly
everywhere leave nothing behind a ReLU to learn from; gradients that shrink from layer to layer
reach the first ones no more; and a weight that changes by a hundredth of itself in a step is thrown
about, while one that changes by a millionth does not learn. About a thousandth is usual.

==============  ===================================================================================
``mean, std``   of what the layer puts out, for the first image of the batch
``zeros``       the share of these numbers that are 0
``negatives``   the share below 0; a ReLU that follows makes them 0
``gradient``    root mean square of the gradient of its weight
``weight``      root mean square of the weight, after the step
``update``      root mean square of what the step added to the weight, divided by ``weight``
==============  ===================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .autograd import Tensor
from .backend import Array, on_device, to_numpy, xp_of
from .kernels.cuda.graph import as_usual
from .nn import Module
from .optim import SGD

STATISTICS = ("mean", "std", "zeros", "negatives", "gradient", "weight", "update")
MOST = 250_000  # numbers of an output that are looked at
BLOCK = 1_000_000  # numbers of a weight that are squared at a time


@contextmanager
def layer_statistics(model: Module, optimizer: SGD) -> Iterator[dict[str, dict[str, Any]]]:
    """Look at all layers with weights during a whole training step, the update included.

    Yields a dictionary that is filled at the end: layer name to statistics by name, of which those
    of the gradient and the update are missing where a layer does not learn; None stands for what
    is not finite. Nothing is computed twice and nothing is kept: of a GPU, one transfer is asked.

    >>> from minifcn import nn
    >>> net = nn.Sequential(fc=nn.Linear(2, 2))
    >>> optimizer = SGD(net.parameters(), lr=0.1)
    >>> with layer_statistics(net, optimizer) as found:
    ...     net(Tensor(np.ones((1, 2), np.float32))).sum().backward()
    ...     optimizer.step()
    >>> list(found["fc"])
    ['mean', 'std', 'zeros', 'negatives', 'gradient', 'weight', 'update']
    """
    layers = {name: layer for name, layer in model.named_modules() if _weight_of(layer) is not None}
    found: dict[str, dict[str, Any]] = {name: {} for name in layers}
    for name, layer in layers.items():
        # An attribute of the object is found before that of its class.
        vars(layer)["forward"] = _watched(layer, found[name])
    try:
        with as_usual():
            yield found
    finally:
        for layer in layers.values():
            vars(layer).pop("forward", None)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, layer in layers.items():
        weight = _weight_of(layer)
        assert weight is not None  # else it were not here
        found[name] |= _of_weight(weight, optimizer, groups.get(id(weight)))
    _fetch(found)


def _weight_of(layer: Module) -> Tensor | None:
    """Return the weight of a layer that owns one."""
    weight = vars(layer).get("weight")
    return weight if isinstance(weight, Tensor) else None


def _watched(layer: Module, found: dict[str, Any]) -> Any:
    """Return the layer's ``forward``, which now also notes what the layer puts out."""
    forward = layer.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        found.update(_of_output(output.data))
        return output

    return watched


def _of_output(x: Array) -> dict[str, Any]:
    """Return mean, standard deviation and shares of the first image, or of some of its pixels."""
    with on_device(x):
        x = x[0]
        if x.ndim == 3 and x.size > MOST:
            apart = math.ceil(math.sqrt(x.size / MOST))
            x = x[:, ::apart, ::apart]
        x = x.astype(np.float32, copy=False)
        return {
            "mean": x.mean(dtype=np.float64),
            "std": x.std(dtype=np.float64),
            "zeros": (x == 0).mean(dtype=np.float64),
            "negatives": (x < 0).mean(dtype=np.float64),
        }


def _of_weight(weight: Tensor, optimizer: SGD, group: dict[str, Any] | None) -> dict[str, Any]:
    """Return the sizes of a weight, its gradient and its last update."""
    with on_device(weight.data):
        size = _rms(weight.data)
        if group is None or weight.grad is None:
            return {"weight": size}
        h = optimizer.momenta.get(weight)
        if h is None:
            h = weight.grad.data  # without the weight decay, which is far smaller
        rate = 1.0 if optimizer.caffe and h is not weight.grad.data else group["lr"]
        # Nothing divided by nothing: a layer of zeros, as new score layers, which stays one.
        change = rate * _rms(h) / (size + np.finfo(np.float32).tiny)
        return {"gradient": _rms(weight.grad.data), "weight": size, "update": change}


def _rms(x: Array) -> Any:
    """Return the root of the mean square, without a second array of the same size."""
    rows = max(1, BLOCK // max(1, x[0].size))
    blocks = (x[i : i + rows] for i in range(0, len(x), rows))
    total = sum((block * block).sum(dtype=np.float64) for block in blocks)
    return (total / x.size) ** 0.5


def _fetch(found: dict[str, dict[str, Any]]) -> None:
    """Replace all numbers by plain ones, rounded to four digits; a GPU is asked once for all."""
    numbers = [value for layer in found.values() for value in layer.values()]
    if not numbers:
        return
    like = next((n for n in numbers if xp_of(n) is not np), numbers[0])
    xp = xp_of(like)
    with on_device(like):
        plain = iter(to_numpy(xp.stack([xp.asarray(n) for n in numbers])).tolist())
    for layer in found.values():
        for name in layer:
            value = next(plain)
            layer[name] = float(f"{value:.4g}") if math.isfinite(value) else None
