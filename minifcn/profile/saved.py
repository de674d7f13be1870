"""How much memory a graph holds for its backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..autograd import Node, Tensor
from ..backend import Array, is_array


class SavedBytes(NamedTuple):
    """What all uses of one operation hold: how many arrays, and their bytes."""

    operation: str
    arrays: int
    bytes: int


def saved_bytes(output: Tensor, exclude: Iterable[Tensor] = ()) -> list[SavedBytes]:
    """List what the graph behind a tensor has saved for its gradient rules, the largest first.

    Each array is counted once, with the operation that saved it first, also if several operations
    saved it, or views of it. A view counts as all of the memory that it keeps alive.

    Parameters
    ----------
    output
        The result of a forward pass, not yet differentiated.
    exclude
        Tensors that live anyway and are not to be counted, such as ``model.parameters()``.

    Returns
    -------
    list of (operation, arrays, bytes)

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> saved_bytes((x * x).exp())
    [SavedBytes(operation='mul', arrays=1, bytes=8), SavedBytes(operation='exp', arrays=1, bytes=8)]
    """
    totals: dict[str, list[int]] = {}
    for node, sizes in saved_by_node(output, exclude):
        total = totals.setdefault(node.op.name, [0, 0])
        total[0] += len(sizes)
        total[1] += sum(sizes)
    rows = [SavedBytes(name, count, size) for name, (count, size) in totals.items()]
    return sorted(rows, key=lambda row: row.bytes, reverse=True)


def saved_by_node(
    output: Tensor, exclude: Iterable[Tensor] = ()
) -> Iterator[tuple[Node, list[int]]]:
    """Yield the nodes that hold something, the oldest first, with the bytes of each array.

    See `saved_bytes`, which adds this up by operation.

    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> [(node.op.name, sizes) for node, sizes in saved_by_node((x * x).exp())]
    [('mul', [8]), ('exp', [8])]
    """
    seen = {id(_owner(tensor.data)) for tensor in exclude}
    for node in sorted(_nodes(output), key=lambda node: node.number):
        owners = (_owner(array) for array in node.saved.values() if is_array(array))
        new = {id(owner): owner.nbytes for owner in owners if id(owner) not in seen}
        seen |= new.keys()
        if new:
            yield node, list(new.values())


def _nodes(output: Tensor) -> set[Node]:
    """Return all nodes that a tensor was computed from."""
    found: set[Node] = set()
    waiting: list[Any] = [output.node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Node) and node not in found:
            found.add(node)
            waiting.extend(node.edges.values())
    return found


def _owner(array: Array) -> Array:
    """Return the array whose memory a view looks at."""
    link: Any = array.base
    while link is not None:  # some views reach their array through an object that is no array
        array = link if is_array(link) else array
        link = getattr(link, "base", None)
    return array
