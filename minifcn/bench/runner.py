"""Measuring works: processes are started, cases built and compared, blocks timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from ..backend import Error, device_number
from ..kernels.threads import num_threads
from . import machine
from .gpu import PRECISIONS
from .measure import interleave
from .process import MissingError, Worker, WorkerError
from .results import Report, Result, SideResult
from .sides import OURS, PEERS, TUNED, Side, check_peers, missing, our_sides, sides_of
from .works import LAYOUTS, NETS, STEPS, BenchError, Case, Work, find

PROCESSES = ("apart", "together", "both")
COMPARED = 3  # steps whose losses are compared
ON_CPU = Side(OURS)  # with which results on a GPU are compared
MOST_ON_CPU = 4e12  # operations: VGG16 on an image of 500 x 500 has fewer, 20 of them have more
# How far the first may be apart, relative: in float32 another order of sums explains no more; to 10
# and 7 bits (tf32, bf16) numbers are rounded at each of up to 16 layers.
TOLERANCES = {"": 1e-3, "fp32": 1e-3, "tf32": 1e-2, "bf16": 1e-1}


class DifferentResultsError(Error, RuntimeError):
    """Two sides that do not compute the same: their times mean nothing."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes
    ----------
    rounds
        Blocks of each side.
    threads
        Threads of every library; None for one per processor that may be used.
    processes
        ``"apart"``: each side in a process of its own, which sleeps while the others are measured.
        ``"together"``: all in one process. ``"both"``: first this, then that.
    layout
        The memory order of PyTorch's and JAX's images: ``"contiguous"``, ``"channels_last"``, or
        ``"best"`` for both, of which the better counts.
    tuned
        Measure PyTorch and minifcn once more, in processes that keep freed memory; only apart.
    fused
        Train PyTorch's nets with ``SGD(fused=True)`` in place of the default.
    graphs
        On a GPU: measure PyTorch's nets once more as CUDA graphs, which minifcn's always are.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``: where all libraries compute.
    precisions
        On a GPU: in what convolutions are computed, some of ``"fp32"``, ``"tf32"`` and ``"bf16"``.

    Raises
    ------
    BenchError
        For values that do not exist or do not fit together.
    """

    rounds: int = 5
    threads: int | None = None
    processes: str = "apart"
    layout: str = "best"
    tuned: bool = False
    fused: bool = False
    graphs: bool = False
    device: str = "cpu"
    precisions: tuple[str, ...] = ("fp32",)

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BenchError(f"{name}={value} must be at least {least}")
        for name, known in (("processes", PROCESSES), ("layout", ("best", *LAYOUTS))):
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise BenchError(f"{name}={given!r} must be one of {', '.join(known)}")
        if self.tuned and self.processes != "apart":
            raise BenchError(
                "tuned needs processes='apart': memory settings hold for a process as a whole"
            )
        if not self.precisions or set(self.precisions) - set(PRECISIONS):
            asked, there = ", ".join(self.precisions) or "none", ", ".join(PRECISIONS)
            raise BenchError(f"precisions {asked}: choose one or more of {there}")
        if self.device == "cpu" and self.precisions != ("fp32",):
            asked = ", ".join(self.precisions)
            raise BenchError(f"precisions {asked} need device='cuda': a processor has fp32 only")
        if self.device == "cpu" and self.graphs:
            raise BenchError("graphs needs device='cuda': a processor has no CUDA graphs")
        if self.device != "cpu" and self.tuned:
            raise BenchError("tuned needs device='cpu': it is about freed memory of processes")
        if self.device != "cpu":
            device_number(self.device)  # a name that does not exist is an error


class Observer:
    """Is told how a run goes; this one does nothing."""

    def started(self, report: Report) -> None:
        """Take note that the computer is known, and that measuring begins."""

    def working(self, what: str, share: float) -> None:
        """Take note of what is measured now, and which share of all cases is done."""

    def finished(self, report: Report, work: Work, processes: str) -> None:
        """Take note that all cases of a work are done."""


def run(
    works: Sequence[str | Work],
    against: Sequence[str] = ("torch",),
    settings: Settings | None = None,
    observer: Observer | None = None,
) -> Report:
    """Measure works, minifcn against others.

    A library that is not installed, or that cannot do a work, is left out, and a note says so. One
    that fails is left out of that work, and ``failures`` of the report say so.

    Parameters
    ----------
    works
        Names in `works.WORKS`, or works of your own.
    against
        Names in `sides.PEERS`; none at all to measure minifcn alone.
    settings
        How to measure.
    observer
        Is told how it goes.

    Raises
    ------
    BenchError
        For an unknown work or library.
    DeviceError
        If the GPU cannot be used.
    DifferentResultsError
        If two sides do not compute the same.
    WorkerError
        If minifcn's own process dies or fails.
    """
    settings, observer = settings or Settings(), observer or Observer()
    chosen = [find([work])[0] if isinstance(work, str) else work for work in works]
    check_peers(against)
    threads = settings.threads or num_threads()
    report = Report(machine.facts(threads), asdict(settings) | {"against": list(against)})
    report.notes += machine.warnings()
    here = []
    for name in against:
        if text := missing(name):
            report.notes.append(text)
        else:
            here.append(name)
            report.libraries[name] = machine.version_of(name)
    if settings.device == "cpu":
        peaks = machine.sgemm_peaks(threads)
    else:
        peaks = machine.gpu_peaks(settings.device, settings.precisions, threads)
    report.peaks, report.bandwidth = peaks.gflops, peaks.bandwidth
    report.machine |= peaks.facts
    if peaks.doubtful:
        report.notes.append("other programs computed while the matrix product was measured")
    observer.started(report)
    modes = ("apart", "together") if settings.processes == "both" else (settings.processes,)
    total, done = len(modes) * sum(len(work.cases) for work in chosen), 0
    for mode in modes:
        for work in chosen:
            with _Bench(report, work, mode, here, settings, threads) as bench:
                for case in work.cases:
                    what = f"{work.name}, {mode}" + f": {case.name}" * (case.name != work.name)

                    def tell(share: float, what: str = what, done: int = done) -> None:
                        observer.working(what, (done + share) / total)

                    bench.measure(case, tell)
                    done += 1
            observer.finished(report, work, mode)
    return report


class _Bench:
    """One work in one mode: the processes that compute it, and what they find."""

    def __init__(
        self,
        report: Report,
        work: Work,
        mode: str,
        peers: Sequence[str],
        settings: Settings,
        threads: int,
    ) -> None:
        self.report, self.work, self.mode, self.settings = report, work, mode, settings
        self.peers, self.threads = list(peers), threads
        self.workers: dict[str, Worker] = {}
        self.greeted: set[tuple[str, str]] = set()
        self.stack = ExitStack()
        self.on_gpu = settings.device != "cpu"

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.close()

    def measure(self, case: Case, tell: Callable[[float], None]) -> None:
        """Measure one case and add what was found to the report."""
        tell(0)
        built = self._build(case)
        ours = next(iter(built.values()))
        differences = {
            side: _differences(case.name, side, ours["checks"], answer["checks"])
            for side, answer in built.items()
        }
        tasks = ours["flops"]
        from_cpu = self._from_cpu(case, built) if self.on_gpu else {}
        rounds, all_rounds = 0, self.settings.rounds * len(tasks)

        def after_round() -> None:
            nonlocal rounds
            rounds += 1
            tell(rounds / all_rounds)

        for task, flops in tasks.items():
            blocks = {
                side.label: partial(
                    self._worker(side).ask,
                    "block",
                    side=side.label,
                    task=task,
                    seconds=self.work.seconds,
                )
                for side in built
            }
            timings = interleave(blocks, self.settings.rounds, after_round=after_round)
            found = [
                SideResult(
                    *(side, timings[side.label], *differences[side][task]),
                    from_cpu=from_cpu.get((side, task)),
                )
                for side in built
            ]
            self.report.results.append(
                Result(
                    *(self.work.name, self.mode, case.name, task, case.count, flops, found),
                    pieces=ours["pieces"][task],
                )
            )
        if case.kind in NETS and (self.mode == "apart" or self.on_gpu):
            for result in self.report.results[-len(tasks) :]:
                for entry in result.sides:
                    what = {"side": entry.side.label, "task": result.task}
                    entry.memory = self._worker(entry.side).ask("memory", **what)
        for side in built:
            self._worker(side).ask("drop", side=side.label)

    def _build(self, case: Case) -> dict[Side, dict[str, Any]]:
        """Make a case ready at all sides that can do it; return their answers, minifcn's first."""
        settings = self.settings
        form: dict[str, Any] = {"tuned": settings.tuned, "device": settings.device}
        if self.on_gpu:
            form["precisions"] = settings.precisions
        built = {side: self._ask_to_build(side, case) for side in our_sides(case.kind, **form)}
        form |= {"layout": settings.layout, "fused": settings.fused, "graphs": settings.graphs}
        for peer in list(self.peers):
            sides = sides_of(peer, case.kind, **form)
            if not sides:
                where = " on a GPU" * self.on_gpu
                self._note(f"{PEERS[peer].title} cannot do {self.work.name}{where}")
            try:
                built |= {side: self._ask_to_build(side, case) for side in sides}
            except MissingError as error:
                advice = "" if self.on_gpu else f": {PEERS[peer].install}"  # a build for CPUs
                self._note(f"{PEERS[peer].title} cannot be used ({error}){advice}")
                self.peers.remove(peer)
            except WorkerError as error:
                self.report.failures.append(f"{self.work.name}, {self.mode}: {error}")
                self.peers.remove(peer)
        return built

    def _from_cpu(
        self, case: Case, built: dict[Side, dict[str, Any]]
    ) -> dict[tuple[Side, str], float]:
        """Return how far minifcn's first results, by side and task, are from those on the CPU."""
        ours = {side: answer for side, answer in built.items() if side.peer == OURS}
        if sum(next(iter(ours.values()))["flops"].values()) > MOST_ON_CPU:
            self._note(f"{case.name}: it would take a CPU too long to compare results with it")
            return {}
        its = self._ask_to_build(ON_CPU, case, calls=1)["checks"]
        self._worker(ON_CPU).ask("drop", side=ON_CPU.label)
        found: dict[tuple[Side, str], float] = {}
        for side, answer in ours.items():
            first = {task: results[:1] for task, results in answer["checks"].items()}
            gaps = _differences(case.name, side, its, first, "minifcn on the CPU")
            found |= {(side, task): gap for task, (gap, _) in gaps.items()}
        return found

    def _note(self, text: str) -> None:
        if text not in self.report.notes:
            self.report.notes.append(text)

    def _ask_to_build(self, side: Side, case: Case, calls: int = 0) -> dict[str, Any]:
        worker = self._worker(side)
        if (worker.name, side.peer) not in self.greeted:
            self.greeted.add((worker.name, side.peer))
            keep = side.tuned and side.peer == OURS
            hello = worker.ask("hello", peer=side.peer, threads=self.threads, keep_memory=keep)
            if side.peer != OURS:
                self.report.libraries[side.peer] = hello["version"]
        calls = calls or (COMPARED if case.kind in STEPS else 1)
        how = dict(side.how)
        if side.precision:
            how |= {"device": "cuda", "precision": side.precision}  # its only one: see `_worker`
        what = {"peer": side.peer, "how": how, "kind": case.kind, "settings": case.settings}
        return worker.ask("build", side=side.label, calls=calls, **what)

    def _worker(self, side: Side) -> Worker:
        """Return the process of a side; start it when it is asked for first."""
        name = side.label if self.mode == "apart" else "all sides"
        if name not in self.workers:
            environment = TUNED if side.tuned and side.peer != OURS else None
            if self.on_gpu:
                environment = machine.only(self.settings.device)
            self.workers[name] = self.stack.enter_context(Worker(name, self.threads, environment))
        return self.workers[name]


def _differences(
    case: str,
    side: Side,
    ours: dict[str, list],
    its: dict[str, list],
    who: str = "minifcn",
) -> dict[str, tuple[float, float]]:
    """Return, for each task, how far the first results and all results are apart."""
    found = {}
    for task, results in ours.items():
        gaps = [_gap(a, b) for a, b in zip(results, its[task], strict=True)]
        found[task] = gaps[0], max(gaps)
        limit = TOLERANCES[side.precision]
        if not gaps[0] <= limit:
            raise DifferentResultsError(
                f"{case}, {task}: {who} and {side.label} do not compute the same: the first "
                f"results differ by {gaps[0]:.1e}, more than {limit:g}; they begin with "
                f"{results[0][0]:.6g} and {its[task][0][0]:.6g}"
            )
    return found


def _gap(ours: Sequence[float], its: Sequence[float]) -> float:
    """Return the largest difference, relative to the largest number.

    >>> _gap([2.0, -4.0], [2.0, -3.0])
    0.25
    """
    a, b = np.array(ours), np.array(its)
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
