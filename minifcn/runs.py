"""Runs on disk: what a folder that `minifcn train` filled says about itself.

A run folder holds ``config.json``, ``metrics.json``, a folder for each stage with its log and its
weights, ``report.html``, and ``watch/`` with what the report shows beside: see `minifcn.watch`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .backend import Error
from .data import Head
from .json_file import read_json, write_json
from .run_lock import LOCK
from .run_log import StageLog, read_log

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
WATCH = "watch"  # the folder of what a report shows beside curves


class RunError(Error, ValueError):
    """A folder that holds no run, or a damaged one."""


class State(NamedTuple):
    """How a run stands: its state, the stage it is in, and why it stopped or failed."""

    name: str
    stage: str = ""
    reason: str = ""


class Shown(NamedTuple):
    """What the pictures of a run are of."""

    heads: dict[str, Head]
    samples: list[str]  # the names of the held-out images


@dataclass
class Run:
    """A run, as its folder tells it.

    Attributes
    ----------
    folder
        Where it is.
    config
        What ``config.json`` holds.
    stages
        The log of each stage that has begun, in order.
    state
        How it stands.
    shown
        What its pictures are of; None where there are none.
    """

    folder: Path
    config: dict[str, Any]
    stages: dict[str, StageLog] = field(default_factory=dict)
    state: State = field(default_factory=lambda: State(STOPPED))
    shown: Shown | None = None

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.folder.resolve().name

    @property
    def recipes(self) -> dict[str, dict[str, Any]]:
        """The recipe of each stage, also of those to come."""
        return self.config["stages"]

    @property
    def steps(self) -> int:
        """How many steps there are in all stages."""
        return sum(recipe["steps"] for recipe in self.recipes.values())

    @property
    def done(self) -> int:
        """How many steps of all stages were made."""
        return sum(log.step for log in self.stages.values())

    @property
    def seconds(self) -> float:
        """That all steps and evaluations took."""
        return sum(log.seconds for log in self.stages.values())

    @property
    def latest(self) -> StageLog | None:
        """The log of the stage that was begun last."""
        return next(reversed(self.stages.values()), None)

    @property
    def left(self) -> float:
        """Seconds that the other steps will take, if they are as long as those of this stage."""
        log = self.latest
        if log is None or not log.step:
            return float("nan")
        return (self.steps - self.done) * log.seconds / log.step

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the last stage that was evaluated, where they were best."""
        return next((log.best for log in reversed(self.stages.values()) if log.best), {})

    @property
    def loss(self) -> float:
        """The loss of the last step."""
        return self.latest.curves["loss"].last if self.latest else float("nan")


def read(folder: str | Path, stages: Iterable[str] | None = None) -> Run:
    """Return what a run folder says; of its logs only those of some stages, if these are given.

    Raises
    ------
    RunError
        If it is no run folder, or its configuration is damaged.
    LogError
        If a log is damaged anywhere but at its end.
    """
    folder = Path(folder)
    config = _object(folder / "config.json")
    if config is None:
        there = folder.is_dir()
        raise RunError(
            f"{folder}: "
            + ("there is no config.json in it: no run" if there else "there is no such folder")
        )
    recipes = config.get("stages")
    good = isinstance(recipes, dict) and all(
        isinstance(recipe, dict) and isinstance(recipe.get("steps"), int)
        for recipe in recipes.values()
    )
    if not good:
        raise RunError(f"{folder / 'config.json'}: was not written by a training run")
    run = Run(folder, config, shown=_shown(folder))
    for stage in run.recipes if stages is None else stages:
        log = folder / stage / "log.jsonl"
        if Path(stage).name == stage and log.exists():
            run.stages[stage] = read_log(log)
    run.state = _state(run)
    return run


def find(
    folders: Iterable[str | Path], unread: Callable[[Path, OSError], None] | None = None
) -> list[Path]:
    """Return all run folders in some folders, these themselves included, sorted by name.

    A run folder is one with a ``config.json``; within one there is no other.

    Parameters
    ----------
    folders
        Where to look.
    unread
        Is told of each folder that may not be looked into; then those beside it are. If it is not
        given, such a folder is an error.

    Raises
    ------
    OSError
        If a folder may not be looked into.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     find([folder])
    []
    """
    found: dict[Path, None] = {}
    waiting = [Path(folder) for folder in reversed([*folders])]
    while waiting:
        here = waiting.pop()
        try:
            if (here / "config.json").is_file():
                found.setdefault(here)
            elif here.is_dir():
                with os.scandir(here) as entries:  # tells folders without a look at each
                    inside = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
                shown = (Path(entry) for entry in inside if not entry.name.startswith("."))
                waiting += sorted(shown, reverse=True)
        except OSError as error:
            if unread is None:
                raise
            unread(here, error)
    return list(found)


def facts(run: Run) -> dict[str, Any]:
    """Return what `minifcn runs` tells of a run, ready for JSON: plain numbers and texts."""
    stage = run.state.stage or next(reversed(run.stages or run.recipes), "")
    log = run.stages.get(stage)
    heads = {head: None for log in run.stages.values() for head in log.metrics}
    return {
        "name": run.name,
        "folder": str(run.folder),
        "state": run.state.name,
        "reason": run.state.reason,
        "stage": stage,
        "step": log.step if log else 0,
        "steps": run.recipes.get(stage, {}).get("steps", 0),
        "done": run.done / max(1, run.steps),
        "heads": list(heads),
        "best": _plain(run.best),
        "loss": _plain({"": run.loss})[""],
        "seconds": run.seconds,
        "data": run.config.get("data"),
        "backbone": run.config.get("backbone"),
        "command": command(run),
    }


def command(run: Run) -> str:
    """Return the command that a run was started with; "" if it was none."""
    given = run.config.get("command") or ""
    return " ".join(map(str, given)) if isinstance(given, list) else str(given)


def differences(runs: Iterable[Run]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ, by name, each with the value of every run.

    >>> runs = [Run(Path(n), {"seed": s, "stages": {}}) for n, s in (("a", 0), ("b", 1))]
    >>> differences(runs)
    {'seed': [0, 1]}
    """
    flat = [dict(_flat(run.config)) for run in runs]
    names = {name: None for settings in flat for name in settings}
    found = {name: [settings.get(name) for settings in flat] for name in names}
    return {name: values for name, values in found.items() if any(v != values[0] for v in values)}


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the settings below a value, with their dotted names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}".lstrip("."))
    else:
        yield name, value


def _plain(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Return numbers for JSON, which has no NaN."""
    return {name: n if np.isfinite(n) else None for name, n in numbers.items()}


def picture_name(stage: str, step: int, number: int | str = "*", head: int | str = "*") -> str:
    """Return what the picture of a net's answer is called; without its number, a pattern for all.

    >>> picture_name("fcn32s", 400, 0, 0), picture_name("fcn32s", 400)
    ('fcn32s-00000400-0-0.png', 'fcn32s-00000400-*-*.png')
    """
    return f"{stage}-{step:08}-{number}-{head}.png"


def steps_of(folder: Path, stage: str) -> set[int]:
    """Return the steps of a stage of which there are pictures in a run's folder ``watch``."""
    names = (path.name.split("-") for path in folder.glob(f"{stage}-*-*-*.png"))
    return {int(name[1]) for name in names if name[0] == stage and name[1].isdecimal()}


def _object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None if there is none."""
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Error as error:
        raise RunError(str(error)) from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: was not written by a training run")
    return value


def _shown(folder: Path) -> Shown | None:
    """Return what the pictures are of."""
    path = folder / WATCH / "shown.json"
    facts = _object(path)
    if facts is None:
        return None
    try:
        heads = {
            name: Head(tuple(map(str, classes)), np.array(palette, np.uint8).reshape(-1, 3))
            for name, (classes, palette) in facts["heads"].items()
        }
        return Shown(heads, [str(name) for name in facts["samples"]])
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise RunError(f"{path}: was not written by a training run") from error


def write_shown(folder: Path, shown: Shown) -> None:
    """Write what the pictures are of."""
    heads = {n: [list(head.classes), head.palette.tolist()] for n, head in shown.heads.items()}
    value = {"heads": heads, "samples": shown.samples}
    write_json(folder / WATCH / "shown.json", value, durable=False)


def write_state(folder: Path, state: State) -> None:
    """Write how a run stands."""
    write_json(folder / WATCH / "state.json", state._asdict(), durable=False)


def _state(run: Run) -> State:
    """Return how a run stands, by what it wrote about that or, failing this, by what it made."""
    gone = _is_gone(run.folder)  # asked first: a run says that it has ended, and then is gone
    told = _object(run.folder / WATCH / "state.json") or {}
    texts = [str(told.get(key, "")) for key in State._fields]
    if texts[0] == RUNNING and gone:
        return State(STOPPED, texts[1], "its process has ended without a word: it was killed")
    if texts[0] in (RUNNING, FINISHED, STOPPED, FAILED):
        return State(*texts)
    stage = next(reversed(run.stages), "")
    done = all(name in run.stages for name in run.recipes) and run.done == run.steps
    return State(FINISHED if done else STOPPED, stage)


def _is_gone(folder: Path) -> bool:
    """Tell whether no run is at work in a folder: none, or a former process of this machine."""
    if os.name != "posix":  # there are no locks, and the question below would end the process
        return False
    try:
        holder = _object(folder / LOCK)
    except RunError:  # it is just being written
        return False
    if holder is None:  # each run has one, and only ends without it
        return True
    number = holder.get("process")
    if holder.get("machine") != socket.gethostname() or not isinstance(number, int):
        return False
    try:
        os.kill(number, 0)  # asks whether it is there
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # somebody else's
        pass
    return False
