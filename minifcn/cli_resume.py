"""What ``minifcn train --resume`` goes on with: the options that a run was begun with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from .json_file import read_json
from .options import CommandError
from .run_folder import recorded

OF_EACH_CALL = ("out", "resume", "overwrite")  # said anew each time
MAY_DIFFER = ("device", "workers", "save_every", "keep", "on_nan", "on_bad_image", "tensorboard")
"""What does not decide which numbers come out of a training, or is meant to be changed."""


def given_options(context: typer.Context) -> dict[str, Any]:
    """Return the options that stand on the command line, as JSON values by their names."""
    return {
        name: _as_json(value)
        for name, value in context.params.items()
        if name not in OF_EACH_CALL and _is_given(context, name)
    }


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _as_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def as_arguments(context: typer.Context, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield options as they stand on a command line."""
    for parameter in context.command.params:
        if parameter.name not in options:
            continue
        value = options[parameter.name]
        if isinstance(value, bool):
            yield (parameter.opts if value else parameter.secondary_opts)[0]
            continue
        for each in value if isinstance(value, list) else [value]:
            yield from (parameter.opts[0], str(each))


def command_line(context: typer.Context, out: Path, options: Mapping[str, Any]) -> str:
    """Return the command that begins a run."""
    return shlex.join(["minifcn", "train", "--out", str(out), *as_arguments(context, options)])


def missing_options(context: typer.Context, out: Path) -> list[str]:
    """Return a command line with all options of the run in a folder; empty if none is missing.

    Parameters
    ----------
    context
        Of ``minifcn train --resume``, with or without further options.
    out
        The folder. Where it holds no run, nothing is missing.

    Raises
    ------
    CommandError
        If an option that is given is not that of the run, or the run was not begun by this command.
    """
    config = recorded(out)
    if not config:
        return []
    given, before = given_options(context), config.get("given")
    if not isinstance(before, dict):
        raise CommandError(
            f"--resume: the run in {out} was not begun by minifcn train: go on as it was begun, "
            "from Python with train.run(..., resume=True), or choose another folder"
        )
    # What gives no argument, as an unknown name, would be missed again after the next call.
    before = {
        name: value
        for name, value in before.items()
        if name not in OF_EACH_CALL and [*as_arguments(context, {name: value})]
    }
    options = {each.name: each for each in context.command.params}
    usual = {name: _as_json(option.default) for name, option in options.items()}
    there = usual | before
    if wrong := [
        f"{options[name].opts[0]} is {_shown(there[name])} there, {_shown(value)} here"
        for name, value in given.items()
        if name not in MAY_DIFFER and there[name] != value
    ]:
        raise CommandError(
            f"--resume: the run in {out} is another one: {'; '.join(wrong)}: leave such options "
            "out, since all are taken from the run, or choose another folder"
        )
    if set(before) <= set(given):
        return []
    return ["--out", str(out), "--resume", *as_arguments(context, {**before, **given})]


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def call_again(context: typer.Context, arguments: list[str]) -> None:
    """Call the command once more, with other arguments."""
    name = context.info_name
    with context.command.make_context(name, arguments, parent=context.parent) as again:
        context.command.invoke(again)


def is_finished(out: Path) -> bool:
    """Tell whether the run in a folder has come to its end.

    >>> is_finished(Path("not-made-yet"))
    False
    """
    stages, metrics = recorded(out).get("stages", {}), out / "metrics.json"
    found = read_json(metrics) if stages and metrics.exists() else None
    return isinstance(found, dict) and set(stages) <= set(found)
