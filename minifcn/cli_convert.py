"""The command ``minifcn convert``: weights of other programs become a weight file of minifcn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Backbone, check_new, complain

EXAMPLES = (
    "Examples: [cyan]minifcn convert fcn8s-heavy-pascal.caffemodel fcn8s.safetensors[/], "
    "[cyan]minifcn convert vgg16.pth vgg16.safetensors --source torchvision[/], "
    "[cyan]minifcn convert VGG_ILSVRC_16_layers.caffemodel start.safetensors --model fcn32s "
    "--classes 5[/]"
)


def convert(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="A .caffemodel, .caffemodel.h5, .pth, .npz, .h5 or .safetensors file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.safetensors", help="The weight file to write.", show_default=False
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="The net: vgg16, caffenet, ..., fcn32s, fcn16s, fcn8s, fcn8s-atonce, fcn-alexnet.",
            show_default="what the file tells",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Where the weights are from: caffe, wkentaro, chainer, keras, torchvision, nyud, "
            "nyud-hha, siftflow, unit or landcover. It decides how images are prepared.",
            show_default="what the file tells",
        ),
    ] = None,
    backbone: Annotated[
        Backbone | None,
        typer.Option(help="What an FCN is made from.", show_default="what the file tells"),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            min=2, help="Start new scores for so many classes.", show_default="those of the file"
        ),
    ] = None,
    fold: Annotated[
        bool,
        typer.Option("--fold", help="Change the first layer: images are prepared as for Caffe."),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--no-strict",
            help="Fail if arrays are left over or missing, or leave them out and draw them.",
        ),
    ] = True,
    report: Annotated[
        bool, typer.Option("--report", help="Tell what became of each array.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
) -> None:
    """Make a weight file from one of Caffe, PyTorch, Chainer or Keras, or for other classes."""
    from . import weights
    from .progress import show_progress

    check_new(out, overwrite)
    options = {} if backbone is None else {"backbone": backbone.value}
    with show_progress("reading") as progress:
        found = weights.convert(
            file,
            model,
            source=source,
            classes=classes,
            fold=fold,
            strict=strict,
            progress=progress,
            **options,
        )
    if report:
        print(found.report)
    else:
        for line in found.report.lines:
            if line.what not in ("copied", "reshaped"):
                print(f"{line.name}: {line.what}, {line.detail}")
        print(found.report.summary())
    with show_progress("writing") as progress:
        weights.save(found.net, out, **found.facts(), progress=progress)
    print(f"{out}: {weights.title(found.net.config)}")
    rule = found.preprocessing
    print(
        f"images: {rule.channel_order}, ({rule.scale:.6g} * pixel - {_numbers(rule.mean)}) / "
        f"{_numbers(rule.std)}"
    )
    print(f"from: {found.origin}, sha256 {found.source_sha256}")
    for line in found.report.lines:
        if line.what == "new" and line.detail.endswith("random"):
            complain(f"warning: {line.name} is random: train the net before you use it")
            break


def _numbers(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})"
