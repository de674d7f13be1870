"""The command ``minifcn pretrain``: its options, and how they become a trained classifier."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    CommandError,
    Data,
    Device,
    HeldOut,
    Precision,
    Rule,
    Seed,
    TrainSplit,
    ValSplit,
    check_new,
    check_precision,
    complain,
)

EXAMPLE = (
    "Example: [cyan]minifcn pretrain --data landcover --out vgg.safetensors --rotate "
    "--flip-vertical[/], then [cyan]minifcn train --data landcover --init vgg.safetensors --out "
    "run[/]"
)


class Net(StrEnum):
    """Which classifier."""

    vgg16 = "vgg16"
    alexnet = "alexnet"
    caffenet = "caffenet"
    googlenet = "googlenet"
    alexnet_torchvision = "alexnet_torchvision"
    googlenet_torchvision = "googlenet_torchvision"


def pretrain(
    data: Data,
    out: Annotated[
        Path, typer.Option(metavar="FILE.safetensors", help="Weight file.", show_default=False)
    ],
    val: HeldOut = None,
    train_split: TrainSplit = None,
    val_split: ValSplit = None,
    backbone: Annotated[Net, typer.Option(help="The classifier.")] = Net.vgg16,
    width: Annotated[
        float, typer.Option(help="Its channels, as a share of the published net's.")
    ] = 0.125,
    image_size: Annotated[int, typer.Option(min=1, help="Side of a tile in pixels.")] = 64,
    dropout: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Share that is dropped; the published nets' is 0.5."),
    ] = 0.0,
    auxiliary: Annotated[
        bool, typer.Option("--auxiliary", help="Train googlenet with its two heads on the way.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Of the optimiser.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Tiles in a step.")] = 32,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate; it falls to 0.")] = 0.02,
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
    preprocessing: Annotated[Rule, typer.Option(help="Of pixels.")] = Rule.unit,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Teach a classifier the commonest class of image tiles, as a start for FCNs."""
    from dataclasses import replace

    import numpy as np

    from . import models, prepare
    from .data import heads_of, presets_of, streams_of
    from .gpu_memory import taken
    from .pretrain import CLASSIFY, run
    from .progress import TileObserver, show_progress
    from .report import percent

    check_new(out, overwrite)
    check_precision(precision, device)
    options = {"width": width, "image_size": image_size, "dropout": dropout}
    if auxiliary:
        if not backbone.startswith("googlenet"):
            raise CommandError(f"--auxiliary: only googlenet has such heads, not {backbone}")
        options["auxiliary"] = True
    recipe = replace(
        CLASSIFY,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        weight_decay=weight_decay,
        warmup=warmup,
        max_norm=max_norm or None,
        flip_vertical=flip_vertical,
        rotate=rotate,
        crop=image_size,
    )
    train_set, val_set = prepare.open_both(data, val, train_split, val_split)
    if len(heads_of(train_set)) > 1 or list(streams_of(train_set).values()) != [3]:
        raise CommandError(
            f"{train_set.name}: a classifier learns from images of three channels with one kind of "
            "labels: choose one (?labels=..., ?input=...)"
        )
    presets = presets_of(train_set)
    if preprocessing not in presets:
        raise CommandError(
            f"--preprocessing {preprocessing}: {train_set.name} has no rule of that name: use one "
            f"of {', '.join(presets)}"
        )
    rng = np.random.default_rng(seed)
    model = models.build(backbone.value, num_classes=len(train_set.classes), rng=rng, **options)
    with show_progress("images read") as progress:
        found = prepare.check_data(train_set, val_set, recipe, progress)
    for warning in found.warnings:
        complain(f"warning: {warning}")
    with TileObserver() as observer:
        result = run(
            model,
            train_set,
            val_set,
            out,
            recipe,
            preprocessing=presets[preprocessing],
            eval_every=eval_every,
            seed=seed,
            device=device,
            trained_on=found.trained_on,
            observer=observer,
        )
    if memory := taken(device):
        complain(memory)
    accuracy = result.matrix.pixel_accuracy()
    print(
        f"{out}: {percent(accuracy)} of {result.matrix.matrix.sum()} held-out tiles right; "
        f"always saying {train_set.classes[result.commonest]!r}: {percent(result.baseline)}"
    )
    if accuracy <= result.baseline:
        complain(
            "warning: that is no better than always naming one class: train longer, or with "
            "another --lr"
        )
    print(f"Cast it into an FCN: minifcn train --data {data} --init {out} --out FOLDER")
