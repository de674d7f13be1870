"""What a terminal shows while a benchmark runs: how far it is, and each table when it is there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ..progress import print_table
from . import table
from .results import Report
from .runner import Observer
from .works import Work

PLAIN = 10.0  # seconds between two lines where there is no terminal


class Terminal(Observer):
    """Shows a run; use it in a ``with`` block, so that the bar is taken away whatever happens.

    The bar is drawn between two blocks: a thread that draws all the time would disturb them. After
    each work, all results so far are written to the file ``out``, if there is to be one.
    """

    def __init__(self, out: Path | None = None) -> None:
        self.out = out
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:.0f} %"),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            expand=True,
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task("", total=1.0)
        self.shown = time.monotonic()

    def __enter__(self) -> Terminal:
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

    def started(self, report: Report) -> None:
        """Print where all this is measured."""
        print(table.head(report), flush=True)

    def working(self, what: str, share: float) -> None:
        """Draw the bar; where there is no terminal, print a line every ten seconds."""
        self.bar.update(self.task, description=what, completed=share, refresh=True)
        now = time.monotonic()
        if self.bar.disable and now > self.shown + PLAIN:
            print(f"{share:.0%} done: {what}", file=sys.stderr, flush=True)
            self.shown = now

    def finished(self, report: Report, work: Work, processes: str) -> None:
        """Print the table of a work, and write all that is known."""
        apart = "a process for each" if processes == "apart" else "one process for all"
        print(f"\n{work.name}: {work.title} ({apart})", end="")
        print_table(table.work_table(report, work.name, processes))
        if self.out:
            report.write(self.out)
