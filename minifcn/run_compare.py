"""Several runs side by side, as one HTML file: metrics, curves, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .chart import STYLE, told
from .files import replace_file
from .metrics import METRICS
from .report import page, percent
from .run_curves import comparison, loss_of, metric_of, number, percents, speed
from .run_page import LOOKS, duration
from .run_tables import columns, table
from .runs import Run, command, differences


def write_comparison(path: str | Path, runs: Sequence[Run]) -> None:
    """Write a page that compares runs, complete or not at all.

    Parameters
    ----------
    path
        The HTML file.
    runs
        What `minifcn.runs.read` returned, in the order in which they are to stand.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    body = "".join(f"<section>{part}</section>\n" for part in _parts(runs) if part)
    title = f"{len(runs)} runs" if len(runs) != 1 else "1 run"
    replace_file(path, page(f"Comparison of {title}", body, STYLE + LOOKS).encode())


def _parts(runs: Sequence[Run]) -> Iterator[str]:
    yield _metrics(runs)
    curves = [
        comparison(runs, "Mean IU on held-out images", metric_of("mean_iu"), percents, 1.0),
        comparison(runs, "Loss per pixel, smoothed", loss_of, number),
        comparison(
            runs, "Pixel accuracy on held-out images", metric_of("pixel_accuracy"), percents, 1.0
        ),
        comparison(runs, "Images per second", speed, number),
    ]
    if any(curves):
        yield f'<h2>Curves</h2>\n<div class="curves">{"".join(curves)}</div>'
    yield _differences(runs)
    yield _classes(runs)
    yield _commands(runs)


def _metrics(runs: Sequence[Run]) -> str:
    """Return a row for each run: its state and its best metrics; the highest are bold."""
    top = {name: max((run.best.get(name, -1.0) for run in runs), default=-1.0) for name in METRICS}
    rows = []
    for run in runs:
        cells = "".join(
            f"<td{' class=best' * (run.best.get(name) == top[name])}>"
            f"{percent(run.best.get(name, float('nan')))}</td>"
            for name in METRICS
        )
        rows.append(
            f'<tr><th scope="row" class="name">{told(run.name)}</th>'
            f"<td>{told(run.state.name)}</td><td>{run.done:,} of {run.steps:,}</td>{cells}"
            f"<td>{number(run.loss, 3)}</td><td>{told(duration(run.seconds))}</td></tr>\n"
        )
    titles = ("run", "state", "steps", *METRICS.values(), "loss", "time")
    return f"<h2>Metrics</h2>\n{table(columns(*titles), rows)}"


def _differences(runs: Sequence[Run]) -> str:
    """Return in which settings the runs differ."""
    found = differences(runs)
    rows = [
        f'<tr><th scope="row">{told(name)}</th>'
        + "".join(f"<td>{told('-' if value is None else value)}</td>" for value in values)
        + "</tr>\n"
        for name, values in found.items()
        if name != "command" and not name.startswith("given.")  # below, whole commands are shown
    ]
    if not rows:
        return "<h2>Settings</h2>\n<p>The runs do not differ in their settings.</p>"
    names = [run.name for run in runs]
    return f"<h2>In what they differ</h2>\n{table(columns('setting', *names), rows)}"


def _classes(runs: Sequence[Run]) -> str:
    """Return the IU of each class in each run, if all have the same classes."""
    shown = [run.shown.heads if run.shown else {} for run in runs]
    heads = {head: kind.classes for head, kind in shown[0].items()} if shown else {}
    if not heads or any({h: k.classes for h, k in one.items()} != heads for one in shown):
        return ""
    parts = []
    for head, classes in heads.items():
        ious = [_last_ious(run, head, len(classes)) for run in runs]
        rows = []
        for k, name in enumerate(classes):
            cells = "".join(
                f'<td class="bar" style="--part:{np.nan_to_num(iu[k]):.1%}">{percent(iu[k])}</td>'
                for iu in ious
            )
            rows.append(f'<tr><th scope="row" class="name">{told(name)}</th>{cells}</tr>\n')
        titles = [run.name for run in runs]
        parts.append(table(columns("class", *titles), rows, head and f"labels: {head}"))
    return f"<h2>IU of each class at the last evaluation</h2>\n{''.join(parts)}"


def _last_ious(run: Run, head: str, count: int) -> np.ndarray:
    for log in reversed(run.stages.values()):
        if head in log.matrices and log.matrices[head].num_classes == count:
            return log.matrices[head].iu()
    return np.full(count, np.nan)


def _commands(runs: Sequence[Run]) -> str:
    lines = "".join(
        f"<dt>{told(run.name)}</dt><dd>{told(command(run))}</dd>\n" for run in runs if command(run)
    )
    return f"<h2>Commands</h2>\n<dl>\n{lines}</dl>" if lines else ""
