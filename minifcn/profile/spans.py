"""From a log of what began and ended to spans of time, one inside another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..flops import flops

Entry: TypeAlias = tuple[Any, ...]  # a time in seconds, a kind, and what belongs to that

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"  # phases, in the order of a step
OUTSIDE = "outside the net"  # the layer of what belongs to none: the loss, above all

# Kinds of entries that begin a span, each with what follows:
LAYER = "layer"  # its name
PASS = "pass"  # nothing: a backward pass begins
OPERATION = "operation"  # the name of the primitive
GRADIENT = "gradient"  # the name of the primitive, the argument, the node's number
STEP = "step"  # nothing: an optimiser's step begins
# and of those about the span that was the last to end:
END = "end"
WORK = "work"  # the number of the node that it recorded, or None; bytes moved; name; shapes
MEMORY = "memory"  # the bytes in use


@dataclass(eq=False)
class Span:
    """A stretch of time in which one thing ran.

    Attributes
    ----------
    kind, name, phase
        What ran, and in which part of a step.
    layer
        The name of the layer that it ran in, or for.
    parent
        The span that this one lies in; None if in none.
    work
        The outermost operation, gradient or update around it, perhaps itself: that is what tables
        list. What lies inside is how it is computed. None around layers and passes.
    start, end
        In seconds, of a clock that has its zero anywhere.
    flops, moved
        What was computed, and the bytes that had to be read and written for it; of `work` spans.
    node
        The number of the node that it recorded, or that it is a gradient of; else -1.
    resident
        The memory in use at its end, in bytes; -1 where nobody looked.
    """

    kind: str
    name: str
    phase: str
    layer: str
    parent: Span | None
    start: float
    end: float = 0.0
    flops: int = 0
    moved: int = 0
    node: int = -1
    resident: int = -1

    def __post_init__(self) -> None:
        """Find the work that it is part of."""
        outer = self.parent.work if self.parent else None
        self.work: Span | None = outer or (None if self.kind in (LAYER, PASS) else self)

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def spans_of(log: Iterable[Entry]) -> list[Span]:
    """Return the spans of a log, in the order of their starts.

    A gradient belongs to the layer in which its operation ran forward; and so do the sums of
    gradients behind it, up to the next one.

    >>> log = [(0.0, LAYER, "fc"), (0.1, OPERATION, "linear"), (0.5, END), (0.75, END)]
    >>> [(span.name, span.layer, span.seconds) for span in spans_of(log)]
    [('fc', 'fc', 0.75), ('linear', 'fc', 0.4)]
    """
    spans: list[Span] = []
    layers: dict[int, str] = {}  # by a node's number
    inside: Span | None = None
    ended: Span | None = None  # the last
    for time, kind, *rest in log:
        if kind in (END, WORK, MEMORY):
            span = inside if kind == END else ended
            assert span is not None  # each end has its beginning
            if kind == END:
                span.end, inside, ended = time, span.parent, span
            elif kind == WORK:
                node, *work = rest
                if node is not None:
                    span.node, layers[node] = node, span.layer
                _count(span, *work)
            else:
                span.resident = rest[0]
            continue
        inside = _begun(time, kind, rest, inside, layers)
        spans.append(inside)
    return spans


def _begun(
    time: float, kind: str, rest: list[Any], around: Span | None, layers: Mapping[int, str]
) -> Span:
    """Return the span that an entry begins."""
    phase = around.phase if around else FORWARD
    layer = around.layer if around else OUTSIDE
    if kind == GRADIENT:
        operation, argument, node = rest
        layer = layers.get(node, OUTSIDE)
        if around and around.kind == PASS:
            around.layer = layer  # for the sums that come next
        name = f"d {operation} / d {argument}"
        return Span(kind, name, BACKWARD, layer, around, time, node=node)
    if kind == PASS:
        return Span(kind, BACKWARD, BACKWARD, OUTSIDE, around, time)
    if kind == STEP:
        return Span(kind, "SGD.step", UPDATE, OUTSIDE, around, time)
    (name,) = rest
    return Span(kind, name, phase, name if kind == LAYER else layer, around, time)


def _count(span: Span, moved: int, operation: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Add work to that which a span is part of, unless it is part of another operation."""
    if span.work and not (span.parent and span.parent.kind == OPERATION):
        span.work.moved += moved
        span.work.flops += flops(operation, shapes)
