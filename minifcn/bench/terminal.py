"""What a terminal shows while a benchmark runs: how far it is, and each table when it is there."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console

from ..progress import PLAIN, Bar, print_table
from . import table
from .results import Report
from .runner import Observer
from .works import Work


class Terminal(Bar, Observer):
    """Shows a run, in a ``with`` block.

    The bar is drawn between two blocks: a thread that draws all the time would disturb them. After
    each work, all results so far are written to the file ``out``, if there is to be one.
    """

    def __init__(self, out: Path | None = None) -> None:
        self.out = out
        console = Console(stderr=True, force_terminal=sys.stderr.isatty())
        super().__init__(console, "{task.percentage:.0f} %")
        self.task = self.bar.add_task("", total=1.0)
        self.shown = time.monotonic()

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
        for precision in table.precisions(report, work.name, processes):
            print_table(table.work_table(report, work.name, processes, precision))
        if self.out:
            report.write(self.out)
