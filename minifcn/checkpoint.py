"""Trade time for memory: save a function's inputs only, and compute the function twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .autograd import Edge, GraphError, Node, Primitive, Tensor, is_recording, no_grad, set_mode


def checkpoint(
    fn: Callable[..., Tensor], *inputs: Tensor, rng: np.random.Generator | None = None
) -> Tensor:
    """Return ``fn(*inputs)``, saving only the inputs: backward computes ``fn`` a second time.

    Of a net cut into n such pieces, the activations of one piece at a time are in memory, at the
    price of one more forward pass. Parameters used inside ``fn`` get their ``.grad`` directly.

    Parameters
    ----------
    fn
        A function of tensors that returns one tensor, and the same one each time.
    inputs
        Its arguments.
    rng
        The generator that ``fn`` draws from, for example in dropout: it is set back for the second
        run, so that both runs drop the same elements.

    Raises
    ------
    GraphError
        On a second backward pass, and with ``create_graph=True``.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> checkpoint(lambda x: x * x * x, x).sum().backward()
    >>> x.grad.numpy().tolist()
    [3.0, 12.0]
    """
    state = rng.bit_generator.state if rng else None
    with no_grad():
        output = fn(*inputs)
    return Tensor(output.data, node=_Replay(fn, inputs, rng, state) if is_recording() else None)


class _Replay(Node):
    """A node without rules: it runs the function again, recording, and goes back through that."""

    def __init__(
        self, fn: Callable[..., Tensor], inputs: tuple[Tensor, ...], rng: Any, state: Any
    ) -> None:
        super().__init__(Primitive(checkpoint), {}, {}, {}, None)
        self.edges = {str(i): x.edge for i, x in enumerate(inputs) if x.requires_grad}
        self.saved = {str(i): x.data for i, x in enumerate(inputs)}
        self.fn, self.rng, self.state = fn, rng, state

    def gradients(self, g: Any, create_graph: bool) -> Iterator[tuple[Edge, Any]]:
        """Run the function again and yield the gradients of its inputs."""
        if self.used or create_graph:
            raise GraphError("a checkpoint can be differentiated once, and not with create_graph")
        leaves = {i: Tensor(array, i in self.edges) for i, array in self.saved.items()}
        now = self.rng.bit_generator.state if self.rng else None
        if self.rng:
            self.rng.bit_generator.state = self.state
        with set_mode(recording=True):
            self.fn(*leaves.values()).backward(Tensor(g))
        if self.rng:
            self.rng.bit_generator.state = now
        for i, edge in self.edges.items():
            gradient = leaves[i].grad
            if gradient is not None:
                yield edge, gradient.data
