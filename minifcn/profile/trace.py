"""Spans as a file that trace viewers show: ui.perfetto.dev, or chrome://tracing.

The format is Chrome's Trace Event Format, as an object: https://docs.google.com/document/d/
1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Forward, backward and update have a track each. On a
track a layer's bar lies over those of its operations, and those over what they are made of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .._version import __version__
from ..files import replacing
from .spans import BACKWARD, FORWARD, GRADIENT, LAYER, OUTSIDE, PASS, UPDATE, Span

Event: TypeAlias = dict[str, Any]

PROCESS = 1
TRACKS = {FORWARD: 1, BACKWARD: 2, UPDATE: 3}
MB = 1e6


def write(path: str | Path, spans: Sequence[Span], start: float, saved: Mapping[int, int]) -> None:
    """Write a trace file.

    Parameters
    ----------
    path
        Where to; a file that is there is replaced.
    spans
        In order of their starts.
    start
        The time that becomes 0.
    saved
        By the number of a node, the bytes kept for its gradients.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    content = {
        "traceEvents": events(spans, start, saved),
        "displayTimeUnit": "ms",
        "otherData": {"made by": f"minifcn {__version__}"},
    }
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":")), "utf-8")


def events(spans: Sequence[Span], start: float, saved: Mapping[int, int]) -> list[Event]:
    """Return the events of a trace: names of tracks, bars, and curves of memory.

    >>> [event["args"]["name"] for event in events([], 0.0, {})]
    ['minifcn', 'forward', 'backward', 'update']
    """
    names = [_named("process_name", 0, "minifcn")]
    names += [_named("thread_name", track, phase) for phase, track in TRACKS.items()]
    bars = [_bar(span, start) for span in (*spans, *_layers_of_backward(spans))]
    curves = [
        _point("saved activations", *point, start) for point in _saved_over_time(spans, saved)
    ]
    resident = ((span.end, span.resident) for span in spans if span.resident >= 0)
    curves += [_point("memory in use", *point, start) for point in resident]
    # A viewer puts a bar under the one before it, if it ends within that.
    return [*names, *sorted(bars + curves, key=lambda event: (event["ts"], -event.get("dur", 0)))]


def _named(kind: str, track: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": PROCESS, "tid": track, "args": {"name": name}}


def _nanoseconds(time: float) -> int:
    """Return whole nanoseconds; a bar is then inside another exactly if its span is."""
    return round(1e9 * time)


def _bar(span: Span, start: float) -> Event:
    first, last = _nanoseconds(span.start - start), _nanoseconds(span.end - start)
    facts: dict[str, Any] = {"layer": span.layer}
    if span.flops:
        facts["GFLOP"] = span.flops / 1e9
        facts["GFLOP/s"] = span.flops / max(span.seconds, 1e-9) / 1e9
    if span.moved:
        facts["MB moved"] = span.moved / MB
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.kind,
        "pid": PROCESS,
        "tid": TRACKS[span.phase],
        "ts": first / 1000,
        "dur": (last - first) / 1000,
        "args": facts,
    }


def _point(name: str, time: float, size: int, start: float) -> Event:
    when = _nanoseconds(time - start) / 1000
    return {"ph": "C", "name": name, "pid": PROCESS, "ts": when, "args": {"MB": size / MB}}


def _layers_of_backward(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield a bar for each layer that gradients went back through: no module is called there."""
    bar: Span | None = None
    for span in spans:
        top = span.phase == BACKWARD and (span.parent is None or span.parent.kind == PASS)
        if bar is not None and top and (span.layer, span.parent) == (bar.layer, bar.parent):
            bar.end = max(bar.end, span.end)
            continue
        if bar is not None and (top or span.parent is None):
            yield bar
            bar = None
        if top and span.kind == GRADIENT and span.layer != OUTSIDE:
            place = (span.layer, BACKWARD, span.layer, span.parent)
            bar = Span(LAYER, *place, span.start, span.end)
    if bar is not None:
        yield bar


def _saved_over_time(
    spans: Iterable[Span], saved: Mapping[int, int]
) -> Iterator[tuple[float, int]]:
    """Yield times, and the bytes kept for the backward pass from then on."""
    ends = {span.node: span.end for span in spans if span.kind == GRADIENT}  # the last counts
    changes = [(end, -saved.get(node, 0)) for node, end in ends.items()]
    changes += [
        (span.end, saved[span.node])
        for span in spans
        if span.kind != GRADIENT and span.node in saved
    ]
    total = 0
    for time, change in sorted(changes):
        total += change
        yield time, total
