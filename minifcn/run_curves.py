"""The curves of a run, or of several: loss, metrics, learning rate, speed, memory, IU by class.

The stages of a run stand behind each other on one axis. Each chart has its numbers as a table, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .chart import WINDOW, Line, Mark, chart, smoothed, spark, told
from .curve import Curve, running_mean
from .metrics import METRICS
from .report import percent, swatch
from .runs import Run, Shown

ROWS = 25  # of a table of a curve's numbers, at most
SMALL = 40  # classes with a small curve of their own, at most


class Series(NamedTuple):
    """A named curve over the steps of all stages."""

    name: str
    x: np.ndarray
    y: np.ndarray


def starts(run: Run) -> dict[str, int]:
    """Return after how many steps each stage begins."""
    found, total = {}, 0
    for stage, recipe in run.recipes.items():
        found[stage] = total
        total += recipe["steps"]
    return found


def last_step(run: Run) -> int:
    """Return the last step that was made, counted over all stages."""
    begin = starts(run)
    return max((begin[stage] + log.step for stage, log in run.stages.items()), default=0)


def loss_chart(run: Run) -> str:
    """Return the loss of all stages: what the steps' losses were, and their running mean."""
    lines, tops = [], []
    for stage, log in run.stages.items():
        if len(log.curves["loss"]):
            highs = log.curves["loss"].points().highs
            lines.append(smoothed(log.curves["loss"], starts(run)[stage]))
            tops += [float(np.percentile(highs, 98)), float(lines[-1].y.max())]
    if not lines:
        return ""
    alt = f"loss per pixel from {lines[0].y[0]:.3g} to {lines[-1].y[-1]:.3g}"
    series = [Series("loss", np.concatenate([n.x for n in lines]), _joined(lines))]
    return _figure(run, alt.capitalize(), lines, max(tops), "{:.3g}".format, series)


def _joined(lines: Sequence[Line]) -> np.ndarray:
    return np.concatenate([line.y for line in lines])


def metric_charts(run: Run) -> list[str]:
    """Return for each head a chart of the four metrics at each evaluation."""
    heads = {head: None for log in run.stages.values() for head in log.metrics}
    figures = []
    for head in heads:
        lines, series = [], []
        for look, (name, title) in enumerate(METRICS.items()):
            x, y = _over_stages(run, lambda log, n=name, h=head: log.metrics.get(h, {}).get(n))
            if len(x):
                lines.append(
                    Line(f"{title} {100 * y[-1]:.0f} %", x, y, look=look, dots=len(x) < 40)
                )
                series.append(Series(title, x, y))
        if lines:
            title = f"Metrics on held-out images{f', {head}' * bool(head)}"
            figures.append(_figure(run, title, lines, 1.0, percents, series))
    return figures


def percents(value: float) -> str:
    """Return a share from 0 to 1 as whole per cent, for an axis.

    >>> percents(0.5)
    '50 %'
    """
    return f"{100 * value:.0f} %"


def _over_stages(run: Run, curve_of: Callable[..., Curve | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and numbers of a curve of all stages, one behind the other."""
    x, y = [np.zeros(0)], [np.zeros(0)]
    for stage, log in run.stages.items():
        curve = curve_of(log)
        if curve is not None and len(curve):
            found = curve.points()
            x.append(starts(run)[stage] + found.steps)
            y.append(found.means)
    return np.concatenate(x), np.concatenate(y)


def other_charts(run: Run) -> list[str]:
    """Return the charts of learning rate, speed and memory, as far as the log has these."""
    figures = []
    x, y = _over_stages(run, lambda log: log.curves["lr"])
    if len(x):
        alt = f"Learning rate, at most {y.max():.3g}, now {y[-1]:.3g}"
        figures.append(_line(run, alt, x, y, "learning rate", "{:.2g}".format))
    x, y = speed(run)
    if len(x):
        alt = f"Images per second, {y[-1]:.3g} in the mean of the last steps"
        figures.append(_line(run, alt, x, y, "images per second", "{:.3g}".format))
    x, y = _over_stages(run, lambda log: log.curves["memory"])
    if len(x):
        y = y / 1e6
        alt = f"Memory: {y[-1]:,.0f} MB, at most {y.max():,.0f} MB"
        figures.append(_line(run, alt, x, y, "MB", "{:,.0f}".format))
    return figures


def speed(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return steps, and images per second in the mean of the steps before."""
    x, y = [np.zeros(0)], [np.zeros(0)]
    for stage, log in run.stages.items():
        images, spent = log.curves["images"], log.curves["time"]
        if not len(images):
            continue
        done, seconds = images.points(), spent.points()
        count = min(len(done.sums), len(seconds.sums))
        mean = running_mean(seconds.sums[:count], WINDOW)
        x.append(starts(run)[stage] + done.steps[:count])
        y.append(running_mean(done.sums[:count], WINDOW) / np.maximum(mean, 1e-9))
    return np.concatenate(x), np.concatenate(y)


def _line(
    run: Run, alt: str, x: np.ndarray, y: np.ndarray, name: str, form: Callable[[float], str]
) -> str:
    return _figure(run, alt, [Line("", x, y)], 1.08 * float(y.max()), form, [Series(name, x, y)])


def _figure(
    run: Run,
    alt: str,
    lines: Sequence[Line],
    top: float,
    form: Callable[[float], str],
    series: Sequence[Series],
) -> str:
    """Return a chart with its title, and its numbers to be folded out."""
    begin = starts(run)
    marks = [Mark(begin[stage], stage) for stage in run.stages] if len(run.recipes) > 1 else []
    named = "".join(f", {line.name}" for line in lines if line.name)
    drawing = chart(alt + named, lines, top=top, last=last_step(run), form=form, marks=marks)
    return figure(alt, drawing, series)


def figure(alt: str, drawing: str, series: Sequence[Series]) -> str:
    """Return a drawing below its title, and a table of its numbers to be folded out."""
    return (
        f"<figure><figcaption>{told(alt)}</figcaption>\n{drawing}\n"
        f"<details><summary>numbers</summary>{number_table(series)}</details></figure>\n"
    )


def number_table(series: Sequence[Series]) -> str:
    """Return a table of some of the numbers of curves, about evenly apart; all of few."""
    steps = sorted({float(x) for each in series for x in each.x})
    chosen = [steps[round(i)] for i in np.linspace(0, len(steps) - 1, min(ROWS, len(steps)))]
    values = [dict(zip(each.x.tolist(), each.y.tolist(), strict=True)) for each in series]
    head = "".join(f'<th scope="col">{told(each.name)}</th>' for each in series)
    rows = []
    for step in chosen:
        cells = "".join(
            f"<td>{known[step]:.4g}</td>" if step in known else "<td></td>" for known in values
        )
        rows.append(f'<tr><th scope="row">{step:,.0f}</th>{cells}</tr>\n')
    return (
        f'<div class="wide" tabindex="0"><table><tr><th scope="col">step</th>{head}</tr>\n'
        f"{''.join(rows)}</table></div>"
    )


def class_curves(run: Run, shown: Shown) -> str:
    """Return for each class a small curve of its IU at each evaluation."""
    parts = []
    for head, (classes, palette) in shown.heads.items():
        figures = []
        for number, name in list(enumerate(classes))[:SMALL]:
            x, y = _over_stages(run, lambda log, h=head, n=number: _iou(log.ious, h, n))
            value = percent(y[-1]) if len(y) else "-"
            drawing = spark(f"IU of {name}: {value}", x, y, top=1.0, last=last_step(run))
            square = swatch(palette[number].tolist())
            figures.append(
                f"<figure>{drawing}<figcaption>{square}{told(name)} <b>{value}</b></figcaption>"
                "</figure>"
            )
        heading = f"<h3>{told(head)}</h3>\n" if head else ""
        rest = len(classes) - SMALL
        more = f"<p>And {rest} classes more: see the table.</p>" if rest > 0 else ""
        parts.append(f'{heading}<div class="sparks">{"".join(figures)}</div>{more}\n')
    return "".join(parts)


def _iou(found: Mapping[str, list[Curve]], head: str, number: int) -> Curve | None:
    curves = found.get(head, [])
    return curves[number] if number < len(curves) else None


def comparison(
    runs: Sequence[Run],
    title: str,
    curve_of: Callable[[Run], tuple[np.ndarray, np.ndarray]],
    form: Callable[[float], str],
    top: float | None = None,
) -> str:
    """Return a chart with a line for each run; "" if none has such a curve."""
    lines, series = [], []
    for look, run in enumerate(runs):
        x, y = curve_of(run)
        if len(x):
            lines.append(Line(run.name[:16], x, y, look=look, dots=len(x) < 40))
            series.append(Series(run.name, x, y))
    if not lines:
        return ""
    highest = max(float(np.percentile(line.y, 98)) for line in lines) * 1.05
    last = max(float(line.x.max()) for line in lines)
    alt = f"{title}: " + ", ".join(f"{s.name} {form(s.y[-1])}" for s in series)
    return figure(alt, chart(alt, lines, top=top or highest, last=last, form=form), series)


def loss_of(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and smoothed loss of a run."""
    x, y = _over_stages(run, lambda log: log.curves["loss"])
    return x, running_mean(y, WINDOW)


def metric_of(name: str) -> Callable[[Run], tuple[np.ndarray, np.ndarray]]:
    """Return what gives steps and a metric, of the first head, of a run."""

    def found(run: Run) -> tuple[np.ndarray, np.ndarray]:
        return _over_stages(run, lambda log: next((m[name] for m in log.metrics.values()), None))

    return found


def number(value: float | None, digits: int = 2) -> str:
    """Return a number of any size in a few letters; a dash if there is none.

    >>> number(0.00123), number(None), number(12345.6)
    ('0.0012', '-', '12000')
    """
    if value is None or not math.isfinite(value):
        return "-"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text else text
