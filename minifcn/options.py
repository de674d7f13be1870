"""What the commands share: kinds of arguments, and the error for those that do not fit together."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .backend import Error, choose_device
from .parallel import Ranks, join


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


class OnTrouble(StrEnum):
    """What becomes of a run when something is wrong: it stops, or passes over it."""

    stop = "stop"
    skip = "skip"


class PrecisionName(StrEnum):
    """How exactly convolutions on a GPU multiply."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


def _usable(device: str) -> str:
    """Return the name of a device, after trying it: later it would cost the user's time."""
    found, told = choose_device(device)
    if told:
        complain(told)
    return found


def _precise(context: typer.Context, name: PrecisionName | None) -> PrecisionName | None:
    """Set a precision until the command has ended."""
    if name:
        from .kernels.precision import use_precision

        context.with_resource(use_precision(name.value))
    return name


Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N",
        help="Where to compute; auto: on the first GPU, if there is one that can.",
        callback=_usable,
    ),
]
Precision = Annotated[
    PrecisionName | None,
    typer.Option(
        help="How exactly convolutions multiply on a GPU: all but fp32 are faster.",
        show_default="fp32",
        callback=_precise,
    ),
]
_SPEC = typer.Option(
    metavar="SPEC",
    help="landcover, folder:PATH, voc:PATH...; minifcn data list shows all.",
    show_default=False,
)
Data = Annotated[str, _SPEC]
DataOrNone = Annotated[str | None, _SPEC]
HeldOut = Annotated[
    str | None,
    typer.Option(metavar="SPEC", help="Data to measure on.", show_default="as --data"),
]
TrainSplit = Annotated[
    str | None,
    typer.Option(help="Part of the data to learn from.", show_default="train, or trainval"),
]
ValSplit = Annotated[
    str | None, typer.Option(help="Part of it to measure on.", show_default="val, or test")
]
Seed = Annotated[int, typer.Option(min=0, help="Of all random numbers.")]


def complain(text: str) -> None:
    """Print a message to stderr, where it does not mix with results."""
    print(f"minifcn: {text}", file=sys.stderr)


def join_others() -> Ranks:
    """Return the processes that a launcher such as mpiexec started with this one; say which."""
    ranks = join()
    if told := ranks.told():
        complain(told)
    return ranks


def check_precision(precision: PrecisionName | None, device: str) -> None:
    """Refuse a precision that there is only on GPUs, if the CPU is to compute."""
    if device == "cpu" and precision not in (None, PrecisionName.fp32):
        raise CommandError(
            f"--precision {precision} is for GPUs, and this is computed on the CPU: leave it out, "
            "or choose --device cuda"
        )


def check_new(path: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, or that is there unless it may be replaced."""
    from .weights import check_place

    check_place(path)
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists: choose another name, or replace it with --overwrite")


def check_file(option: str, path: Path | None) -> None:
    """Refuse a file that an option names and that cannot be written, before the work begins.

    >>> check_file("--out", Path("found.json"))
    """
    if path and (path.is_dir() or not path.parent.is_dir()):
        problem = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise CommandError(f"{option} {path}: {problem}; name a file in a folder that exists")


def height_and_width(text: str) -> tuple[int, int]:
    """Return the two numbers of ``--size``.

    >>> height_and_width("375x500"), height_and_width("500")
    ((375, 500), (500, 500))
    """
    height, cross, width = text.partition("x")
    numbers = (height, width if cross else height)
    if not all(n.isdecimal() and len(n) < 10 and int(n) > 0 for n in numbers):
        raise CommandError(f"--size {text}: it must be a number of pixels, as 500, or 375x500")
    from .data.images import LIMIT, most_pixels

    high, wide = map(int, numbers)
    if high * wide > most_pixels():
        raise CommandError(
            f"--size {text}: these are {high * wide:,} pixels, and an image may have "
            f"{most_pixels():,} ({LIMIT})"
        )
    return high, wide
