"""Reverse-mode automatic differentiation. Read this file first.

A `Tensor` is an array that remembers how it was made. An operation is a `Primitive`: a plain
function on arrays, with one *rule* per input that says what that input's gradient is. Called with
arrays, a primitive returns an array. Called with a Tensor it also records a `Node`: the arrays that
its rules declared to read, and an edge to wherever each input came from. `Tensor.backward` visits
the nodes from the newest to the oldest and applies the chain rule.

Edges lead from results to inputs only: no cycles, so a graph nobody uses is freed at once.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from . import backend, shown
from .backend import Array, DTypeError, Error, is_array

PRIMITIVES: dict[str, Primitive] = {}  # every operation there is, by name
Edge: TypeAlias = "Node | Tensor"  # where a tensor came from: the node that made it, or a leaf


class GraphError(Error, RuntimeError):
    """A gradient that cannot be had: never recorded, already used up, or edited since."""


class _Mode(threading.local):  # each thread has its own
    recording, debug, listener = True, backend.debugging(), staticmethod(lambda edge, g: None)


_mode = _Mode()
_clock = itertools.count()


def set_mode(**flags: Any) -> AbstractContextManager[None]:
    """Set ``recording``, ``debug`` or ``listener(edge, gradient)`` for a while, in this thread."""
    return backend.for_a_while(_mode, **flags)


def is_recording() -> bool:
    """Tell whether operations on tensors are being recorded."""
    return _mode.recording


def no_grad() -> AbstractContextManager[None]:
    """Compute without recording: ``with no_grad(): ...``."""
    return set_mode(recording=False)


def debug() -> AbstractContextManager[None]:
    """Check that results are finite, and saved arrays not edited before backward (slow)."""
    return set_mode(debug=True)


def _operator(name: str, swap: bool = False, many: bool = False) -> Callable[..., Tensor]:
    """Return a method that looks its primitive up by name, so that this file stands alone."""
    if many:  # x.reshape(2, 3) and x.reshape((2, 3)) mean the same
        return lambda self, *sizes: PRIMITIVES[name](self, sizes[0] if len(sizes) == 1 else sizes)
    if swap:
        return lambda self, other: PRIMITIVES[name](other, self)
    return lambda self, *args, **kwargs: PRIMITIVES[name](self, *args, **kwargs)


class Tensor(shown.Shown):
    """An array with a gradient: PyTorch's ``Tensor``, on a NumPy or CuPy array.

    ``data`` may be an array, a number or nested lists; lists of Python floats become float32. Only
    floating-point tensors can require a gradient. ``grad`` is a Tensor of the same shape, or None.

    >>> x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad.numpy().tolist()
    [[2.0, 4.0], [6.0, 8.0]]
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")
    __array_ufunc__ = None  # lets `array * tensor` call Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False, node: Node | None = None) -> None:
        if not is_array(data):
            array = np.asarray(data)
            data = array.astype(np.float32) if array.dtype == np.float64 else array
        if data.dtype.kind not in "fiub" or (requires_grad and data.dtype.kind != "f"):
            need = "floating-point numbers to require a gradient" if requires_grad else "numbers"
            raise DTypeError(f"a Tensor of {data.dtype} was asked for, but it must hold {need}")
        self.data: Array = np.asarray(data) if isinstance(data, np.generic) else data
        self.requires_grad, self.node = requires_grad or node is not None, node
        self.grad: Tensor | None = None

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    dtype = property(lambda self: self.data.dtype)
    device = property(lambda self: backend.device_of(self.data))
    edge = property(lambda self: self.node or self)

    def __repr__(self) -> str:
        origin = f"from {self.node.op.name}" if self.node else f"grad={self.requires_grad}"
        return f"Tensor({self.data}, {self.dtype}, {self.device}, {origin})"

    def numpy(self) -> np.ndarray:
        """Return the values as a NumPy array (the same memory if they are on the CPU)."""
        return backend.to_numpy(self.data)

    def item(self) -> float:
        """Return the only value as a Python number; on a GPU this waits for the result."""
        return self.data.item()

    def detach(self) -> Tensor:
        """Return the same array as a tensor without a history."""
        return Tensor(self.data)

    def backward(
        self, gradient: Tensor | None = None, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add d(self)/d(leaf) to ``leaf.grad`` of every leaf that requires a gradient.

        ``gradient`` is the gradient of the final quantity in ``self``; it may be left out for a
        single number. The graph is freed on the way unless ``retain_graph``.
        """
        for leaf, g in _propagate(self, gradient, (), retain_graph, create_graph).items():
            g = g if create_graph else Tensor(g)
            leaf.grad = g if leaf.grad is None else leaf.grad + g

    __add__ = __radd__ = _operator("add")
    __mul__ = __rmul__ = _operator("mul")
    __sub__, __rsub__ = _operator("sub"), _operator("sub", swap=True)
    __truediv__, __rtruediv__ = _operator("div"), _operator("div", swap=True)
    __matmul__, __rmatmul__ = _operator("matmul"), _operator("matmul", swap=True)
    __pow__, __neg__, __getitem__ = _operator("pow"), _operator("neg"), _operator("getitem")
    exp, log, sqrt = _operator("exp"), _operator("log"), _operator("sqrt")
    relu, sigmoid, tanh = _operator("relu"), _operator("sigmoid"), _operator("tanh")
    sum, mean, max, to = _operator("sum"), _operator("mean"), _operator("max"), _operator("to")
    reshape, permute = _operator("reshape", many=True), _operator("permute", many=True)


def array_of(value: Any) -> Any:
    """Return a tensor's array, which a rule may treat as a constant; all else as it is."""
    return value.data if isinstance(value, Tensor) else value


class Primitive:
    """A differentiable operation: an array function, and one gradient rule per input."""

    def __init__(self, function: Callable[..., Any], linear: tuple[str, ...] = ()) -> None:
        self.function, self.linear = function, linear  # `linear` names the inputs it is linear in
        self.name, self.__doc__ = function.__name__, function.__doc__
        self.__name__, self.__module__, self.__wrapped__ = self.name, function.__module__, function
        parameters = inspect.signature(function).parameters
        self.names = list(parameters)
        self.defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
        self.rules: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}
        self.loops: Callable[..., Any] | None = None
        self.cases: Callable[[np.random.Generator], Iterator[Any]] | None = None

    def gradient(self, argument: str, saves: tuple[str, ...] = ()) -> Callable[[Any], Any]:
        """Register ``rule(g, s)``: the gradient in one argument, given the output's gradient g.

        ``s`` holds the arrays named in ``saves`` (arguments, or ``"output"``), the arguments that
        are not arrays, and ``shape``, ``dtype`` and ``device`` of each array, for example
        ``s.shape["x"]``. All else is freed after the forward pass.
        """
        return lambda rule: self.rules.setdefault(argument, (rule, saves))[0]

    def reference(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Register the same formula in loops over single numbers: slow, and easy to trust."""
        self.loops = function
        return function

    def samples(self, function: Callable[[np.random.Generator], Any]) -> Callable[..., Any]:
        """Register a generator of ``(label, arguments)`` for the tests, ugly cases among them."""
        self.cases = function
        return function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the array function; record a node if some tensor requires a gradient."""
        arrays = self.defaults | dict(zip(self.names, args, strict=False)) | kwargs
        if len(args) > len(self.names) or len(arrays) != len(self.names):
            inspect.signature(self.function).bind(*args, **kwargs)  # raises Python's own message
        tensors = {name: value for name, value in arrays.items() if isinstance(value, Tensor)}
        for name, tensor in tensors.items():
            arrays[name] = tensor.data
        given = {n: arrays[n] for n in self.names if is_array(arrays[n])}
        with backend.check_one_kind(self.name, given, bool(tensors) and _mode.debug) as checked:
            output = checked(self.function(**arrays))
        if not tensors:
            return output
        record = _mode.recording and output.dtype.kind == "f"
        edges = {n: tensor.edge for n, tensor in tensors.items() if record and tensor.requires_grad}
        return Tensor(output, node=Node(self, arrays, given, edges, output) if edges else None)


def primitive(function: Any = None, *, linear: tuple[str, ...] = ()) -> Any:
    """Turn an array function into a `Primitive`; ``linear`` names the inputs it is linear in."""
    if function is None:
        return lambda f: primitive(f, linear=linear)
    return PRIMITIVES.setdefault(function.__name__, Primitive(function, linear))


class Node:
    """One recorded operation: edges to its inputs, and the arrays that its rules will read."""

    def __init__(self, op: Primitive, arrays: dict, given: dict, edges: dict, output: Any) -> None:
        if not edges.keys() <= op.rules.keys():
            raise GraphError(f"{op.name} has no gradient in {sorted(edges.keys() - op.rules)}")
        self.number, self.op, self.edges, self.used = next(_clock), op, edges, False
        self.facts = {n: value for n, value in arrays.items() if n not in given}
        self.facts["shape"] = self.shape = {n: array.shape for n, array in given.items()}
        self.facts["dtype"] = {n: array.dtype for n, array in given.items()}
        self.facts["device"] = {n: backend.device_of(array) for n, array in given.items()}
        arrays["output"] = output
        self.saved = {n: arrays[n] for argument in edges for n in op.rules[argument][1]}
        self.checksums = {n: backend.checksum(a) for n, a in self.saved.items() if _mode.debug}

    def gradients(self, g: Any, create_graph: bool) -> Iterator[tuple[Edge, Any]]:
        """Apply the rule of every input that wants a gradient; yield its edge and the gradient."""
        if self.used:
            used = f"backward() already went through {self.op.name} and freed what was saved there"
            raise GraphError(f"{used}: compute it again, or call backward(retain_graph=True)")
        near = {"the gradient": array_of(g)} | self.edges | self.saved
        for argument, edge in self.edges.items():
            rule, saves = self.op.rules[argument]
            saved = {name: self._read(name, create_graph) for name in saves}
            with backend.Operation(f"d {self.op.name} / d {argument}", near, _mode.debug) as check:
                gradient = check(rule(g, SimpleNamespace(**self.facts | saved)))
            if gradient.shape != self.shape[argument]:  # it was broadcast in the forward pass
                gradient = PRIMITIVES["sum_to"](gradient, self.shape[argument])
            yield edge, gradient

    def _read(self, name: str, as_tensor: bool) -> Any:
        """Return a saved array; as a tensor if it has a history and gradients are recorded too."""
        array = self.saved[name]
        if name in self.checksums and self.checksums[name] != backend.checksum(array):
            raise GraphError(f"{name!r}, saved by {self.op.name}, was edited before backward")
        edge = self if name == "output" else self.edges.get(name)
        if not as_tensor or edge is None:
            return array
        return edge if isinstance(edge, Tensor) else Tensor(array, node=edge)

    def release(self) -> None:
        """Let go of everything that is held for this operation's rules."""
        self.saved, self.edges, self.used = {}, {}, True


def _propagate(
    root: Tensor, seed: Any, wanted: Any, retain_graph: bool = False, create_graph: bool = False
) -> dict:
    """Return d(root)/d(edge) for all leaves and wanted nodes, each multiplied by ``seed``.

    A heap of creation numbers yields the newest node first, so that a node's gradient is complete
    when the node is visited. Nothing is recursive: a graph may be as deep as memory allows.
    """
    if not root.requires_grad:
        raise GraphError("nothing here requires a gradient: was this computed under no_grad()?")
    with backend.on_device(root.data), set_mode(recording=create_graph):
        if seed is None and root.data.size == 1:
            seed = Tensor(backend.xp_of(root.data).ones_like(root.data))
        if seed is None or (seed.shape, seed.dtype) != (root.shape, root.dtype):
            given = "nothing" if seed is None else f"{seed.shape} {seed.dtype}"
            raise GraphError(f"gradient= must be of {root.shape} {root.dtype}; it is {given}")
        gradients: dict = {root.edge: seed if create_graph else seed.data.copy(order="K")}
        heap = [(-root.node.number, root.node)] if root.node else []
        while heap:
            node = heapq.heappop(heap)[1]
            g = gradients[node] if node in wanted else gradients.pop(node)
            for edge, gradient in node.gradients(g, create_graph):
                if edge in gradients:
                    gradient = PRIMITIVES["add"](gradients[edge], gradient)  # a new array
                elif isinstance(edge, Node):
                    heapq.heappush(heap, (-edge.number, edge))
                elif not create_graph and backend.may_share_memory(gradient, g):
                    gradient = gradient.copy(order="K")  # a leaf owns its gradient
                gradients[edge] = gradient
                _mode.listener(edge, gradient)  # once for each operation that the edge goes into
            if not (retain_graph or create_graph):
                node.release()
    return gradients


def grad(y: Tensor, xs: Sequence[Tensor], seed: Tensor | None = None, **keep: bool) -> list:
    """Return dy/dx for each x (None where y does not depend on it), leaving ``.grad`` alone.

    ``create_graph=True`` gives the gradients a history; ``retain_graph`` is as in `backward`.
    """
    found = _propagate(y, seed, [x.edge for x in xs], **keep)
    results = [found.get(x.edge) for x in xs]
    return [g if g is None or keep.get("create_graph") else Tensor(g) for g in results]
