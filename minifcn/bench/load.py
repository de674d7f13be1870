"""How busy the processors are with other things than what is being measured.

Linux counts in /proc/stat the time that all processors have worked (and, on a virtual machine, the
time that others have "stolen" from it), in steps of 1/100 s. What this process did not use of it
was used by others.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
LIMIT = 0.25  # processors in use by others; below that, counting in steps of 1/100 s means nothing
WORKING = (0, 1, 2, 5, 6, 7)  # the columns user, nice, system, irq, softirq, steal


def working_seconds(stat: str, ticks: int = 100) -> float:
    """Return the seconds that all processors together have worked, from the text of /proc/stat.

    >>> working_seconds("cpu  300 0 100 9000 50 0 0 100 0 0")
    5.0
    """
    columns = stat.splitlines()[0].split()[1:]
    return sum(int(columns[i]) for i in WORKING) / ticks


class Others:
    """Counts from its making on; `processors` says how many processors others kept busy since."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.own, self.all = time.process_time(), _all_work()

    def processors(self) -> float | None:
        """Return the mean number of processors that others used; None if it cannot be known."""
        now = _all_work()
        if now is None or self.all is None:
            return None
        own = time.process_time() - self.own
        seconds = max(time.perf_counter() - self.start, 1e-6)
        return max(0.0, (now - self.all - own) / seconds)


def _all_work() -> float | None:
    if not STAT.exists():
        return None
    return working_seconds(STAT.read_text("ascii"), os.sysconf("SC_CLK_TCK"))


def disturbed(processors: float | None, limit: float = LIMIT) -> bool:
    """Tell whether a measurement counts as disturbed; not if it is unknown.

    >>> disturbed(0.1), disturbed(0.9), disturbed(None)
    (False, True, False)
    """
    return processors is not None and processors > limit


def wait_for_quiet(at_most: float, look: float = 0.1) -> None:
    """Sleep until others leave the processors alone, or ``at_most`` seconds."""
    end = time.perf_counter() + at_most
    while time.perf_counter() < end:
        others = Others()
        time.sleep(look)
        if not disturbed(others.processors()):
            return
