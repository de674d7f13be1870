"""What a run's folder says of the run: its configuration, and whether it can be gone on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ._version import __version__
from .json_file import read_json
from .step import TrainingError

CHECKPOINTS = "checkpoints"  # the folder of a run where they are
FREE = (
    *("command", "given", "versions", "started_from_weights"),
    *("device", "workers", "on_nan", "on_bad_image"),
)
"""What of a configuration may be another one when a run goes on."""


def recorded(out: Path) -> dict[str, Any]:
    """Return the configuration of the run in a folder, its ``config.json``; {} if there is none.

    Raises
    ------
    JsonError
        If the file is damaged.

    Examples
    --------
    >>> recorded(Path("not-made-yet"))
    {}
    """
    path = out / "config.json"
    config = read_json(path) if path.exists() else {}
    stages = config.get("stages") if isinstance(config, dict) else None
    return config if isinstance(stages, dict) else {}


def can_go_on(out: Path) -> bool:
    """Tell whether there are checkpoints in a run's folder, be they whole or not.

    Raises
    ------
    TrainingError
        If there are none, but logs of what was learned: to begin anew would overwrite these.

    Examples
    --------
    >>> can_go_on(Path("not-made-yet"))
    False
    """
    if _has_checkpoints(out):
        return True
    if _has_logs(out):
        raise TrainingError(
            f"{out} holds a run that has learned something, but no checkpoint to go on from: put "
            f"{out / CHECKPOINTS} back from a copy, or begin anew with --overwrite; --init takes "
            "the weights of an earlier best.safetensors or last.safetensors"
        )
    return False


def _has_checkpoints(out: Path) -> bool:
    return any((out / CHECKPOINTS).glob("*.safetensors"))


def _has_logs(out: Path) -> bool:
    """Tell whether a stage has made a step: its log has no line before."""
    return any(path.stat().st_size for path in out.glob("*/log.jsonl"))


def has_learned(out: Path) -> bool:
    """Tell whether a run's folder holds more than the beginning of a run.

    >>> has_learned(Path("not-made-yet"))
    False
    """
    steps = (path.stem.rpartition("-")[2] for path in (out / CHECKPOINTS).glob("*-*.safetensors"))
    later = any(step.isdecimal() and int(step) for step in steps)
    return later or (_has_logs(out) and not _has_checkpoints(out))


def check_same(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise unless two configurations ask for the same training.

    Parameters
    ----------
    out
        The folder, for the message.
    before, now
        That of the run there, and that which is asked for.

    Raises
    ------
    TrainingError
        With all values that differ.

    Examples
    --------
    >>> check_same(Path("out"), {"seed": 1, "device": "cuda:0"}, {"seed": 1, "device": "cpu"})
    """
    there, here = (
        dict(_values({name: part for name, part in config.items() if name not in FREE}))
        for config in (before, json.loads(json.dumps(now)))
    )
    lines = [
        f"  {place}: {json.dumps(there[place])} there, {json.dumps(here[place])} here"
        for place in there
        if place in here and there[place] != here[place]
    ]
    if lines:
        raise TrainingError(
            f"{out}: the run there is another one than the one that is asked for, so it cannot go "
            "on as this one: leave out what differs, or choose another folder\n" + "\n".join(lines)
        )


def _values(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values in nested dictionaries, and the names in each of these, by their place."""
    if not isinstance(value, dict):
        yield place, value
        return
    if place:  # of all of it, versions may know more names or fewer
        yield place, list(value)
    for name, part in value.items():
        yield from _values(part, f"{place}.{name}".lstrip("."))


@cache
def code_versions() -> dict[str, str]:
    """Return what the last bits of a training depend on, beside its configuration.

    >>> list(code_versions())
    ['minifcn', 'its source', 'NumPy']
    """
    checksum = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*")):
        if path.suffix in (".py", ".cu", ".cuh"):
            checksum.update(path.name.encode() + path.read_bytes())
    source = checksum.hexdigest()[:12]
    return {"minifcn": __version__, "its source": source, "NumPy": np.__version__}


def other_versions(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return a warning if a run was computed with other versions so far; "" if not.

    >>> other_versions({"NumPy": "2.0.0"}, {"NumPy": "2.1.0"})
    'so far this run was computed with NumPy 2.0.0, now with 2.1.0: the last bits may differ'
    """
    changed = [name for name in now if before.get(name) != now[name]]
    if not changed:
        return ""
    there = ", ".join(f"{name} {before.get(name, 'unknown')}" for name in changed)
    here = ", ".join(now[name] for name in changed)
    return f"so far this run was computed with {there}, now with {here}: the last bits may differ"
