"""The command ``minifcn train``: its options, and how they become a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    Backbone,
    CommandError,
    DataOrNone,
    Device,
    Fusion,
    HeldOut,
    OnTrouble,
    Precision,
    RecipeName,
    Rule,
    Sampling,
    Seed,
    Sizes,
    TrainSplit,
    ValSplit,
    check_precision,
    complain,
)

EXAMPLE = """Example, of about 6 minutes: [cyan]minifcn train --data landcover --out longer \
--preprocessing landcover --flip-vertical --rotate --steps 1000,800,4000[/]

As released, in days: [cyan]minifcn train --data voc:VOC2011 --init vgg16.safetensors \
--recipe heavy --out fcn[/]"""
NET = "The net (not given: that of --init, or the released one)"
NUMBERS = "Numbers of the training (not given: those of the recipe)"


def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default=False)],
    data: DataOrNone = None,
    val: HeldOut = None,
    train_split: TrainSplit = None,
    val_split: ValSplit = None,
    stages: Annotated[
        str | None,
        typer.Option(
            help="Nets, each starting from the last.",
            show_default="32s,16s,8s; with --at-once 8s",
        ),
    ] = None,
    recipe: Annotated[
        RecipeName,
        typer.Option(
            help="quick: for small nets from random weights; light and heavy: the paper's, for "
            "nets with trained weights."
        ),
    ] = RecipeName.quick,
    init: Annotated[
        list[Path] | None,
        typer.Option(
            help="Weights to start from, an FCN's or a classifier's; they name the net. For images "
            "of several streams one file, or one for each."
        ),
    ] = None,
    new_scores: Annotated[
        bool, typer.Option("--new-scores", help="Take all of --init but its score layers.")
    ] = False,
    preprocessing: Annotated[
        Rule | None,
        typer.Option(
            help="Of pixels; published: as for the released nets of these data.",
            show_default="that of --init, or unit",
        ),
    ] = None,
    eval_every: Annotated[
        int, typer.Option(min=1, help="Steps to an evaluation; there is one at the end anyway.")
    ] = 4000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run's results.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in --out, as it was begun: no other option is needed. With "
            "--data, begin it if there is none.",
        ),
    ] = False,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps to a checkpoint, to go on from.")
    ] = 500,
    keep: Annotated[int, typer.Option(min=1, help="How many checkpoints are kept.")] = 3,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Write event files for TensorBoard, too."),
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that read images ahead of the training.")
    ] = 0,
    on_nan: Annotated[
        OnTrouble,
        typer.Option(help="Of a step whose loss is not finite; skip: learn nothing from it."),
    ] = OnTrouble.stop,
    on_bad_image: Annotated[
        OnTrouble,
        typer.Option(
            help="Of an image that cannot be read; skip: learn from another one, if they are few."
        ),
    ] = OnTrouble.stop,
    backbone: Annotated[
        Backbone | None, typer.Option(rich_help_panel=NET, show_default="that of --init, or small")
    ] = None,
    width: Annotated[
        float | None,
        typer.Option(help="Factor for all numbers of channels.", rich_help_panel=NET),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            help="Channels of the five stages of small, such as 24,48,64,96,96.",
            rich_help_panel=NET,
        ),
    ] = None,
    padding: Annotated[
        str | None,
        typer.Option(
            metavar="N|smallest",
            help="Of the first layer; smallest: just enough for images above 32 x 32 pixels.",
            rich_help_panel=NET,
        ),
    ] = None,
    at_once: Annotated[
        bool,
        typer.Option(
            "--at-once", help="Scale the skips, so that all learns together.", rich_help_panel=NET
        ),
    ] = False,
    fixed_trunk: Annotated[
        bool,
        typer.Option("--fixed-trunk", help="Only the scores learn.", rich_help_panel=NET),
    ] = False,
    learn_upsampling: Annotated[
        bool,
        typer.Option("--learn-upsampling", help="Of the scores at the skips.", rich_help_panel=NET),
    ] = False,
    fusion: Annotated[
        Fusion | None, typer.Option(help="How skips are joined.", rich_help_panel=NET)
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="Of every stage, or a number for each.", rich_help_panel=NUMBERS),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Learning rate of the first stage; the others' change in proportion.",
            rich_help_panel=NUMBERS,
        ),
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(min=0, max=0.999, rich_help_panel=NUMBERS)
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, rich_help_panel=NUMBERS)] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in a batch.", rich_help_panel=NUMBERS)
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            min=1, help="Batches in a step, in the memory of one.", rich_help_panel=NUMBERS
        ),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(
            min=0, help="Side of what is cut out; 0: nothing is.", rich_help_panel=NUMBERS
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(min=1, help="Steps in which the rate rises.", rich_help_panel=NUMBERS),
    ] = None,
    max_norm: Annotated[
        float | None,
        typer.Option(
            min=0, help="Largest norm of the gradient; 0: no limit.", rich_help_panel=NUMBERS
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip", help="Mirror left and right at random.", rich_help_panel=NUMBERS
        ),
    ] = None,
    flip_vertical: Annotated[
        bool,
        typer.Option(
            "--flip-vertical", help="Mirror top and bottom, too.", rich_help_panel=NUMBERS
        ),
    ] = False,
    rotate: Annotated[
        bool,
        typer.Option(
            "--rotate", help="Turn by 90, 180 or 270 degrees at random.", rich_help_panel=NUMBERS
        ),
    ] = False,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="Change the size at random, by a factor between these.",
            rich_help_panel=NUMBERS,
        ),
    ] = None,
    jitter: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Change brightness and contrast at random, by up to this share.",
            rich_help_panel=NUMBERS,
        ),
    ] = None,
    sampling: Annotated[
        Sampling | None,
        typer.Option(
            help="Each image once in an epoch, or any at any time.", rich_help_panel=NUMBERS
        ),
    ] = None,
    sizes: Annotated[
        Sizes | None,
        typer.Option(
            help="Of images of several sizes: pad the smaller ones, or put equal ones together.",
            rich_help_panel=NUMBERS,
        ),
    ] = None,
) -> None:
    """Train nets stage by stage: FCN-32s, FCN-16s from its best weights, FCN-8s from those."""
    from . import prepare
    from .about import versions
    from .cli_resume import call_again, command_line, given_options, is_finished, missing_options
    from .event_files import event_writer
    from .gpu_memory import taken
    from .parallel import join
    from .progress import TerminalObserver, print_table, results_table, show_progress
    from .recipes import plan
    from .report import Row
    from .run_folder import can_go_on, has_learned
    from .start import check_nets, recorded_start, starting_point
    from .train import Stopped, run

    if resume and overwrite:
        raise CommandError("--resume goes on with a run, --overwrite replaces it: choose one")
    ranks = join()  # of which the first alone looks into the folder
    if resume and (arguments := ranks.first(lambda: missing_options(context, out))):
        return call_again(context, arguments)
    if resume and ranks.first(lambda: is_finished(out)):
        return complain(f"the run in {out} is finished: its results are in {out / 'metrics.json'}")
    if data is None:
        there = f"{out} holds no run to go on with; " if resume else ""
        raise CommandError(f"{there}say what to learn from: --data, for example --data landcover")
    begun = resume and ranks.first(lambda: can_go_on(out))
    check_precision(precision, device)
    device = ranks.device(device)
    if ranks.number > 1:
        complain(ranks.told())
    if tensorboard:
        event_writer()  # complains before anything is written
    train_set, val_set = prepare.open_both(data, val, train_split, val_split)
    start = (
        ranks.first(lambda: recorded_start(out))
        if begun
        else starting_point(
            train_set,
            init or (),
            preprocessing and preprocessing.value,
            backbone=backbone and backbone.value,
            width=width,
            widths=widths,
            padding=None
            if padding is None
            else prepare.number_or("smallest", "--padding", padding),
            at_once=at_once or None,
            learn_trunk=False if fixed_trunk else None,
            learn_upsampling="intermediate" if learn_upsampling else None,
            fusion=fusion and fusion.value,
        )
    )
    scaled = start.options.get("at_once", False)
    names = prepare.stage_names(stages or ("8s" if scaled else "32s,16s,8s"))
    numbers = {
        "momentum": momentum,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "warmup": warmup,
        "flip": flip,
        "flip_vertical": flip_vertical or None,
        "rotate": rotate or None,
        "scale": None if scale is None else prepare.two_factors("--scale", scale),
        "jitter": jitter,
        "sampling": sampling and sampling.value,
        "sizes": sizes and sizes.value,
    }
    changes: dict[str, Any] = {name: n for name, n in numbers.items() if n is not None}
    if crop is not None:
        changes["crop"] = crop or None
    if max_norm is not None:
        changes["max_norm"] = max_norm or None
    each = None if steps is None else prepare.whole_numbers("--steps", steps)
    recipes = plan(
        names, recipe.value, start.backbone, at_once=scaled, steps=each, lr=lr, **changes
    )
    prepare.check_shares(recipes, ranks)
    trained_on: frozenset[int] = frozenset()  # of a run that was begun, its checkpoints tell
    if not begun:
        earlier = ranks.first(lambda: prepare.check_folder(out))
        if earlier and not overwrite:
            raise CommandError(
                f"{out} holds the results of an earlier run ({', '.join(earlier)}): choose another "
                "folder, or replace them with --overwrite"
            )
        if not overwrite and ranks.first(lambda: has_learned(out)):
            raise CommandError(
                f"{out} holds a run that has not come to its end: go on with it (--resume), choose "
                "another folder, or replace it with --overwrite"
            )
        with show_progress("images read") as progress:
            first = recipes[names[0]]
            found = ranks.first(
                lambda: prepare.check_data(train_set, val_set, first, progress, on_bad_image.value)
            )
        shares = {  # of each batch, what this process gets
            name: replace(stage, batch_size=stage.batch_size // ranks.number)
            for name, stage in recipes.items()
        }
        memory, warnings = check_nets(shares, start, train_set, val_set, found, new_scores, device)
        complain(memory)
        if start.init is not None and start.preset:
            complain(f"images are prepared by the rule {start.preset!r} of {train_set.name}")
        for warning in [*found.warnings, *warnings]:
            complain(f"warning: {warning}")
        ranks.first(lambda: prepare.clear_folder(out))
        trained_on = found.trained_on | start.trained_on
    given = given_options(context)
    record = {"command": command_line(context, out, given), "given": given, "versions": versions()}
    try:
        with TerminalObserver() as observer:
            results = run(
                recipes,
                train_set,
                val_set,
                out,
                backbone=start.backbone,
                options=start.options,
                preprocessing=start.preprocessing,
                init=start.init,
                new_scores=new_scores,
                eval_every=eval_every,
                seed=seed,
                device=device,
                workers=workers,
                trained_on=trained_on,
                observer=observer,
                tensorboard=tensorboard,
                resume=begun,
                save_every=save_every,
                keep=keep,
                on_nan=on_nan.value,
                on_bad_image=on_bad_image.value,
                record=record,
                ranks=ranks,
            )
    except Stopped as stopped:
        complain(f"stopped: {stopped}")
        raise typer.Exit(128 + stopped.signal) from None
    if most := taken(device):
        complain(most)
    rows = [
        Row(f"{name} {head}".strip() + f", best at step {result.step}", matrix, result.seconds)
        for name, result in results.items()
        for head, matrix in result.matrices.items()
    ]
    print_table(results_table(rows))
    print(f"The nets are in {out}; for example, {out / names[-1] / 'best.safetensors'}.")
    print(f"How they learned: {out / 'report.html'}.")
