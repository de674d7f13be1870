"""How much memory this program has, as Linux tells it, and how much more there is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PAGES = Path("/proc/self/statm")  # the second number: pages in memory
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK = "5"  # written to the latter: what is to be forgotten
# What the system and a container leave to programs: what to look for, and its unit.
LIMITS = {
    Path("/proc/meminfo"): (r"MemAvailable: *(\d+) kB", 1024),
    Path("/sys/fs/cgroup/memory.max"): (r"^(\d+)", 1),
}


def free_memory() -> int | None:
    """Return the bytes that can still be had; None if the system does not tell.

    On Linux this is what the kernel deems available, or a container's limit if that is less; on
    other systems all memory that the computer has.

    >>> free_memory() != 0
    True
    """
    found = []
    for file, (pattern, unit) in LIMITS.items():
        number = re.search(pattern, file.read_text()) if file.is_file() else None
        if number:
            found.append(int(number[1]) * unit)
    if not found and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(found, default=None)


def resident() -> int:
    """Return the bytes that this program has at the moment; 0 where the system does not tell.

    >>> resident() >= 0
    True
    """
    return _status("VmRSS")


def most_resident() -> int:
    """Return the most bytes that it had so far; 0 where the system does not tell.

    >>> most_resident() >= 0
    True
    """
    return _status("VmHWM")


def forget_most() -> bool:
    """Begin anew to look for the most; tell whether the system does so.

    >>> forget_most() in (True, False)
    True
    """
    try:
        FORGET.write_text(PEAK)
    except OSError:  # not Linux, or not allowed
        return False
    return True


def _status(name: str) -> int:
    if not STATUS.exists():
        return 0
    found = re.search(rf"^{name}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@contextmanager
def reading() -> Iterator[Callable[[], int]]:
    """Yield a function like `resident` that takes two microseconds, to be called often.

    It returns -1 where the system does not tell.

    >>> with reading() as now:
    ...     now() != 0
    True
    """
    if not PAGES.exists():
        yield lambda: -1
        return
    with PAGES.open("rb", buffering=0) as file:
        number, size = file.fileno(), os.sysconf("SC_PAGE_SIZE")
        yield lambda: int(os.pread(number, 99, 0).split()[1]) * size
