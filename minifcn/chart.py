"""Curves as SVG, for pages that need nothing else: no network, no JavaScript.

Lines differ in colour and in dashes, and have their names at their ends, so that nobody has to tell
colours apart. The colours are those of Okabe and Ito (2008), which look different to people who do
not see red or green; `STYLE` makes them lighter on dark paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from .curve import Curve, running_mean
from .plain_text import visible

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, UPPER, LOWER = 48, 10, 22, 190  # where the plot is; RIGHT from the right edge
MOST_FOR_NAMES = 150  # space at the right for the names of lines
WINDOW, REACH = 20, 4  # pieces of a curve: of a running mean, and of its band to each side
LETTER = 7.3  # the width of a letter, about
COLOURS, DASHES = 6, ("", "7 3", "2 3", "9 3 2 3")


class Line(NamedTuple):
    """A line of a chart: where it goes, and what stands at its end (nothing if it is "").

    ``low`` and ``high``, if given, bound a pale band: where the numbers lay that the line smooths.
    ``look`` decides colour and dashes.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    look: int = 0
    dots: bool = False


class Mark(NamedTuple):
    """A line upwards through a chart, and its name: where something begins."""

    x: float
    name: str


def told(text: object) -> str:
    """Return any text for HTML: nothing in it acts on the page.

    >>> told("<b>")
    '&lt;b&gt;'
    """
    return escape(visible(str(text), keep="\n"))


def smoothed(curve: Curve, begin: float = 0) -> Line:
    """Return the running mean of a curve, in a band that holds the numbers that it smooths.

    >>> from minifcn.curve import curve_of
    >>> smoothed(curve_of([4.0, 2.0])).y.tolist()
    [4.0, 3.0]
    """
    found = curve.points()
    # The band is that of the pieces near each place, so that it does not jump up and down.
    width = 2 * REACH + 1
    low = np.pad(found.lows, REACH, mode="edge")
    high = np.pad(found.highs, REACH, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view
    return Line(
        "",
        begin + found.steps,
        running_mean(found.means, WINDOW),
        windows(low, width).min(axis=1),
        windows(high, width).max(axis=1),
    )


def ticks(top: float, most: int = 5) -> list[float]:
    """Return round numbers from 0 to about ``top``, the last one at or below it.

    >>> ticks(0.93), ticks(7.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8], [0.0, 2.0, 4.0, 6.0])
    """
    if not (math.isfinite(top) and top > 0):
        return [0.0]
    rough = top / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [round(i * step, 12) for i in range(int(top / step + 1e-9) + 1)]


def chart(
    alt: str,
    lines: Sequence[Line],
    *,
    top: float,
    last: float,
    form: Callable[[float], str] = "{:.3g}".format,
    marks: Sequence[Mark] = (),
) -> str:
    """Return a chart of lines over the steps, from 0 up.

    Parameters
    ----------
    alt
        What those hear who do not see it.
    lines
        What to draw; none may be empty.
    top
        The highest number that has a place; what is above is drawn at the edge.
    last
        The last step on the axis.
    form
        Writes the numbers at the axis.
    marks
        Where stages begin.

    Examples
    --------
    >>> line = Line("", np.arange(3.0), np.array([3.0, 2.0, 1.0]))
    >>> chart("a loss", [line], top=3, last=2).count("<polyline")
    1
    """
    top = top if math.isfinite(top) and top > 0 else 1.0
    names = max((len(line.name) for line in lines), default=0)
    edge = WIDTH - (round(min(MOST_FOR_NAMES, 14 + LETTER * names)) if names else RIGHT)

    def place_x(x: Any) -> Any:
        return LEFT + (edge - LEFT) * np.clip(x / max(1.0, last), 0, 1)

    def place_y(y: Any) -> Any:
        return LOWER - (LOWER - UPPER) * np.clip(y / top, 0, 1)

    parts = []
    for value in ticks(top):
        y = place_y(value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{edge}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 6, y + 4, form(value), "end"))
    parts.append(_text(LEFT, LOWER + 20, "step 0", "start"))
    parts.append(_text(edge, LOWER + 20, f"{last:,.0f}", "end"))
    ends = [*(place_x(mark.x) for mark in marks[1:]), WIDTH]
    for mark, end in zip(marks, ends, strict=False):
        x = place_x(mark.x)
        parts.append(
            f'<line class="mark" x1="{x:.1f}" y1="{UPPER - 14}" x2="{x:.1f}" y2="{LOWER}"/>'
        )
        if end - x > 4 + LETTER * len(mark.name):
            parts.append(_text(x + 4, UPPER - 8, mark.name, "start"))
    for line in lines:
        x, y = place_x(line.x), place_y(line.y)
        if line.low is not None and line.high is not None:
            around = [*zip(x, place_y(line.high), strict=True)]
            around += reversed([*zip(x, place_y(line.low), strict=True)])
            parts.append(f'<polygon class="band c{_colour(line)}" points="{_points(around)}"/>')
        dash = DASHES[line.look // COLOURS % len(DASHES)]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        points = _points(list(zip(x, y, strict=True)))
        parts.append(f'<polyline class="c{_colour(line)}"{dashes} points="{points}"/>')
        if line.dots or len(x) == 1:
            parts += [
                f'<circle class="c{_colour(line)}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>'
                for a, b in zip(x, y, strict=True)
            ]
    named = [(line, float(place_y(line.y[-1:])[0])) for line in lines if line.name]
    for (line, _), at in zip(named, apart([y for _, y in named]), strict=True):
        parts.append(_text(edge + 8, at + 4, line.name, "start", f"name c{_colour(line)}"))
    body = "\n".join(parts)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{told(alt)}">\n{body}</svg>'
    )


def spark(alt: str, x: np.ndarray, y: np.ndarray, *, top: float, last: float) -> str:
    """Return a small curve without axes, from 0 up to ``top``.

    >>> "polyline" in spark("an IU", np.arange(2.0), np.arange(2.0), top=1, last=1)
    True
    """
    wide, high = 150, 44
    places = zip(
        2 + (wide - 6) * np.clip(x / max(1.0, last), 0, 1),
        high - 3 - (high - 6) * np.clip(y / (top or 1.0), 0, 1),
        strict=True,
    )
    points = list(places)
    end = (
        f'<circle class="c0" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="2.5"/>'
        if points
        else ""
    )
    return (
        f'<svg class="spark" viewBox="0 0 {wide} {high}" role="img" aria-label="{told(alt)}">'
        f'<line x1="2" y1="{high - 3}" x2="{wide - 4}" y2="{high - 3}"/>'
        f'<polyline class="c0" points="{_points(points)}"/>{end}</svg>'
    )


def apart(places: Sequence[float], least: float = 15.0) -> list[float]:
    """Return places moved so that none is nearer than ``least`` to the next, in the same order.

    >>> apart([10.0, 12.0, 60.0])
    [3.5, 18.5, 60.0]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    groups: list[list[int]] = []
    found = [*places]
    for i in order:
        groups.append([i])
        while len(groups) > 1:
            upper, lower = groups[-2], groups[-1]
            if _start(places, lower, least) >= _start(places, upper, least) + least * len(upper):
                break
            groups[-2:] = [upper + lower]
    for group in groups:
        start = _start(places, group, least)
        for number, i in enumerate(group):
            found[i] = start + number * least
    return found


def _start(places: Sequence[float], group: Sequence[int], least: float) -> float:
    """Return where the first of a group stands that is centred about its members' own places."""
    return sum(places[i] for i in group) / len(group) - least * (len(group) - 1) / 2


def _colour(line: Line) -> int:
    return line.look % COLOURS


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _text(x: float, y: float, content: str, anchor: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{told(content)}</text>'


STYLE = """:root { --c0: #0072b2; --c1: #d55e00; --c2: #00795a; --c3: #a64d82; --c4: #8a6100;
  --c5: #4b5563; }
@media (prefers-color-scheme: dark) { :root { --c0: #6cbcf0; --c1: #ff9a4d; --c2: #3fcf9f;
  --c3: #e79ac6; --c4: #e6b23c; --c5: #b6bec7; } }
.chart text { font-size: 12px; }
.chart text.name { font-weight: 600; stroke: none; }
.chart polyline, .spark polyline { stroke-width: 2; stroke-linecap: round; }
.mark { stroke-dasharray: 3 3; }
.band { opacity: .22; stroke: none; }
""" + "".join(
    f"polyline.c{i} {{ stroke: var(--c{i}); }} "
    f".band.c{i}, circle.c{i}, svg text.c{i} {{ fill: var(--c{i}); }}\n"
    for i in range(COLOURS)
)
"""How charts look, in light and in dark."""
