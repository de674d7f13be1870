"""Looking on while training steps run, at no cost when nobody looks.

The engine knows nothing of this. For as long as a `profiling` block lasts, five methods are
replaced by ones that also write down when they began and ended: a primitive's call, a node's
gradients, a tensor's backward pass, a module's call, an optimiser's step. Afterwards they are as
they were.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter as clock
from typing import Any, Literal

import numpy as np

from ..autograd import Edge, Node, Primitive, Tensor, array_of
from ..backend import Array, Error, device_of, is_numpy, xp_of
from ..flops import PRODUCTS
from ..gpu_memory import held
from ..kernels.cuda.graph import as_usual
from ..nn import Module, Parameter
from ..optim import SGD
from ..process_memory import forget_most, most_resident, reading
from . import table, trace
from .rows import Row, rows_of
from .saved import saved_by_node
from .spans import (
    END,
    GRADIENT,
    LAYER,
    MEMORY,
    OPERATION,
    PASS,
    STEP,
    WORK,
    Entry,
    Span,
    spans_of,
)

_one = threading.Lock()  # held while somebody looks on


class ProfileError(Error, RuntimeError):
    """Looking on where somebody looks on already, or asking before the end."""


class Profile:
    """What was found while steps ran.

    Attributes
    ----------
    steps
        How many steps the block was said to hold; tables show means.
    seconds
        How long the block took; 0 until it has ended.
    log
        All that was written down, as it came; `spans` makes sense of it.
    saved
        The bytes kept for the backward pass, by the number of the node.
    peak
        The most memory in use meanwhile, in bytes: the whole process's, on a GPU what CuPy has
        taken. 0 where the system does not tell.
    """

    def __init__(self, model: Module, steps: int) -> None:
        self.model, self.steps = model, steps
        self.names = {id(module): name for name, module in model.named_modules()}
        self.names[id(model)] = type(model).__name__
        self.seconds, self.start, self.peak = 0.0, 0.0, 0
        self.log: list[Entry] = []
        self.saved: dict[int, int] = {}

    @cached_property
    def spans(self) -> list[Span]:
        """What ran when, in the order of starts.

        Raises
        ------
        ProfileError
            If the block has not ended.
        """
        if not self.seconds:
            raise ProfileError("ask a profile for its findings behind the end of its with block")
        return spans_of(self.log)

    @cached_property
    def rows(self) -> list[Row]:
        """What ran, added up by phase, layer and operation, in the order of first runs."""
        return rows_of(self.spans, self.saved)

    @property
    def other(self) -> float:
        """The seconds in which no operation ran: Python between them, and what stood beside."""
        return self.seconds - sum(row.seconds for row in self.rows)

    def table(self, by: Literal["op", "layer", "both"] = "op") -> str:
        """Return the rows of a step as a table, a line for each operation, each layer, or each row.

        All lines of it add up to the time of a step.
        """
        return table.written(self.rows, self.seconds, self.steps, by)

    def trace(self, path: str | Path) -> None:
        """Write a file that ui.perfetto.dev and chrome://tracing show, with nothing sent anywhere.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        trace.write(path, self.spans, self.start, self.saved)


@contextmanager
def profiling(model: Module, steps: int = 1) -> Iterator[Profile]:
    """Look on while the block runs; what is yielded holds the findings when it has ended.

    What is done in this thread is written down; other threads work as always, and are not seen.
    On a GPU the program waits for each operation, so that its time is known, and nothing is
    replayed from a recording: steps take longer than without. Make a step or two before: the first
    one also fetches memory and compiles.

    Parameters
    ----------
    model
        Its `nn.Module.named_modules` give the layers their names.
    steps
        How many steps the block will make.

    Raises
    ------
    ProfileError
        If somebody looks on already, in whatever thread, or there are no steps.

    Examples
    --------
    >>> import numpy as np
    >>> from minifcn import nn
    >>> net = nn.Sequential(fc=nn.Linear(3, 2), relu=nn.ReLU())
    >>> with profiling(net) as found:
    ...     net(Tensor(np.ones((4, 3), np.float32))).sum().backward()
    >>> [(row.layer, row.operation, row.flops) for row in found.rows if row.phase == "forward"]
    [('fc', 'linear', 48), ('relu', 'relu', 0), ('outside the net', 'sum', 0)]
    """
    if steps < 1:
        raise ProfileError(f"steps={steps} must be at least 1")
    if not _one.acquire(blocking=False):
        raise ProfileError("somebody is profiling already: end that block first")
    try:
        found = Profile(model, steps)
        with ExitStack() as stack:
            stack.enter_context(as_usual())  # what is recorded on a GPU calls nothing
            observer = _Observer(found, stack)
            for owner, name, method in observer.methods():
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, method)
            forget_most()
            observer.wait()
            found.start = clock()
            try:
                yield found
            finally:
                observer.wait()
                found.seconds = clock() - found.start
                found.peak = observer.peak()
    finally:
        _one.release()


class _Observer:
    """Replacements of the engine's methods, which write into a profile's log.

    They run hundreds of times a step and must be quick: they only write down, and what it means is
    found out later, by `spans_of`.
    """

    def __init__(self, found: Profile, stack: ExitStack) -> None:
        self.found, self.write = found, found.log.append
        self.parameters = list(found.model.parameters())
        first: Array | None = self.parameters[0].data if self.parameters else None
        self.gpu = None if first is None or is_numpy(first) else first
        self.resident: Callable[[], int] = stack.enter_context(reading())
        if self.gpu is not None:
            self.resident = partial(held, device_of(self.gpu))
        self.holders = {Tensor, Parameter, np.ndarray, type(first)}  # types that hold an array

    def wait(self) -> None:
        """Wait until a GPU has done all that was asked for."""
        if self.gpu is not None:
            self.gpu.device.synchronize()

    def peak(self) -> int:
        """Return the most memory that was in use."""
        if self.gpu is None:
            return most_resident()
        with self.gpu.device:
            return xp_of(self.gpu).get_default_memory_pool().total_bytes()

    def _end(self) -> None:
        if self.gpu is not None:
            self.wait()
        self.write((clock(), END))

    def methods(self) -> list[tuple[type, str, Callable[..., Any]]]:
        """Return what is to be replaced: class, name and new method."""
        found: list[tuple[type, str, Callable[..., Any]]] = [
            (Node, "gradients", self._gradients),
            (Tensor, "backward", self._backward),
            (Module, "__call__", self._module),
            (SGD, "step", self._update),
        ]
        rest = [(o, name, self._here(getattr(o, name), new)) for o, name, new in found]
        return [(Primitive, "__call__", self._call_of(Primitive.__call__)), *rest]

    def _here(self, plain: Callable[..., Any], new: Callable[..., Any]) -> Callable[..., Any]:
        """Return what calls ``new(plain, ...)`` in this thread, and ``plain(...)`` in others."""
        here, of_thread = threading.get_ident(), threading.get_ident

        def method(*args: Any, **kwargs: Any) -> Any:
            if of_thread() != here:
                return plain(*args, **kwargs)
            return new(plain, *args, **kwargs)

        return method

    def _call_of(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Return the new call of a primitive: by far the most frequent, so it is made for speed."""
        here, of_thread, write = threading.get_ident(), threading.get_ident, self.write
        end, holders = self._end, self.holders

        def call(op: Primitive, *args: Any, **kwargs: Any) -> Any:
            if of_thread() != here:
                return plain(op, *args, **kwargs)
            write((clock(), OPERATION, op.name))
            try:
                output = made = plain(op, *args, **kwargs)
            finally:
                end()
            node = None
            if type(made) is Tensor:
                output, node = made.data, made.node
            base, moved, shapes = output.base, output.nbytes, {"output": output.shape}
            named = zip(op.names, args, strict=False)
            for name, value in (*named, *kwargs.items()) if kwargs else named:
                if type(value) not in holders:
                    continue
                array = array_of(value)
                moved += array.nbytes
                shapes[name] = array.shape
                # A view's base is the array whose memory it is, also that of a view of a view.
                if output is array or (base is not None and (base is array or base is array.base)):
                    moved = 0
                    break
            write((0, WORK, node and node.number, moved, op.name, shapes))
            return made

        return call

    def _gradients(
        self, plain: Callable[..., Any], node: Node, g: Any, create_graph: bool
    ) -> Iterator[tuple[Edge, Any]]:
        found = plain(node, g, create_graph)
        for argument in list(node.edges):
            self.write((clock(), GRADIENT, node.op.name, argument, node.number))
            try:
                pair = next(found)
            finally:
                self._end()
            yield pair
        if node.op.name in PRODUCTS:  # asking takes a while
            self.write((0, MEMORY, self.resident()))

    def _backward(self, plain: Callable[..., Any], root: Tensor, *args: Any, **kwargs: Any) -> None:
        self.write((clock(), PASS))
        try:
            for node, sizes in saved_by_node(root, self.parameters):
                self.found.saved[node.number] = sum(sizes)
            plain(root, *args, **kwargs)
        finally:
            self._end()

    def _module(self, plain: Callable[..., Any], module: Module, *args: Any, **kwargs: Any) -> Any:
        name = self.found.names.get(id(module))
        if name is None:
            return plain(module, *args, **kwargs)
        self.write((clock(), LAYER, name + " + ReLU" * bool(kwargs.get("relu"))))  # nn.in_turn
        try:
            return plain(module, *args, **kwargs)
        finally:
            self._end()
            self.write((0, MEMORY, self.resident()))

    def _update(self, plain: Callable[..., Any], optimizer: SGD) -> None:
        self.write((clock(), STEP))
        try:
            plain(optimizer)
        finally:
            self._end()
        moved = 0
        for group in optimizer.param_groups:
            # It reads weights, gradients and momenta, and writes the first and the last.
            arrays = 5 if group["momentum"] else 3
            moved += arrays * sum(p.data.nbytes for p in group["params"] if p.grad is not None)
        self.write((0, WORK, None, moved, "SGD.step", {}))
