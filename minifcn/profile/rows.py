"""Spans, added up: a row for each thing that was done, in some phase, in some layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .spans import OPERATION, Span


class Row(NamedTuple):
    """What one operation took in one layer, in all steps that were looked at.

    Attributes
    ----------
    phase
        ``"forward"``, ``"backward"`` or ``"update"``.
    layer
        The layer's name; the net's class for what it does between its layers.
    operation
        Forward, the name of a primitive: ``"conv2d"``. Backward, which gradient:
        ``"d conv2d / d weight"``; or ``"add"``, where gradients meet.
    calls
        How often it ran.
    seconds
        Together.
    flops
        Two for each product that is added up; see `minifcn.flops`.
    moved
        The bytes that must be read and written at least: each array once. A view moves none.
    saved
        The bytes that forward operations kept for the backward pass.
    """

    phase: str
    layer: str
    operation: str
    calls: int
    seconds: float
    flops: int
    moved: int
    saved: int

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations a second; 0 if there were none.

        >>> Row("forward", "fc", "linear", 1, 0.5, 10**9, 0, 0).gflops
        2.0
        """
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0


def rows_of(spans: Iterable[Span], saved: Mapping[int, int]) -> list[Row]:
    """Return the rows of what ran, in the order in which each ran first.

    Parameters
    ----------
    spans
        In order of their starts.
    saved
        By the number of the node, the bytes that it kept.
    """
    return merged(
        (
            Row(
                span.phase,
                span.layer,
                span.name,
                1,
                span.seconds,
                span.flops,
                span.moved,
                saved.get(span.node, 0) if span.kind == OPERATION else 0,
            )
            for span in spans
            if span.work is span
        ),
        lambda row: row[:3],
    )


def merged(rows: Iterable[Row], key: Callable[[Row], Any]) -> list[Row]:
    """Add up the rows that have one key; each gets the names of the first.

    >>> one = Row("forward", "conv1", "conv2d", 1, 0.25, 4, 2, 1)
    >>> merged([one, one._replace(layer="conv2")], lambda row: row.operation)[0][3:]
    (2, 0.5, 8, 4, 2)
    """
    found: dict[Any, Row] = {}
    for row in rows:
        before = found.get(key(row))
        if before is None:
            found[key(row)] = row
        else:
            found[key(row)] = before._replace(
                calls=before.calls + row.calls,
                seconds=before.seconds + row.seconds,
                flops=before.flops + row.flops,
                moved=before.moved + row.moved,
                saved=before.saved + row.saved,
            )
    return list(found.values())
