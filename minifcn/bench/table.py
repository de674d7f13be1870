"""Tables of results, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..progress import new_table
from .machine import GPU_SIDE
from .results import Report, Result, SideResult, round_ratios, total
from .sides import OURS, PEERS, missing
from .works import LAYER_TASKS, WORKS

MB = 1e6


def head(report: Report) -> str:
    """Return the lines that say where all this is measured."""
    facts = {name: str(value) for name, value in report.machine.items()}
    if report.bandwidth:
        rates = (f"{peak / 1000:.1f} TFLOP/s in {name}" for name, peak in report.peaks.items())
        facts["matrix product"] = f"{', '.join(rates)} ({GPU_SIDE} x {GPU_SIDE})"
        facts["memory bandwidth"] = f"{report.bandwidth:.0f} GB/s (a copy, reading and writing)"
    else:
        rates = (
            f"{peak:.0f} GFLOP/s with {n} thread{'s' * (n != '1')}"
            for n, peak in report.peaks.items()
        )
        facts["matrix product"] = f"{', '.join(rates)} (float32, 2048 x 2048, best of 12)"
    versions = (f"{PEERS[name].title} {found}" for name, found in report.libraries.items())
    facts["against"] = ", ".join(versions) or "nobody"
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def precisions(report: Report, work: str, processes: str) -> list[str | None]:
    """Return for which precisions a work has a table of its own; only None: one table has all."""
    results = report.of(work, processes)
    if len(results) == 1 or not report.bandwidth:
        return [None]
    return [entry.side.precision for entry in results[0].all_ours()]


def work_table(report: Report, work: str, processes: str, precision: str | None = None) -> Table:
    """Return the table of a work: a row for each library, or for each task if there are several.

    If a precision is given, only the sides that have it are in the table.
    """
    results = report.of(work, processes)
    if precision:
        results = [result.only(precision) for result in results]
    return _libraries(report, results[0]) if len(results) == 1 else _tasks(report, results)


def _libraries(report: Report, result: Result) -> Table:
    """Return a table with a row for each library, the fastest first."""
    table = new_table(
        result.task,
        ">ms",
        ">minifcn / it",
        ">lowest to highest",
        ">GFLOP/s",
        ">of peak",
        *_floor_title(report),
        ">memory",
        ">differs by",
        ">calls",
        ">dropped",
    )
    best = [*result.all_ours(), *filter(None, (result.best(group) for group in result.groups()))]
    for entry in sorted(best, key=lambda entry: entry.timing.ms):
        cells = ["", "", "" if entry.from_cpu is None else f"{entry.from_cpu:.0e}"]
        if entry.side.peer != OURS:
            ratios = round_ratios(result.match(entry).timing, entry.timing)
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            cells = [f"{result.ratio(entry):.2f}", spread, f"{entry.difference:.0e}"]
        table.add_row(
            entry.side.label,
            _ms(entry),
            *cells[:2],
            *_speed(report, result, entry),
            *_over_floor(report, result, entry),
            _memory(entry),
            cells[2],
            str(entry.timing.calls),
            str(entry.timing.dropped),
        )
    return table


def _tasks(report: Report, results: Sequence[Result]) -> Table:
    """Return a table with a row for each task, and sums of those that count."""
    ours = [f">{entry.side.label} ms" for entry in results[0].all_ours()]
    groups = list(dict.fromkeys(group for result in results for group in result.groups()))
    titles = [title for group in groups for title in (f">{group} ms", "as", ">ratio")]
    last = [">GFLOP/s", ">of peak", *_floor_title(report), ">dropped"]
    table = new_table("", "", *ours, *titles, *last)
    shown = ""
    for result in results:
        cells = [_ms(entry) for entry in result.all_ours()]
        for best in (result.best(group) for group in groups):
            its = [_ms(best), best.side.form, f"{result.ratio(best):.2f}"] if best else [""] * 3
            cells += its
        name = "" if result.case == shown else result.case
        dropped = sum(entry.timing.dropped for entry in result.sides)
        cells += [
            *_speed(report, result, result.ours),
            *_over_floor(report, result, result.ours),
            str(dropped),
        ]
        table.add_row(name, result.task, *cells)
        shown = result.case
    for task in (*LAYER_TASKS, "all") if results[0].flops else ():
        counted = [r for r in results if task in (r.task, "all")]
        if not counted:
            continue
        sums = [sum(r.count * r.all_ours()[i].timing.ms for r in counted) for i in range(len(ours))]
        cells = [f"{ms:.2f}" for ms in sums]
        for group in groups:
            mine, theirs = total(counted, group)
            cells += [f"{theirs:.2f}", "each at its best", f"{mine / theirs:.2f}"]
        speed = sum(r.count * r.flops for r in counted) / sums[0] / 1e6
        plain = results[0].ours.side
        cells += [f"{speed:.0f}", _share(speed, report.peak(plain))]
        if _floor_title(report):
            cells.append(f"{sums[0] / sum(r.count * report.floor(r, plain) for r in counted):.2f}")
        table.add_row("sum", task, *cells, "")
    return table


def _floor_title(report: Report) -> list[str]:
    """Return the title of the column that compares with the floor, where there is one."""
    return [">over floor"] if report.bandwidth else []


def _over_floor(report: Report, result: Result, entry: SideResult) -> list[str]:
    if not report.bandwidth:
        return []
    floor = report.floor(result, entry.side)
    return [f"{entry.timing.ms / floor:.2f}" if floor else ""]


def _ms(entry: SideResult) -> str:
    return f"{entry.timing.ms:.2f}{'*' * entry.timing.doubtful}"


def _speed(report: Report, result: Result, entry: SideResult) -> tuple[str, str]:
    speed = result.gflops(entry)
    return (f"{speed:.0f}", _share(speed, report.peak(entry.side))) if speed else ("", "")


def _share(speed: float, peak: float) -> str:
    return f"{speed / peak:.0%}" if peak else ""


def _memory(entry: SideResult) -> str:
    if not entry.memory or not entry.memory["peak"]:
        return ""
    return f"{(entry.memory['peak'] - entry.memory['before']) / MB:,.0f} MB"


def legend(report: Report) -> str:
    """Return what the words and marks of the tables mean, those that occur in this report."""
    lines = [
        "ms: the median of all blocks' medians.",
        "minifcn / it, ratio: the median of all rounds' ratios; below 1, minifcn is faster.",
        "Of each other library the faster of its forms is shown.",
    ]
    if report.settings.get("tuned"):
        lines.append("tuned: freed memory is kept. minifcn's own command does that by itself.")
    if any(result.flops for result in report.results):
        lines.append("GFLOP/s: what the convolutions' definition asks for, over the time.")
        if not report.bandwidth:  # on a processor
            lines.append(
                "It can be more than the peak of a matrix product: Winograd's way multiplies less."
            )
    entries = [entry for result in report.results for entry in result.sides]
    from_cpu = any(entry.from_cpu is not None for entry in entries)
    if from_cpu or any(entry.side.peer != OURS for entry in entries):
        lines.append(
            "First results are compared with minifcn's"
            + ", and its own with those on the CPU" * from_cpu
            + "; differs by: how far they are apart, relative to the largest number."
        )
    if report.bandwidth:
        lines.append(
            "over floor: ms over the least time for the matrix product's rate and the memory's "
            "bandwidth, each number moved once (see minifcn/bench/floor.py)."
        )
    if report.bandwidth and any(entry.memory for entry in entries):
        lines.append(
            "memory: what a library has of the GPU's memory after a call that it began with none "
            "to spare: parameters, arrays, work space, gaps."
        )
    elif any(entry.memory for entry in entries):
        lines.append(
            "memory: the most that the process had in use (VmHWM) from when the net was built to "
            "the end, less what it had in use (VmRSS) before."
        )
    if any(entry.memory and not entry.memory["reset"] for entry in entries):
        lines.append("Here that includes building the net: this system cannot forget a peak.")
    if any(entry.timing.doubtful for entry in entries):
        lines.append("*: other programs computed during every block; measure it again.")
    return "\n".join(lines)


def list_works() -> Table:
    """Return a table of all works."""
    table = new_table("work", "what is computed")
    for work in WORKS.values():
        table.add_row(work.name, work.title)
    return table


def list_peers() -> Table:
    """Return a table of the libraries that can be compared with."""
    table = new_table("library", "can do", "here")
    for name, peer in PEERS.items():
        able = "all works" if not peer.kinds else "common-step"
        table.add_row(name, able, missing(name) or "installed")
    return table
