"""What the commands share: kinds of arguments, and the error for those that do not fit together."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .backend import Error, to_device


class CommandError(Error, ValueError):
    """Arguments of a command that do not fit together."""


class Absent(StrEnum):
    """What mean IU makes of a class that is predicted but not in the truth."""

    zero = "zero"
    exclude = "exclude"


class Backbone(StrEnum):
    """What a net is built on."""

    small = "small"
    vgg16 = "vgg16"
    alexnet = "alexnet"
    caffenet = "caffenet"
    googlenet = "googlenet"
    alexnet_torchvision = "alexnet_torchvision"
    googlenet_torchvision = "googlenet_torchvision"


class RecipeName(StrEnum):
    """The numbers of a training."""

    quick = "quick"
    light = "light"
    heavy = "heavy"


class Fusion(StrEnum):
    """How a skip's scores are joined with the coarser ones."""

    sum = "sum"
    max = "max"


class Rule(StrEnum):
    """How pixels become a net's input."""

    unit = "unit"
    landcover = "landcover"
    caffe = "caffe"
    published = "published"


class Sampling(StrEnum):
    """In which order images are learnt from."""

    epochs = "epochs"
    replacement = "replacement"


class Sizes(StrEnum):
    """What becomes of images of several sizes."""

    same = "same"
    pad = "pad"
    bucket = "bucket"


Weights = Annotated[
    Path,
    typer.Argument(metavar="WEIGHTS", help="A weight file (.safetensors).", show_default=False),
]


def _usable(device: str) -> str:
    """Return the name of a device, after trying it: later it would cost the user's time."""
    import numpy as np

    to_device(np.zeros(1), device)
    return device


Device = Annotated[
    str, typer.Option(help="Where to compute: cpu, cuda or cuda:N.", callback=_usable)
]
Data = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="landcover, folder:PATH, voc:PATH...; minifcn data list shows all.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of all random numbers.")]


def complain(text: str) -> None:
    """Print a message to stderr, where it does not mix with results."""
    print(f"minifcn: {text}", file=sys.stderr)


def check_new(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, or that is there unless it may be replaced."""
    from .weights import check_place

    check_place(path)
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists: choose another name, or replace it with --overwrite")


def height_and_width(text: str) -> tuple[int, int]:
    """Return the two numbers of ``--size``.

    >>> height_and_width("375x500"), height_and_width("500")
    ((375, 500), (500, 500))
    """
    height, cross, width = text.partition("x")
    numbers = (height, width if cross else height)
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise CommandError(f"--size {text}: it must be a number of pixels, as 500, or 375x500")
    return int(numbers[0]), int(numbers[1])
