"""What was measured, as plain data that can be written as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..json_file import write_json
from .floor import least_ms
from .measure import Timing
from .sides import OURS, Side


@dataclass
class SideResult:
    """One side of one task.

    Attributes
    ----------
    side
        The library and its form.
    timing
        Times per call.
    first_difference, difference
        How far its results are from minifcn's, relative to the largest number: those of the first
        call, and the worst of all calls that were compared.
    memory
        Bytes that its process had in use before the net was built, and at most since; None where
        that was not measured.
    from_cpu
        How far minifcn's first result on a GPU is from that on the CPU; None if not compared.
    """

    side: Side
    timing: Timing
    first_difference: float = 0.0
    difference: float = 0.0
    memory: dict[str, int] | None = None
    from_cpu: float | None = None


@dataclass
class Result:
    """One task of one case, by all sides that can do it.

    Attributes
    ----------
    work, processes, case, task
        What was computed, and how the sides were kept apart: ``"apart"`` or ``"together"``.
    count
        How often a sum over the work counts it.
    flops
        Floating-point operations; 0 where they are not counted.
    sides
        minifcn first, all others after it.
    pieces
        What nobody can compute it without: see floor.py.
    """

    work: str
    processes: str
    case: str
    task: str
    count: int
    flops: float
    sides: list[SideResult]
    pieces: list[Sequence[float]] = field(default_factory=list)

    @property
    def ours(self) -> SideResult:
        """The plain side of minifcn."""
        return self.sides[0]

    def only(self, precision: str) -> Result:
        """Return the same with the sides that have a precision only."""
        return replace(self, sides=[s for s in self.sides if s.side.precision == precision])

    def all_ours(self) -> list[SideResult]:
        """Return minifcn's forms, the plain one first."""
        return [entry for entry in self.sides if entry.side.peer == OURS]

    def ratio(self, entry: SideResult) -> float:
        """Return minifcn's time over another side's, the median of all rounds' ratios."""
        return statistics.median(round_ratios(self.match(entry).timing, entry.timing))

    def match(self, entry: SideResult) -> SideResult:
        """Return minifcn's side that another is compared with: tuned with tuned, tf32 with tf32."""
        same = [mine for mine in self.all_ours() if mine.side.terms == entry.side.terms]
        return same[0] if same else self.ours

    def groups(self) -> list[str]:
        """Return the names of the others, each once."""
        return list(dict.fromkeys(s.side.group for s in self.sides if s.side.peer != OURS))

    def best(self, group: str) -> SideResult | None:
        """Return the fastest form of one of the others; None if it was not measured here."""
        found = [s for s in self.sides if s.side.group == group]
        return min(found, key=lambda s: s.timing.ms, default=None)

    def gflops(self, side: SideResult) -> float:
        """Return billions of floating-point operations per second."""
        return self.flops / side.timing.ms / 1e6


@dataclass
class Report:
    """All results of one run, and where they were measured.

    ``machine`` describes the computer; ``libraries`` holds versions; ``peaks`` the GFLOP/s of a
    matrix product, by number of threads, or on a GPU by precision; ``bandwidth`` the GB/s of its
    memory (0 on a processor); ``notes`` say what was left out, and why; ``failures`` what went
    wrong.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    libraries: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    bandwidth: float = 0.0

    def peak(self, side: Side) -> float:
        """Return the GFLOP/s that bound a side; 0 where they were not measured."""
        return self.peaks.get(side.precision or str(self.machine["threads"]), 0.0)

    def floor(self, result: Result, side: Side) -> float:
        """Return the least milliseconds of a task in a side's precision; 0 where unknown."""
        return least_ms(result.pieces, side.precision, self.peak(side), self.bandwidth)

    def of(self, work: str, processes: str) -> list[Result]:
        """Return the results of one work in one mode."""
        return [r for r in self.results if (r.work, r.processes) == (work, processes)]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, with each side's median and label written out."""
        facts = {"format": 1, **asdict(self)}
        for result, plain in zip(self.results, facts["results"], strict=True):
            for side, entry in zip(result.sides, plain["sides"], strict=True):
                entry["label"] = side.side.label
                entry["ms"] = side.timing.ms
                entry["doubtful"] = side.timing.doubtful
                entry["ours_over_this"] = result.ratio(side)
                entry["floor_ms"] = self.floor(result, side.side)
        return facts

    def write(self, path: Path) -> None:
        """Write everything as JSON, whole or not at all."""
        write_json(path, self.as_dict())


def round_ratios(ours: Timing, theirs: Timing) -> list[float]:
    """Return the ratio of two timings in each round; only of rounds without disturbance, if any.

    What slows a computer down for a while cancels out in each of them.

    >>> round_ratios(Timing([2.0, 3.0], [True, True]), Timing([4.0, 4.0], [True, True]))
    [0.5, 0.75]
    """
    rounds = list(zip(ours.blocks, theirs.blocks, ours.clean, theirs.clean, strict=True))
    clean = [a / b for a, b, ours_clean, its_clean in rounds if ours_clean and its_clean]
    return clean or [a / b for a, b, _, _ in rounds]


def total(results: Sequence[Result], group: str) -> tuple[float, float]:
    """Return minifcn's and a group's milliseconds for all tasks that both did.

    Each counts as often as its layer stands in the net, and the group at its best form of each.
    """
    found = [(r, best) for r in results if (best := r.best(group))]
    ours = sum(r.count * r.match(best).timing.ms for r, best in found)
    return ours, sum(r.count * best.timing.ms for r, best in found)
