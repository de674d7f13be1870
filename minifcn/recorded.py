"""Gradients on a GPU without starting each of a step's hundreds of kernels anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .autograd import Tensor
from .backend import PLAIN, Array
from .kernels.cuda.graph import Recorded
from .nn import Module


class Gradients:
    """A function that computes a loss and its gradients: recorded on a GPU, and then replayed.

    A training step of a small net takes Python longer to ask for than a GPU to compute. So after a
    few calls with arrays of the same shapes, what one asks of the GPU is recorded as a CUDA graph,
    and from there on asked for at once: see `minifcn.kernels.cuda.graph.Recorded`. On a CPU each
    call computes.

    Parameters
    ----------
    net
        Whose parameters' gradients are computed; or the parameters alone. Each call sets them anew;
        it adds nothing to earlier ones. If others learn from now on (``requires_grad``), or an
        attribute of a layer changes (``training``, the ``p`` of a dropout), all is recorded anew.
    compute
        Of arrays: computes a loss and calls ``backward``; returns arrays, such as the loss. It must
        not look at numbers on the GPU, and do nothing else that changes from call to call.
    state
        Further arrays that ``compute`` uses, which may change in place only.

    Examples
    --------
    >>> import numpy as np
    >>> w = Tensor(np.ones(2), requires_grad=True)
    >>> def compute(x):
    ...     loss = (w * Tensor(x)).sum()
    ...     loss.backward()
    ...     return [loss.data]
    >>> gradients = Gradients([w], compute)
    >>> gradients(np.array([1.0, 2.0]))[0].item(), w.grad.numpy().tolist()
    (3.0, [1.0, 2.0])
    """

    def __init__(
        self,
        net: Module | Iterable[Tensor],
        compute: Callable[..., Sequence[Array]],
        state: Sequence[Array] = (),
    ) -> None:
        layers = net.named_modules() if isinstance(net, Module) else ()
        self.layers = [vars(layer) for _, layer in layers]
        self.parameters = list(net.parameters() if isinstance(net, Module) else net)
        self.compute = compute
        self.reached: list[Tensor] = []  # the parameters that the loss depends on
        self.recorded = Recorded(
            self._all, lambda: [*(p.data for p in self.parameters), *state], self._settings
        )

    def __call__(self, *arrays: Array) -> list[Array]:
        """Return what ``compute`` returns, and leave the gradients in the parameters."""
        results = self.recorded(*arrays)
        own = len(results) - len(self.reached)
        for parameter in self.parameters:
            parameter.grad = None
        for parameter, gradient in zip(self.reached, results[own:], strict=True):
            parameter.grad = Tensor(gradient)
        return list(results[:own])

    def close(self) -> None:
        """Give back the memory of a recording, and the gradients that lie in it."""
        for parameter in self.reached:
            parameter.grad = None
        self.recorded.close()

    def _settings(self) -> list[Any]:
        """Return what decides about the work besides arrays: what learns, and layers' numbers."""
        numbers = (x for layer in self.layers for x in layer.values() if type(x) in PLAIN)
        return [*(p.requires_grad for p in self.parameters), *numbers]

    def _all(self, *arrays: Array) -> list[Array]:
        for parameter in self.parameters:
            parameter.grad = None
        results = self.compute(*arrays)
        self.reached = [p for p in self.parameters if p.grad is not None]
        return [*results, *(p.grad.data for p in self.reached if p.grad is not None)]
