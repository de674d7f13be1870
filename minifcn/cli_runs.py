"""The command ``minifcn runs``: lists the runs below a folder, and compares them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import CommandError, complain

if TYPE_CHECKING:
    from .runs import Run

EXAMPLES = """Examples: [cyan]minifcn runs[/], [cyan]minifcn runs experiments --sort mean-iu[/], \
[cyan]minifcn runs a b --compare comparison.html[/]"""


class Order(StrEnum):
    """By what runs are sorted."""

    name = "name"
    mean_iu = "mean-iu"
    loss = "loss"
    time = "time"
    state = "state"


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Runs, or folders with runs anywhere below."),
    ] = None,
    sort: Annotated[
        Order, typer.Option(help="By what; the highest mean IU and the lowest loss come first.")
    ] = Order.name,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="OUT.html", help="Write a page that shows them side by side, too."),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="Write the report.html of each run anew, as of a killed one."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List runs: state, stage and step, best mean IU, loss and time."""
    from .progress import new_table, print_table
    from .report import percent
    from .run_compare import write_comparison
    from .run_curves import number
    from .run_page import duration, write_page
    from .runs import facts

    given = folders or [Path()]
    found, damaged = _read_all(given)
    if not found and not damaged:
        places = ", ".join(map(str, given))
        raise CommandError(
            f"there is no run in {places}: a run is a folder that 'minifcn train --out FOLDER' "
            "has filled, with a config.json"
        )
    for run in found if report else ():
        write_page(run.folder / "report.html", run)
    found.sort(key=lambda run: _key(run, sort))
    told = [facts(run) for run in found]
    if as_json:
        print(json.dumps(told, indent=2))
    elif found:
        titles = (">mean IU", ">loss", ">time", "command")
        table = new_table("run", "state", "stage", ">step", *titles)
        for run, one in zip(found, told, strict=True):
            table.add_row(
                str(run.folder),
                one["state"],
                one["stage"],
                f"{one['step']:,} of {one['steps']:,}",
                percent(run.best.get("mean_iu", float("nan"))),
                number(run.loss, 3),
                duration(run.seconds),
                _short(one),
            )
        print_table(table)
    if compare is not None:
        if not found:
            raise CommandError(f"{compare}: there is no run to compare")
        write_comparison(compare, found)
        what = f"the {len(found)} runs side by side" if len(found) > 1 else "the run"
        complain(f"{compare} shows {what}")


def _read_all(folders: list[Path]) -> tuple[list[Run], int]:
    """Return all runs that can be read; say in one line each what is wrong with others."""
    from .backend import Error
    from .runs import RunError, find, read

    found, damaged = [], 0
    places: dict[Path, None] = {}
    closed: dict[Path, OSError] = {}
    for folder in folders:
        inside = find([folder], closed.__setitem__)
        if not inside and folder != Path() and folder not in closed:
            what = "there is no run in it" if folder.is_dir() else "there is no such folder"
            complain(f"warning: {folder}: {what}")
        places |= dict.fromkeys(inside)
    for path, error in closed.items():
        complain(f"warning: {path}: cannot be looked into: {error.strerror or error}")
    for path in places:
        try:
            found.append(read(path))
        except (Error, OSError) as error:
            # Other programs have files of this name, too; a run that was named is meant.
            other = isinstance(error, RunError) and path not in folders
            if not other or (path / "metrics.json").exists():
                damaged += 1
                complain(f"warning: {error}")
    return found, damaged + len(closed)


def _key(run: Run, sort: Order) -> Any:
    """Return what a run is sorted by; those without the number come last."""
    if sort is Order.mean_iu:
        return -run.best.get("mean_iu", -1.0)
    if sort is Order.loss:
        return run.loss if run.loss == run.loss else float("inf")
    return {Order.time: run.seconds, Order.state: run.state.name}.get(sort, str(run.folder))


def _short(one: dict[str, Any]) -> str:
    """Return the options of a run's command, or its data if there was no command."""
    words = one["command"].split()
    skipped = words[2:] if words[:2] == ["minifcn", "train"] else words
    text = " ".join(skipped) or str(one["data"] or "")
    return text if len(text) <= 60 else f"{text[:57]}..."
