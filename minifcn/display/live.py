"""Curves of loss and mean IU, drawn while a net is trained."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from ..curve import running_mean
from ..metrics import ConfusionMatrix
from ..nn import Module
from ..recipes import Recipe
from ..report import percent
from ..train import Observer, Step
from .page import MIDDLE_GRAY, DisplayError, Drawing, plural, svg

EVERY = 0.5  # seconds between two drawings: more would only cost time
WINDOW = 20  # steps that the running mean looks back
MOST_POINTS = 400  # of a curve, of more
WIDTH, LEFT, RIGHT, PLOT, TOP, GAP = 480, 52, 14, 130, 26, 50  # pixels
COLOURS = ("#2a7ab9", "#d2691e", "#2e8b57", "#b5519c")  # can be seen on white and on black


class LiveCurves(Observer):
    """Shows in a notebook how a training goes on: a drawing for each stage, which is replaced.

    ``train.run(..., observer=LiveCurves())`` draws at most twice a second, and always after an
    evaluation and the last step; the last drawing stays in the notebook. For a loop of your own,
    call `stepped` after each step of `minifcn.train.fit`.

    Parameters
    ----------
    every
        Seconds between two drawings, at least.
    clock
        Tells the time in seconds.

    Raises
    ------
    DisplayError
        If IPython, which all notebooks have, is not installed.

    Examples
    --------
    >>> from minifcn.train import Step
    >>> curves = LiveCurves(clock=lambda: 0.0)
    >>> curves.stepped("fcn32s", Step(1, 2, 0.7, 0.1, 0.5))
    Loss of fcn32s.
    """

    def __init__(self, every: float = EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            self._display = importlib.import_module("IPython.display").display
        except ImportError as error:
            raise DisplayError(
                "IPython is not installed, so there is no notebook to draw in: "
                "pip install 'minifcn[notebooks]'"
            ) from error
        self.every, self.clock = every, clock
        self._begin("")

    def _begin(self, name: str) -> None:
        """Forget the stage before; its drawing stays as it is."""
        self.name = name
        self.taken: list[
            Step
        ] = []  # their losses are read when they are drawn: on a GPU that waits
        self.scores: dict[str, list[tuple[int, float]]] = {}
        self.steps = 0
        self._handle: Any = None
        self._drawn = -float("inf")

    def stage_started(self, name: str, recipe: Recipe, model: Module) -> None:
        """Begin a drawing."""
        self._begin(name)

    def stepped(self, name: str, step: Step) -> None:
        """Take in a step."""
        if name != self.name:
            self._begin(name)
        self.taken.append(step)
        self.steps = step.steps
        self._draw(at_once=step.step == step.steps)

    def evaluated(self, name: str, step: int, matrix: ConfusionMatrix, best: bool) -> None:
        """Take in the mean IU of an evaluation."""
        self.scores.setdefault(name, []).append((step, matrix.mean_iu()))
        self._draw(at_once=True)

    def warned(self, text: str) -> None:
        """Print a warning below the drawing."""
        print(f"warning: {text}")

    def drawing(self) -> Drawing:
        """Return the curves as they are now."""
        losses = [step.loss for step in self.taken if not math.isnan(step.loss)]
        return curves(losses, self.scores, self.steps, self.name)

    def _draw(self, at_once: bool) -> None:
        now = self.clock()
        if not at_once and now - self._drawn < self.every:
            return
        self._drawn = now
        if self._handle is None:
            self._handle = self._display(self.drawing(), display_id=True)
        else:
            self._handle.update(self.drawing())


def curves(
    losses: Sequence[float],
    scores: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    steps: int = 0,
    name: str = "",
) -> Drawing:
    """Return a drawing of a training: the loss at each step, and the mean IU where it was measured.

    Parameters
    ----------
    losses
        Of steps 1, 2, ...; drawn faintly, and their running mean over 20 steps clearly.
    scores
        For each curve its name, and pairs of a step and a mean IU (0 to 1).
    steps
        That there will be; the number of losses if not given.
    name
        Of what is trained.

    Examples
    --------
    >>> curves([1.4, 0.9, 0.5], {"fcn32s": [(3, 0.61)]}, name="fcn32s")
    Loss and mean IU of fcn32s.
    """
    scores = {title: points for title, points in (scores or {}).items() if points}
    steps = max([steps, len(losses), 1, *(s for each in scores.values() for s, _ in each)])
    both = bool(scores)
    what = f"{'Loss and mean IU' if both else 'Loss'}{' of ' * bool(name)}{name}"
    alt = f"{what} over {plural(len(losses), 'step')}"
    body = ""
    if losses:
        smooth = running_mean(losses, WINDOW)
        alt += f": loss from {losses[0]:.2f} to {smooth[-1]:.2f}"
        top = max(1e-9, float(np.percentile(losses, 99)), float(smooth.max()))
        body += _frame(TOP, f"{name}  loss".strip(), f"{smooth[-1]:.3f}", top, "{:.2g}", steps)
        at = np.arange(1, len(losses) + 1)
        faint, clear = 'stroke-width="0.8" opacity="0.45"', 'stroke-width="2"'
        body += _line(at, np.asarray(losses), TOP, top, steps, COLOURS[0], faint)
        body += _line(at, smooth, TOP, top, steps, COLOURS[0], clear)
    upper = TOP + (PLOT + GAP if losses else 0)
    for number, (title, points) in enumerate(scores.items()):
        colour = COLOURS[number % len(COLOURS)] if len(scores) > 1 else COLOURS[1]
        known = [(step, value) for step, value in points if np.isfinite(value)]
        columns = np.array(known).reshape(-1, 2).T  # (points, 2) -> (2, points)
        told = percent(points[-1][1])
        alt += f"; mean IU{f' of {title}' * (len(scores) > 1)} {told}"
        if number == 0:
            last = "" if len(scores) > 1 else told
            measured = "mean IU" if len(scores) > 1 else "mean IU on held-out images"
            body += _frame(upper, measured, last, 1.0, "{:.0%}", steps)
        body += _line(
            columns[0], columns[1], upper, 1.0, steps, colour, 'stroke-width="2"', dots=True
        )
        if len(scores) > 1:
            x = WIDTH - RIGHT - (len(scores) - 1 - number) * 100
            head = title.removeprefix(name).strip()
            body += _text(x, upper - 9, f"{head} {told}", "end", colour)
    height = upper + (PLOT if both or not losses else -GAP) + 40
    return Drawing(svg(WIDTH, height, f"{alt}.", body), f"{alt}.", f"{what}.")


def _x(step: Any, steps: int) -> Any:
    return LEFT + (WIDTH - LEFT - RIGHT) * step / steps


def _frame(upper: float, title: str, last: str, top: float, form: str, steps: int) -> str:
    """Return a plot's title, its last value, and lines with numbers along both axes."""
    found = _text(LEFT, upper - 9, title, "start", weight="600")
    found += _text(WIDTH - RIGHT, upper - 9, last, "end", weight="600")
    for part in (0, 0.5, 1):
        y = upper + PLOT * (1 - part)
        found += (
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{MIDDLE_GRAY}" stroke-opacity="0.4"/>'
        )
        found += _text(LEFT - 6, y + 4, form.format(part * top), "end")
        found += _text(
            _x(part * steps, steps), upper + PLOT + 16, _step(part, steps), _anchor(part)
        )
    return found


def _step(part: float, steps: int) -> str:
    return "step 0" if part == 0 else f"{part * steps:,.0f}" if part * steps % 1 == 0 else ""


def _anchor(part: float) -> str:
    return "middle" if 0 < part < 1 else "end" if part else "start"


def _text(
    x: float, y: float, content: str, anchor: str, fill: str = MIDDLE_GRAY, weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="12" '
        f'font-weight="{weight}" font-family="system-ui, sans-serif">{escape(content)}</text>\n'
    )


def _line(
    at: np.ndarray,
    values: np.ndarray,
    upper: float,
    top: float,
    steps: int,
    colour: str,
    style: str,
    dots: bool = False,
) -> str:
    """Return a curve, of at most 400 points: each is the mean of the steps that it stands for."""
    if len(at) > MOST_POINTS:
        parts = np.arange(MOST_POINTS) * len(at) // MOST_POINTS
        counts = np.diff([*parts, len(at)])
        at, values = (np.add.reduceat(each, parts) / counts for each in (at, values))
    y = upper + PLOT * (1 - np.clip(values / top, 0, 1))
    places = [f"{a:.1f},{b:.1f}" for a, b in zip(_x(at, steps), y, strict=True)]
    marks = "".join(
        f'<circle cx="{place.split(",")[0]}" cy="{place.split(",")[1]}" r="3" fill="{colour}"/>'
        for place in places * dots
    )
    return (
        f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" {style} '
        f'stroke-linejoin="round"/>{marks}\n'
    )
