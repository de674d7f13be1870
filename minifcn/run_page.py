"""The report of a run, as it goes and afterwards: one HTML file that needs nothing else.

`write_page` makes it from what a run folder says, and from the pictures in it. It has no
JavaScript; while the run goes, the page asks the browser to load it again every now and then. All
names and texts are escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

from . import runs
from .chart import STYLE, told
from .files import replace_file
from .metrics import METRICS
from .report import file_uri, legend_list, page, percent
from .run_curves import class_curves, loss_chart, metric_charts, other_charts, speed
from .run_log import StageLog
from .run_tables import class_tables, confusion_tables, metric_table, settings, statistics_table
from .runs import Run, picture_name, steps_of

RELOAD = 30  # seconds between two looks of the browser


def write_page(path: str | Path, run: Run, now: datetime | None = None) -> None:
    """Write the report of a run, complete or not at all.

    Parameters
    ----------
    path
        The file.
    run
        What `minifcn.runs.read` returns.
    now
        When it is written; the time of day if not given.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    running = run.state.name == runs.RUNNING
    reload = f'<meta http-equiv="refresh" content="{RELOAD}">\n' if running else ""
    body = _head(run, now or datetime.now()) + _cards(run)
    body += "".join(f"<section>{part}</section>\n" for part in _parts(run) if part)
    replace_file(path, page(f"Run {run.name}", body, STYLE + LOOKS, reload).encode())


def _head(run: Run, now: datetime) -> str:
    """Return what runs, how far it is, and how long it will take."""
    state, part = run.state, run.done / max(1, run.steps)
    where = f"step {run.done:,} of {run.steps:,}"
    log = run.stages.get(state.stage)
    if log and len(run.recipes) > 1:
        number = [*run.recipes].index(state.stage) + 1
        where = (
            f"{state.stage}, stage {number} of {len(run.recipes)}: step {log.step:,} of "
            f"{run.recipes[state.stage]['steps']:,}"
        )
    if state.name == runs.RUNNING and np.isfinite(run.left):
        where += f", about {duration(run.left)} left"
    where += f"; {duration(run.seconds)} {'so far' if run.done < run.steps else 'in all'}"
    reason = f'<p class="reason">{told(state.reason)}</p>\n' if state.reason else ""
    written = f"Written {now:%Y-%m-%d %H:%M:%S}." + (
        f" While the run goes, this page is loaded again every {RELOAD} seconds."
        if state.name == runs.RUNNING
        else ""
    )
    return (
        f'<p class="state"><b class="pill {told(state.name)}">{told(state.name)}</b> '
        f"{told(where)}</p>\n{reason}"
        f'<div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * part:.0f}" aria-label="steps done">'
        f'<i style="width:{100 * part:.1f}%"></i></div>\n'
        f'<p class="faint">{told(run.config.get("data", ""))}, measured on '
        f"{told(run.config.get('val', ''))}. {written}</p>\n"
    )


def _cards(run: Run) -> str:
    """Return the numbers that one looks for first."""
    cards = []
    if run.best:
        cards += [(percent(run.best[name]), title) for name, title in METRICS.items()]
    if np.isfinite(run.loss):
        cards.append((f"{run.loss:.3g}", "loss per pixel, last step"))
    _, rate = speed(run)
    if len(rate):
        cards.append((f"{rate[-1]:.3g}", "images per second"))
    log = run.latest
    if log and len(log.curves["wait"]):
        waited = log.curves["wait"].points().sums.sum()
        share = waited / max(1e-9, log.curves["time"].points().sums.sum())
        cards.append((f"{100 * share:.0f} %", "waiting for images"))
    cells = "".join(f"<div><b>{told(value)}</b> {told(what)}</div>" for value, what in cards)
    note = (
        f'<p class="faint">The metrics are those of {told(_best_stage(run))} at step '
        f"{run.best['step']:,}, its best.</p>"
        if run.best
        else '<p class="faint">Nothing was measured on held-out images yet.</p>'
    )
    return f'<div class="cards">{cells}</div>\n{note}\n'


def _best_stage(run: Run) -> str:
    return next(name for name, log in reversed(run.stages.items()) if log.best)


def _parts(run: Run) -> Iterator[str]:
    """Yield the sections of the page."""
    yield pictures(run)
    curves = [loss_chart(run), *metric_charts(run), *other_charts(run)]
    if any(curves):
        yield (
            "<h2>Curves</h2>\n<p>Over the steps of all stages. The pale band holds the losses of "
            "single steps, which differ with the images; the line is their running mean.</p>\n"
            f'<div class="curves">{"".join(curves)}</div>'
        )
    if any(log.best for log in run.stages.values()):
        yield f"<h2>Stages</h2>\n{metric_table(run)}"
    log = _measured(run)
    if run.shown and log:
        yield (
            "<h2>Classes</h2>\n<p>The IU of each class at each evaluation: of the pixels that are "
            "of the class or were given to it, the share that is both.</p>\n"
            f"{class_curves(run, run.shown)}{class_tables(log, run.shown)}"
        )
        yield (
            "<h2>What is taken for what</h2>\n<p>A row is a true class, a column what the net "
            "says, in per cent of the row's pixels. The diagonal is right.</p>\n"
            f"{confusion_tables(log, run.shown)}"
        )
    yield statistics_table(run)
    yield _events(run)
    yield f"<h2>How this was made</h2>\n{settings(run)}"


def _measured(run: Run) -> StageLog | None:
    """Return the log of the last stage that was measured."""
    return next((log for log in reversed(run.stages.values()) if log.matrices), None)


def pictures(run: Run) -> str:
    """Return the held-out images, their true labels, and what the stages made of them."""
    if not run.shown:
        return ""
    folder = run.folder / runs.WATCH
    taken = [(stage, step) for stage in run.stages for step in sorted(steps_of(folder, stage))]
    # The first answer of all, and the latest of each stage: others are hardly different.
    taken = taken[:1] + list({stage: (stage, step) for stage, step in taken[1:]}.values())
    rows = []
    for head, (name, kind) in enumerate(run.shown.heads.items()):
        rows.append(f"<h3>{told(name)}</h3>\n" if name else "")
        rows.append(legend_list(kind.classes, kind.palette))
        for number, sample in enumerate(run.shown.samples):
            files = [("image", f"{number}-image.jpg"), ("truth", f"{number}-truth-{head}.png")]
            files += [
                (f"{stage}, {step:,}", picture_name(stage, step, number, head))
                for stage, step in taken
            ]
            figures = "".join(_picture(folder / file, sample, title) for title, file in files)
            rows.append(f'<div class="row strip">{figures}</div>\n')
    return (
        "<h2>Held-out images</h2>\n<p>Image, truth, what the net said when it was first asked, "
        f"and at the latest evaluation of each stage (with its step).</p>\n{''.join(rows)}"
    )


def _picture(path: Path, sample: str, title: str) -> str:
    """Return a picture with its title; "" if it is not there."""
    if not path.exists():
        return ""
    kind = "JPEG" if path.suffix == ".jpg" else "PNG"
    return (
        f'<figure><img src="{file_uri(path.read_bytes(), kind)}" alt="{told(sample)}: '
        f'{told(title)}"><figcaption>{told(title)}</figcaption></figure>'
    )


def _events(run: Run) -> str:
    """Return the last of what happened beside steps and evaluations."""
    lines, count = [], 0
    for stage, log in run.stages.items():
        count += log.happened
        lines += [
            f"<li>{told(stage)}, step {step:,}: {told(text)}</li>" for step, text in log.events
        ]
    if not lines:
        return ""
    more = (
        f"<p>{count} in all; of each stage the last are listed.</p>" if count > len(lines) else ""
    )
    return f"<h2>What happened</h2>\n{more}<ul>{''.join(lines)}</ul>"


def duration(seconds: float) -> str:
    """Return a time span in words.

    >>> duration(75.4), duration(7320)
    ('1 min 15 s', '2 h 2 min')
    """
    if not np.isfinite(seconds):
        return "an unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


LOOKS = """
h1, p, li, dt, figcaption { overflow-wrap: anywhere; }
section { margin-top: 2.5rem; } h2 { margin-top: 0; }
.faint { color: var(--faint); font-size: .875rem; }
.state { font-size: 1.1rem; margin: .2rem 0 .6rem; }
.pill { display: inline-block; padding: .05rem .7rem; border-radius: 1rem; margin-right: .4rem;
  border: 1px solid currentColor; font-size: .95rem; }
.pill.running { color: var(--c0); } .pill.finished { color: var(--c2); }
.pill.stopped { color: var(--c4); } .pill.failed { color: var(--c1); }
.reason { border-left: 3px solid var(--c1); padding-left: .8rem; white-space: pre-line; }
.progress { height: .5rem; border-radius: .25rem; background: var(--edge); overflow: hidden; }
.progress i { display: block; height: 100%; background: var(--accent); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(7rem, 1fr)); gap: .6rem;
  margin-top: 1.2rem; }
.cards div { border: 1px solid var(--edge); border-radius: .5rem; padding: .5rem .8rem;
  color: var(--faint); font-size: .875rem; line-height: 1.35; }
.cards b { display: block; color: var(--ink); font-size: 1.35rem; font-weight: 600; }
.curves { grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); gap: 1.6rem; }
.curves figcaption { margin-bottom: .3rem; color: var(--ink); }
.sparks { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.6rem, 1fr));
  gap: .7rem 1.2rem; margin-bottom: 1.5rem; }
.sparks figcaption b { color: var(--ink); float: right; font-weight: 600; }
.strip { grid-template-columns: repeat(auto-fill, minmax(min(8rem, 30%), 1fr)); margin: 0 0 1rem; }
.strip img { border-radius: 2px; }
summary { cursor: pointer; color: var(--faint); font-size: .875rem; }
details table { font-size: .875rem; }
.confusion { border-spacing: 2px; border-collapse: separate; font-size: .8125rem; }
.confusion td, .confusion th { border: 0; padding: .3rem; }
.confusion td { min-width: 2.3rem; text-align: center; border-radius: 3px;
  background: rgb(29 111 184 / var(--a, 0)); }
.confusion td.deep { color: #fff; }
.confusion tr:first-child th span { writing-mode: vertical-rl; transform: rotate(180deg);
  white-space: nowrap; }
.confusion tr:first-child th { text-align: center; font-size: .8125rem; }
.confusion th[scope=row] { text-align: right; white-space: nowrap; padding-right: .6rem; }
.scale { width: 9rem; height: 1.2rem; min-width: 7rem; }
.scale .usual { stroke: none; fill: var(--bar); }
.scale circle { fill: var(--accent); }
td .spark { width: 7rem; }
td.pic { padding-top: .1rem; padding-bottom: .1rem; }
table caption { text-align: left; color: var(--faint); font-size: .875rem; padding-bottom: .3rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: color-mix(in srgb,
  var(--edge) 40%, transparent); padding: .7rem .9rem; border-radius: .5rem; font-size: .875rem; }
"""
"""What a run's page looks like, beyond a report's looks."""
