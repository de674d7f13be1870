"""Sums of gradients over ranks, made while backward is still at work.

Backward goes through a net from its last layer to its first. The gradient of a weight is complete
when it has gone through all operations that used the weight; it is not needed before the last is
complete, so it can travel meanwhile. Each message takes some time however short it is, so small
gradients travel together, in *buckets*: copied one behind the other into one array (Li et al. 2020,
"PyTorch Distributed", 3.2.3). All ranks fill them in the same order, as they have the same net.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from ..autograd import Node, Tensor, set_mode
from ..backend import Array, memory_order, on_device, undo, xp_of

BYTES = 1 << 20  # of a bucket: small nets have several, and few messages are shorter
StartSum: TypeAlias = Callable[[Array], Callable[[], None]]  # sums in place; what it returns waits


class Piece(NamedTuple):
    """A gradient in a bucket: whose, its numbers as they lie in memory, its shape and axes there.

    What is one behind the other in memory may be in another order by its axes (channels last), so
    ``shape`` is that in memory, and ``axes`` bring it back.
    """

    parameter: Tensor
    flat: Array
    shape: tuple[int, ...]
    axes: list[int]


class Buckets:
    """Takes gradients as they are completed, and has them summed bucket by bucket.

    Parameters
    ----------
    start_sum
        Begins to sum an array (n,) over all ranks, in place, and returns a function that waits.
    size
        Bytes from which a bucket is full.

    Examples
    --------
    >>> import numpy as np
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> buckets = Buckets(lambda array: lambda: None)
    >>> buckets.add(w, np.array([3.0, 4.0], np.float32))
    >>> buckets.finish()
    >>> w.grad.numpy().tolist()
    [3.0, 4.0]
    """

    def __init__(self, start_sum: StartSum, size: int = BYTES) -> None:
        self.start_sum, self.size = start_sum, size
        self.filling: list[Piece] = []
        self.sent: list[tuple[list[Piece], Array, Callable[[], None]]] = []

    def add(self, parameter: Tensor, gradient: Array) -> None:
        """Take the gradient of a parameter; its array may be overwritten."""
        axes = memory_order(gradient)
        inside = gradient.transpose(axes)
        with on_device(gradient):  # numbers with gaps between them are copied
            piece = Piece(parameter, inside.reshape(-1), inside.shape, undo(axes))
        if self.filling and self.filling[0].flat.dtype != gradient.dtype:
            self._send()
        self.filling.append(piece)
        if sum(each.flat.nbytes for each in self.filling) >= self.size:
            self._send()

    def _send(self) -> None:
        """Start the sum of what is there. A large gradient is a bucket by itself, and not copied.

        >>> import numpy as np
        >>> sent = []
        >>> def start(array):
        ...     sent.append(array.size)
        ...     return lambda: None
        >>> buckets = Buckets(start, size=20)
        >>> for n in (1, 2, 3, 9):
        ...     buckets.add(Tensor(np.ones(n, np.float32)), np.ones(n, np.float32))
        >>> sent
        [6, 9]
        """
        arrays = [piece.flat for piece in self.filling]
        with on_device(arrays[0]):
            flat = arrays[0] if len(arrays) == 1 else xp_of(arrays[0]).concatenate(arrays)
        self.sent.append((self.filling, flat, self.start_sum(flat)))
        self.filling = []

    def finish(self) -> None:
        """Send the rest, wait for all sums, and give each parameter its own as its gradient."""
        if self.filling:
            self._send()
        for pieces, flat, wait in self.sent:
            wait()
            start = 0
            for piece in pieces:
                part = flat[start : start + piece.flat.size]
                start += piece.flat.size
                piece.parameter.grad = Tensor(part.reshape(piece.shape).transpose(piece.axes))
        self.sent = []


def backward(loss: Tensor, parameters: Iterable[Tensor], buckets: Buckets) -> None:
    """Call ``loss.backward()``; send each parameter's gradient as soon as it is complete.

    Gradients that the parameters have already are part of the sums.
    """
    left = uses(loss)  # of each leaf, which backward has not yet come back to
    sent = set()

    def listen(edge: Any, gradient: Array) -> None:
        if edge not in left:
            return
        left[edge] -= 1
        if not left[edge]:
            sent.add(edge)
            buckets.add(edge, gradient if edge.grad is None else edge.grad.data + gradient)

    with set_mode(listener=listen):
        loss.backward()
    for parameter in parameters:  # those that were not seen coming
        if parameter.grad is not None and parameter not in sent:
            buckets.add(parameter, parameter.grad.data)
    buckets.finish()


def uses(loss: Tensor) -> Counter[Tensor]:
    """Return how many operations each leaf of a graph goes into; nothing if that cannot be known.

    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> list(uses((w * w + w).sum()).values())
    [3]
    """
    found: Counter[Tensor] = Counter()
    seen, todo = {loss.edge}, [loss.edge]
    while todo:
        edge = todo.pop()
        if isinstance(edge, Tensor):
            continue
        if type(edge) is not Node:  # a checkpoint: it runs operations that are not in this graph
            return Counter()
        for one in edge.edges.values():
            if isinstance(one, Tensor):
                found[one] += 1
            elif one not in seen:
                seen.add(one)
                todo.append(one)
    return found
