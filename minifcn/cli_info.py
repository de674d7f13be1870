"""The command ``minifcn info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import CommandError, complain, height_and_width

if TYPE_CHECKING:
    from .layer_table import Row
    from .models import FCN, Classifier, LateFusion

EXAMPLES = (
    "Examples: [cyan]minifcn info[/], [cyan]minifcn info fcn8s --size 375x500[/], "
    "[cyan]minifcn info fcn32s --backbone caffenet[/], [cyan]minifcn info googlenet[/], "
    "[cyan]minifcn info demo/fcn8s/best.safetensors[/]"
)


def info(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="WEIGHTS|MODEL",
            help="A weight file, or fcn32s, fcn16s, fcn8s, vgg16, alexnet, caffenet, googlenet, "
            "alexnet_torchvision, googlenet_torchvision.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Of an FCN: vgg16 (if none is named), alexnet, caffenet, googlenet, "
            "alexnet_torchvision, googlenet_torchvision or small.",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(help="Of a model; if not given, 21 of an FCN and 1000 of a classifier."),
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="Of a model, not the small one: factor on all channels.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Height and width of the image for sizes, memory and work; if not given, what the "
            "net is usually trained on.",
        ),
    ] = None,
) -> None:
    """Tell about this machine; or about a model or a weight file, with a table of all layers."""
    from . import about
    from .layer_table import default_size, layer_table

    pixels = None if size is None else height_and_width(size)
    if subject is None:
        given = {"--size": size, "--backbone": backbone, "--classes": classes, "--width": width}
        for option, value in given.items():
            if value is not None:
                raise CommandError(
                    f"{option} {value}: name the model, or the weight file, that it is for"
                )
        _print_facts(about.machine())
        if warning := about.blas_warning():
            complain(f"warning: {warning}")
        return
    facts, net = facts_and_net(subject, backbone, classes, width, pixels)
    pixels = pixels or default_size(net)
    rows = layer_table(net, *pixels)  # before anything is printed: the size may not fit
    _print_facts(facts | about.memory_facts(net, *pixels))
    _print_layers(rows, *pixels)


def facts_and_net(
    subject: str,
    backbone: str | None,
    classes: int | None,
    width: float | None,
    size: tuple[int, int] | None,
) -> tuple[dict[str, str], FCN | LateFusion | Classifier]:
    """Return what there is to say of a weight file or of a model, and the net."""
    from . import about
    from .flow import planned
    from .models import CLASSIFIERS, MODELS
    from .weights.native import planned_own

    options: dict[str, Any] = {"num_classes": classes, "backbone": backbone, "width": width}
    options = {name: value for name, value in options.items() if value is not None}
    if subject == "late_fusion":
        raise CommandError(
            "late_fusion has two nets of your choice: give a weight file that has it"
        )
    if subject in MODELS and not Path(subject).is_file():
        if subject in CLASSIFIERS and size is not None:
            if size[0] != size[1]:
                raise CommandError(
                    f"--size {size[0]}x{size[1]}: the classifier {subject} takes square images only"
                )
            options["image_size"] = size[0]
        if subject in CLASSIFIERS and backbone is not None:
            raise CommandError(f"--backbone {backbone}: {subject} is a classifier, not an FCN")
        if backbone == "small" and width is not None:
            raise CommandError(f"--width {width}: the small backbone has widths of its own")
        net = planned(subject, **options)
        return about.model(net), net
    if not Path(subject).exists():
        raise CommandError(f"{subject}: no such file, and no model: these are {', '.join(MODELS)}")
    facts = about.weight_file(subject)
    if options:
        raise CommandError(f"{subject} is a net already: leave out --classes, --backbone, --width")
    return facts, planned_own(subject)


def _print_facts(facts: dict[str, str]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}".replace("\n", "\n" + " " * (width + 2)))


def _print_layers(rows: list[Row], height: int, width: int) -> None:
    """Print the table of layers, with totals."""
    from .progress import new_table, print_table

    numbers = (">parameters", ">sees", ">MB", ">GFLOP")
    table = new_table("layer", "kind", ">kernel", ">stride", ">padding", ">output", *numbers)
    for row in rows:
        table.add_row(
            row.name,
            row.kind,
            *(_pair(value) for value in (row.kernel, row.stride, row.padding)),
            " x ".join(map(str, row.shape)),
            f"{row.parameters:,}" if row.parameters else "",
            _pair(row.field),
            f"{row.bytes / 1e6:,.1f}",
            f"{row.flops / 1e9:,.2f}" if row.flops else "",
        )
    table.add_section()
    parameters, size = sum(row.parameters for row in rows), sum(row.bytes for row in rows)
    work = sum(row.flops for row in rows) / 1e9
    blank = [""] * 5
    table.add_row(
        "all", *blank, f"{parameters:,}", "", f"{size / 1e6:,.1f}", f"{work:,.2f}", style="bold"
    )
    print_table(table)
    print(
        f"For one image of {height} x {width} pixels (height x width). output: channels x height x "
        "width; sees: the pixels of the image across that an output pixel sees; MB: of the output, "
        "and in all, if all were kept; GFLOP: two for each product of an input with a weight that "
        "is added up. ReLU and dropout work in place."
    )


def _pair(value: tuple[int, int] | None) -> str:
    """Write a setting for both axes, as one number if they agree."""
    if value is None:
        return ""
    return str(value[0]) if value[0] == value[1] else f"{value[0]} x {value[1]}"
