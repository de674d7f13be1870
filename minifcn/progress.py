"""What a terminal shows: the progress of a run or of other work, and tables of results."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from .metrics import METRICS, ConfusionMatrix
from .models.surgery import Report
from .nn import Module
from .plain_text import visible
from .recipes import Recipe
from .report import Row, best, class_facts, percent
from .train import Observer, Step

REFRESH = 0.25  # seconds between two pictures of the bar: more would only cost time
PLAIN = 10.0  # seconds between two lines where there is no terminal
MEMORY = 20  # steps that a smoothed number looks back


class Smoothed:
    """A running mean: of all numbers at first, then one that forgets what lies far back.

    >>> speed = Smoothed()
    >>> speed.add(1.0)
    >>> speed.add(2.0)
    >>> speed.value
    1.5
    """

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0

    def add(self, number: float) -> None:
        """Take in a further number."""
        self.count += 1
        self.value += (number - self.value) / min(self.count, MEMORY)


class Bar:
    """A bar in a terminal that is drawn when it is told to, never by a thread beside the work.

    Use it in a ``with`` block, so that it is taken away whatever happens. Where the output is no
    terminal, ``bar.disable`` says so and nothing is drawn.
    """

    def __init__(self, console: Console, state: str) -> None:
        """Make a bar; ``state`` is the format of what stands behind it."""
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn(state, markup=False),
            console=console,
            auto_refresh=False,  # that would be a thread
            transient=True,
            expand=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Start to show the bar."""
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        self.bar.stop()


class TerminalObserver(Bar, Observer):
    """Shows a run in a terminal: a bar, and a line for each evaluation and warning.

    Where the output is no terminal (a file, a pipe, continuous integration) there are plain lines:
    one every ten seconds at most, and one for each evaluation. Nothing runs beside the training;
    the bar is drawn between two steps. Use it in a ``with`` block, so that the bar is taken away
    whatever happens.

    Parameters
    ----------
    console
        Where to write; standard error where not given, so that it does not mix with results.
    clock
        Tells the time in seconds.

    Examples
    --------
    >>> console = Console(file=sys.stdout, width=60)
    >>> with TerminalObserver(console, clock=lambda: 0.0) as observer:
    ...     observer.warned("the net predicts one class only")
    warning: the net predicts one class only
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True)
        self.clock = clock
        super().__init__(self.console, "{task.fields[state]}")
        self.task = self.bar.add_task("", total=1, state="", visible=False)
        self.shown = self.before = clock()
        self.loss, self.seconds = Smoothed(), Smoothed()
        self.unseen: list[Step] = []  # whose losses are not yet in that
        self.images = 1  # in a step

    def transplanted(self, name: str, report: Report) -> None:
        """Say how many parameters were taken over from another net, and which are new."""
        new = ", ".join(report.names("new"))
        self._line(f"{name}: starting weights: {report.summary()}" + f"; new: {new}" * bool(new))

    def stage_started(self, name: str, recipe: Recipe, model: Module) -> None:
        """Say what is going to be trained, and how long."""
        self.loss, self.seconds, self.unseen = Smoothed(), Smoothed(), []
        self.images = recipe.images
        parts = f" ({recipe.batch_size} at a time)" if recipe.accumulate > 1 else ""
        self._line(
            f"{name}: {learned(model):,} parameters to learn, {recipe.steps} steps of "
            f"{recipe.images} image{'s' * (recipe.images != 1)}{parts}, learning rate "
            f"{recipe.lr:g}",
            "bold",
        )
        self.before = self.clock()

    def resumed(self, name: str, step: int) -> None:
        """Say where the training goes on."""
        self._line(f"{name}: going on after step {step}")

    def stepped(self, name: str, step: Step) -> None:
        """Show step, loss, speed, learning rate and the time that the stage's other steps take."""
        # Step.seconds leaves out reading and changing the images, so look at the clock.
        self.seconds.add(self.clock() - self.before)
        self.before = self.clock()
        self.unseen.append(step)
        if not self._is_time():
            return
        for each in self.unseen:  # only now, as a GPU may have to be waited for
            if not math.isnan(each.loss):  # the step was not skipped
                self.loss.add(each.loss)
        self.unseen = []
        speed = self.images / max(self.seconds.value, 1e-9)
        left = (step.steps - step.step) * self.seconds.value
        state = (
            f"loss {self.loss.value:.3f}  {speed:.1f} images/s  lr {step.lr:.1e}  "
            f"{as_clock(left)} left"
        )
        self._show(f"{name}  step {step.step} of {step.steps}", state, step.step, step.steps)

    def evaluating(self, name: str, done: int, total: int) -> None:
        """Show how many images have been evaluated."""
        self._show(f"{name}  evaluated {done} of {total} images", "", done, total)

    def evaluated(self, name: str, step: int, matrix: ConfusionMatrix, best: bool) -> None:
        """Write a line with the four metrics."""
        self.bar.update(self.task, visible=False, refresh=True)
        numbers = matrix.summary()
        text = "  ".join(f"{title} {percent(numbers[key])}" for key, title in METRICS.items())
        self._line(f"{name}  step {step}  {text}{'  (best so far)' if best else ''}")
        self.before = self.clock()  # an evaluation says nothing about the speed of steps

    def warned(self, text: str) -> None:
        """Write a warning, in yellow."""
        self._line(f"warning: {text}", "yellow")

    def _show(self, description: str, state: str, done: int, total: int) -> None:
        """Draw the bar or write a line, unless that was done a moment ago."""
        if not self._is_time():
            return
        self.shown = self.clock()
        if self.bar.disable:
            self._line(f"{description}  {state}".rstrip())
            return
        self.bar.update(
            self.task,
            description=description,
            state=state,
            completed=done,
            total=total,
            visible=True,
            refresh=True,
        )

    def _is_time(self) -> bool:
        return self.clock() - self.shown >= (PLAIN if self.bar.disable else REFRESH)

    def _line(self, text: str, style: str = "") -> None:
        self.console.print(Text(visible(text), style), soft_wrap=True)


class TileObserver(TerminalObserver):
    """Shows the training of a classifier, which is measured in tiles and not in pixels."""

    def evaluated(self, name: str, step: int, matrix: ConfusionMatrix, best: bool) -> None:
        """Write a line with the share of tiles that were given their class."""
        self.bar.update(self.task, visible=False, refresh=True)
        right = f"{percent(matrix.pixel_accuracy())} of {matrix.matrix.sum()} held-out tiles right"
        self._line(f"{name}  step {step}  {right}")
        self.before = self.clock()


@contextmanager
def show_progress(unit: str) -> Iterator[Callable[[float, int], None]]:
    """Show a bar in a terminal, for work that takes more than two seconds.

    Yields a function to call with the numbers of things done and of all.

    >>> with show_progress("images") as progress:
    ...     progress(1, 2)
    """
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    task = bar.add_task(unit, total=None)
    timer = threading.Timer(2, bar.start)
    timer.start()
    try:
        yield lambda done, total: bar.update(task, completed=done, total=total)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def learned(model: Module) -> int:
    """Return how many numbers a model learns; upsampling layers that stay bilinear do not count.

    >>> from minifcn import models
    >>> net = models.fcn32s(4, "small")
    >>> net.num_parameters() - learned(net) == 4 * 4 * 64 * 64
    True
    """
    return sum(p.data.size for p in model.parameters() if p.requires_grad)


def as_clock(seconds: float) -> str:
    """Return a time span as minutes and seconds, or hours, minutes and seconds.

    >>> as_clock(75.4), as_clock(3600)
    ('1:15', '1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def results_table(rows: Sequence[Row]) -> Table:
    """Return a table of the four metrics and the seconds of each row; the best are bold."""
    table = new_table("", *(f">{title}" for title in METRICS.values()), ">seconds")
    top = best(rows)
    for row in rows:
        cells = [
            Text(percent(value), "bold" if value == top[key] else "")
            for key, value in row.matrix.summary().items()
        ]
        table.add_row(row.title, *cells, "" if row.seconds is None else f"{row.seconds:.0f}")
    return table


def class_table(matrix: ConfusionMatrix, classes: Sequence[str]) -> Table:
    """Return a table of IU, accuracy, true pixels, and true and predicted share of each class."""
    table = new_table("class", ">IU", ">accuracy", ">pixels", ">true share", ">predicted share")
    for row in class_facts(matrix, classes):
        table.add_row(*row)
    return table


class PlainTable(Table):
    """A table whose cells are shown letter by letter, whatever a name in them holds."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of texts, or of things that Rich draws."""
        plain = (Text(visible(cell)) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*plain, **options)


def new_table(*titles: str) -> Table:
    """Return an empty table; columns whose title starts with ``>`` are aligned to the right."""
    table = PlainTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in titles:
        justify = "right" if title.startswith(">") else "left"
        head = Text(visible(title.removeprefix(">")))
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    return table


def print_table(table: Table) -> None:
    """Print a table to standard output: fitted to a terminal, in full where there is none."""
    # Where no terminal limits the width, as in a pipe, nothing is to be cut off or wrapped.
    width = None if sys.stdout.isatty() else 1000
    print()
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)
    print()
