"""The rows of a profile as a table for a terminal or a text file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from ..progress import new_table
from .rows import Row, merged
from .spans import BACKWARD, FORWARD, UPDATE

MB = 1e6
UNITS = ("GFLOP", "GFLOP/s", "MB moved", "MB saved")
OTHER = "other"


def profile_table(rows: Sequence[Row], seconds: float, steps: int, by: str = "op") -> Table:
    """Return the table of a step: the mean of ``steps`` that took so many seconds together.

    Parameters
    ----------
    rows
        Of all steps together.
    seconds, steps
        How long they took, and how many they were.
    by
        ``"op"``: a line for each operation, forward and backward apart, the longest first.
        ``"layer"``: a line for each layer, in order. ``"both"``: all rows, in order.

    Examples
    --------
    >>> row = Row("forward", "fc", "linear", 2, 0.25, 10**9, 10**6, 0)
    >>> profile_table([row], 1.0, 2).row_count  # also what the rest took, and all
    3
    """
    if by == "layer":
        return _by_layer(rows, seconds, steps)
    layered = by == "both"
    names = ["phase", "layer", "operation"] if layered else ["phase", "operation"]
    found = new_table(*names, ">calls", ">ms", ">share", *(f">{unit}" for unit in UNITS))
    for phase in (FORWARD, BACKWARD, UPDATE):
        mine = [row for row in rows if row.phase == phase]
        if not layered:
            mine = merged(mine, lambda row: row.operation)
            mine.sort(key=lambda row: -row.seconds)
        for number, row in enumerate(mine):
            label = [phase if number == 0 else "", *([row.layer] if layered else []), row.operation]
            found.add_row(*label, f"{row.calls / steps:g}", *_numbers(row, seconds, steps))
        if mine:
            found.add_section()
    blank = [""] * (len(names) - 1)
    other = seconds - sum(row.seconds for row in rows)
    found.add_row(OTHER, *blank, "", *_time(other, seconds, steps))
    found.add_row(
        "a step", *blank, "", *_numbers(_all(rows, seconds), seconds, steps), style="bold"
    )
    return found


def _by_layer(rows: Sequence[Row], seconds: float, steps: int) -> Table:
    """Return the table of layers: forward and backward side by side."""
    titles = ("forward ms", "backward ms", "share", *UNITS)
    found = new_table("layer", *(f">{title}" for title in titles))
    for whole in merged(rows, _layer_of):
        mine = [row for row in rows if _layer_of(row) == _layer_of(whole)]
        share, *rest = _numbers(whole, seconds, steps)[1:]
        if whole.phase == UPDATE:
            found.add_section()
            found.add_row(whole.operation, _ms(whole.seconds, steps), "", share, *rest)
        else:
            times = (
                _ms(sum(row.seconds for row in mine if row.phase == phase), steps)
                if any(row.phase == phase for row in mine)
                else ""
                for phase in (FORWARD, BACKWARD)
            )
            found.add_row(whole.layer, *times, share, *rest)
    time, share = _time(seconds - sum(row.seconds for row in rows), seconds, steps)
    found.add_row(OTHER, time, "", share)
    time, *rest = _numbers(_all(rows, seconds), seconds, steps)
    found.add_row("a step", time, "", *rest, style="bold")
    return found


def _layer_of(row: Row) -> str:
    """Return the layer; an update is of none."""
    return f" {row.operation}" if row.phase == UPDATE else row.layer


def _all(rows: Iterable[Row], seconds: float) -> Row:
    """Return the sum of all rows, with the time that they and the rest took."""
    nothing = Row("", "", "", 0, 0.0, 0, 0, 0)
    return merged([nothing, *rows], lambda row: None)[0]._replace(seconds=seconds)


def _numbers(row: Row, seconds: float, steps: int) -> list[str]:
    """Return the cells of a row from its time on; empty ones where there is nothing to count."""
    return [
        *_time(row.seconds, seconds, steps),
        f"{row.flops / steps / 1e9:,.3f}" if row.flops else "",
        f"{row.gflops:,.1f}" if row.flops else "",
        _mb(row.moved / steps),
        _mb(row.saved / steps),
    ]


def _time(time: float, seconds: float, steps: int) -> tuple[str, str]:
    return _ms(time, steps), f"{time / seconds:.1%}"


def _ms(seconds: float, steps: int) -> str:
    return f"{1000 * seconds / steps:,.3f}"


def _mb(size: float) -> str:
    return f"{size / MB:,.2f}" if size else ""


def written(rows: Sequence[Row], seconds: float, steps: int, by: str = "op") -> str:
    """Return the same as text.

    >>> row = Row("update", "", "SGD.step", 1, 0.5, 0, 2 * 10**6, 0)
    >>> print(written([row], 1.0, 1))  # doctest: +ELLIPSIS
    phase    operation   calls          ms    share   GFLOP   GFLOP/s   MB moved   MB saved
    ...
    update   SGD.step        1     500.000    50.0%                         2.00
    <BLANKLINE>
    other                          500.000    50.0%
    a step                       1,000.000   100.0%                         2.00
    """
    text = io.StringIO()
    Console(file=text, width=1000, markup=False, emoji=False).print(
        profile_table(rows, seconds, steps, by)
    )
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
