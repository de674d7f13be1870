"""The command ``minifcn train``: its options, and how they become a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Backbone, CommandError, Data, Device, Rule, Seed, complain

EXAMPLE = (
    "Example, of about 6 minutes: [cyan]minifcn train --data landcover --out longer "
    "--preprocessing landcover --flip-vertical --rotate --steps 1000,800,4000[/]"
)


def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default=False)],
    val: Annotated[
        str | None, typer.Option(help="Data to measure on.", show_default="as --data")
    ] = None,
    train_split: Annotated[str, typer.Option(help="Part of the data to learn from.")] = "train",
    val_split: Annotated[str, typer.Option(help="Part of it to measure on.")] = "val",
    stages: Annotated[str, typer.Option(help="Nets, each starting from the last.")] = "32s,16s,8s",
    backbone: Annotated[
        Backbone | None, typer.Option(show_default="that of --init, or small")
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            help="Channels of the five stages of small.",
            show_default="those of --init, or 24,48,64,96,96",
        ),
    ] = None,
    steps: Annotated[str, typer.Option(help="Of every stage, or one number for each.")] = "600",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a step.")] = 8,
    crop: Annotated[int, typer.Option(min=0, help="Side of what is cut out; 0: nothing is.")] = 96,
    lr: Annotated[
        float, typer.Option(min=0, help="Learning rate of the first stage; it falls.")
    ] = 0.03,
    momentum: Annotated[float, typer.Option(min=0, max=0.999)] = 0.9,
    weight_decay: Annotated[float, typer.Option(min=0)] = 5e-4,
    warmup: Annotated[int, typer.Option(min=1, help="Steps in which the rate rises.")] = 20,
    max_norm: Annotated[
        float, typer.Option(min=0, help="Largest norm of the gradient; 0: no limit.")
    ] = 3.0,
    flip_vertical: Annotated[
        bool, typer.Option("--flip-vertical", help="Mirror top and bottom at random, too.")
    ] = False,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Turn by 90, 180 or 270 degrees at random.")
    ] = False,
    eval_every: Annotated[
        int | None, typer.Option(min=1, help="Steps to an evaluation.", show_default="all")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Weights to start from, and their preprocessing.")
    ] = None,
    preprocessing: Annotated[
        Rule | None, typer.Option(help="Of pixels.", show_default="that of --init, or unit")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run's results.")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Train nets stage by stage: FCN-32s, FCN-16s from its best weights, FCN-8s from those."""
    from . import prepare
    from .data import open_dataset
    from .progress import TerminalObserver, print_table, results_table, show_progress
    from .report import Row
    from .train import Recipe, recipes, run

    recipe = Recipe(
        steps=1,  # each stage has its own number, see below
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        batch_size=batch_size,
        crop=crop or None,
        warmup=warmup,
        max_norm=max_norm or None,
        flip_vertical=flip_vertical,
        rotate=rotate,
    )
    names, numbers = prepare.stage_names(stages), prepare.whole_numbers("--steps", steps)
    plan = recipes(names, recipe, numbers)
    earlier = prepare.check_folder(out)
    if earlier and not overwrite:
        raise CommandError(
            f"{out} holds the results of an earlier run ({', '.join(earlier)}): choose another "
            "folder, or replace them with --overwrite"
        )
    start = prepare.starting_point(backbone, widths, preprocessing, init)
    train_set, val_set = open_dataset(data, train_split), open_dataset(val or data, val_split)
    with show_progress("images read") as progress:
        warnings = prepare.check_data(train_set, val_set, recipe, progress)
    for warning in warnings:
        complain(f"warning: {warning}")
    prepare.clear_folder(out)
    settings = {**start._asdict(), "eval_every": eval_every, "seed": seed, "device": device}
    with TerminalObserver() as observer:
        results = run(plan, train_set, val_set, out, observer=observer, **settings)
    rows = [
        Row(f"{name}, best at step {result.step}", result.matrix, result.seconds)
        for name, result in results.items()
    ]
    print_table(results_table(rows))
    print(f"The nets are in {out}; for example, {out / names[-1] / 'best.safetensors'}.")
