"""The tables of a run's report: stages, classes, confusions, layers, and how it was made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np

from .chart import spark, told
from .metrics import METRICS, ConfusionMatrix
from .report import class_facts, percent, swatch
from .run_curves import last_step, number, starts
from .run_log import StageLog
from .runs import Run, Shown, command

CELLS = 30  # classes of a confusion matrix that is shown as one
WORST = 15  # confusions that are listed
LOWEST, HIGHEST = -6.0, 0.0  # powers of ten on the scale of changes
USUAL = (-3.7, -2.3)


def table(head: str, rows: Iterator[str] | list[str], caption: str = "", kind: str = "") -> str:
    """Return a table that scrolls by itself where it is wider than the page."""
    title = f"<caption>{told(caption)}</caption>" if caption else ""
    style = f' class="{kind}"' if kind else ""
    return (
        f'<div class="wide" tabindex="0"><table{style}>{title}<tr>{head}</tr>\n'
        f"{''.join(rows)}</table></div>\n"
    )


def columns(*titles: str) -> str:
    """Return the head of a table: the titles of its columns, escaped.

    >>> columns("", "a < b")
    '<td></td><th scope="col">a &lt; b</th>'
    """
    return "".join(f'<th scope="col">{told(t)}</th>' if t else "<td></td>" for t in titles)


def metric_table(run: Run) -> str:
    """Return the best metrics of each stage, and how long it took."""
    rows = []
    for stage, log in run.stages.items():
        cells = "".join(f"<td>{percent(log.best.get(n, math.nan))}</td>" for n in METRICS)
        best = f"{log.best['step']:,}" if log.best else "-"
        rows.append(
            f'<tr><th scope="row">{told(stage)}</th>{cells}<td>{best}</td><td>{log.step:,}</td>'
            f"<td>{log.seconds:,.0f}</td></tr>\n"
        )
    titles = ("stage", *METRICS.values(), "at step", "steps", "seconds")
    return table(columns(*titles), rows)


def class_tables(log: StageLog, shown: Shown) -> str:
    """Return for each head a table of the classes, as of the last evaluation."""
    parts = []
    for head, (classes, palette) in shown.heads.items():
        matrix = log.matrices.get(head)
        if matrix is None or matrix.num_classes != len(classes):
            continue
        rows = []
        for k, (name, iu, *rest) in enumerate(class_facts(matrix, classes)):
            part = np.nan_to_num(matrix.iu()[k])
            cells = "".join(f"<td>{cell}</td>" for cell in rest)
            square = swatch(palette[k].tolist())
            rows.append(
                f'<tr><th scope="row" class="name">{square}{told(name)}</th>'
                f'<td class="bar" style="--part:{part:.1%}">{iu}</td>{cells}</tr>\n'
            )
        titles = ("class", "IU", "accuracy", "true pixels", "true share", "predicted share")
        caption = f"At the last evaluation{f', {head}' * bool(head)}"
        parts.append(table(columns(*titles), rows, caption))
    return "".join(parts)


def confusion_tables(log: StageLog, shown: Shown) -> str:
    """Return for each head its confusion matrix as a table, or the worst confusions of many."""
    parts = []
    for head, (classes, _) in shown.heads.items():
        matrix = log.matrices.get(head)
        if matrix is None or matrix.num_classes != len(classes):
            continue
        heading = f"<h3>{told(head)}</h3>\n" if head else ""
        grid = _grid(matrix, classes) if len(classes) <= CELLS else ""
        parts.append(f"{heading}{grid}{_worst(matrix, classes)}")
    return "".join(parts)


def _shares(matrix: ConfusionMatrix) -> np.ndarray:
    """Return each row as shares of the true class's pixels."""
    return matrix.matrix / np.maximum(1, matrix.matrix.sum(axis=1))[:, None]


def _grid(matrix: ConfusionMatrix, classes: tuple[str, ...]) -> str:
    head = "<td></td>" + "".join(f'<th scope="col"><span>{told(n)}</span></th>' for n in classes)
    rows = []
    for name, shares in zip(classes, _shares(matrix), strict=True):
        cells = "".join(
            f'<td{" class=deep" * (share > 0.85)} style="--a:{share:.2f}">'
            f"{f'{100 * share:.0f}' if share >= 0.005 else ''}</td>"
            for share in shares.tolist()
        )
        rows.append(f'<tr><th scope="row">{told(name)}</th>{cells}</tr>\n')
    return table(head, rows, "rows: true class; columns: predicted class; per cent", "confusion")


def _worst(matrix: ConfusionMatrix, classes: tuple[str, ...]) -> str:
    """Return the confusions that cost most pixels."""
    wrong = matrix.matrix * (1 - np.eye(matrix.num_classes, dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:WORST]
    total = max(1, int(matrix.matrix.sum()))
    rows = []
    for place in order:
        true, predicted = divmod(int(place), matrix.num_classes)
        if wrong[true, predicted]:
            cells = f"<td>{wrong[true, predicted]:,}</td>"
            cells += f"<td>{percent(wrong[true, predicted] / total)}</td>"
            name = f"{classes[true]} taken for {classes[predicted]}"
            rows.append(f'<tr><th scope="row">{told(name)}</th>{cells}</tr>\n')
    if not rows:
        return ""
    listed = table(columns("the confusions that cost most", "pixels", "of all"), rows)
    return f"<details><summary>the commonest confusions</summary>{listed}</details>\n"


def statistics_table(run: Run) -> str:
    """Return the statistics of each layer, as of the last look, and how its gradient developed."""
    stage = next((name for name, log in reversed(run.stages.items()) if log.layers), None)
    if stage is None:
        return ""
    rows, looked = [], 0.0
    for name, found in run.stages[stage].layers.items():
        looked = max(looked, *(curve.pieces[-1][1] for curve in found.values() if len(curve)), 0.0)
        last = {kind: curve.last for kind, curve in found.items()}
        dead = 100 * (last.get("zeros", math.nan) + last.get("negatives", math.nan))
        cells = "".join(
            f"<td>{cell}</td>"
            for cell in (
                number(last.get("mean")),
                number(last.get("std")),
                "-" if math.isnan(dead) else f"{dead:.0f} %",
                number(last.get("weight")),
                number(last.get("gradient")),
            )
        )
        gradient = ""
        if "gradient" in found and len(found["gradient"]):
            points = found["gradient"].points()
            gradient = spark(
                f"gradient of {name} from {number(points.means[0])} to {number(points.means[-1])}",
                points.steps,
                points.means,
                top=float(points.means.max()),
                last=last_step(run) - starts(run)[stage],
            )
        change = last.get("update")
        rows.append(
            f'<tr><th scope="row">{told(name)}</th>{cells}<td class="pic">{gradient}</td>'
            f'<td>{number(change)}</td><td class="pic">{_scale(change)}</td></tr>\n'
        )
    titles = ("layer", "mean", "deviation", "not above 0", "weight", "gradient")
    head = columns(*titles, "gradient so far", "change in a step", "on a scale of 10⁻⁶ to 1")
    return (
        "<h2>Layers</h2>\n<p>Mean and deviation are those of the numbers that a layer puts out for "
        "one image; where they are not above 0, a ReLU passes nothing on, and nothing is learnt "
        "from there. Weight and gradient are root mean squares. The last columns tell how much a "
        "step changes a weight, as a part of the weight: about a thousandth is usual (the pale "
        "band); far less hardly learns, far more is thrown about.</p>\n"
        + table(head, rows, f"{stage}, at the last look, step {looked:,.0f}")
    )


def _scale(change: float | None) -> str:
    """Return a dot on a scale of powers of ten, with a band where most are."""
    if change is None or not change > 0:
        return ""
    width = 120

    def place(power: float) -> float:
        return 4 + (width - 8) * (min(HIGHEST, max(LOWEST, power)) - LOWEST) / (HIGHEST - LOWEST)

    left, right = map(place, USUAL)
    return (
        f'<svg class="scale" viewBox="0 0 {width} 16" aria-hidden="true"><rect class="usual" '
        f'x="{left:.1f}" y="2" width="{right - left:.1f}" height="12"/><line x1="4" y1="8" '
        f'x2="{width - 4}" y2="8"/><circle cx="{place(math.log10(change)):.1f}" cy="8" r="4"/>'
        "</svg>"
    )


def settings(run: Run) -> str:
    """Return the command, seed, device, versions and machine, and the whole configuration."""
    config = run.config
    facts = {name: config[name] for name in ("seed", "device", "precision") if name in config}
    versions = config.get("versions")
    facts |= versions if isinstance(versions, dict) else {}
    lines = "".join(f"<dt>{told(n)}</dt><dd>{told(v)}</dd>\n" for n, v in facts.items())
    given = command(run)
    line = f"<pre>{told(given)}</pre>\n" if given else ""
    whole = told(json.dumps(config, indent=2))
    return (
        f"{line}<dl>\n{lines}</dl>\n<details><summary>the whole configuration</summary>"
        f"<pre>{whole}</pre></details>\n"
    )
