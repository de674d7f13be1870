"""The command ``minifcn data convert``: any data set becomes a plain folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import CommandError

CONVERT_EXAMPLES = (
    "Examples: [cyan]minifcn data convert 'camvid:CamVid?classes=11' --out camvid11[/], "
    "[cyan]minifcn data convert landcover --out tiles --split val[/], "
    "[cyan]minifcn data convert sbd:benchmark_RELEASE --in-place[/]"
)


def convert(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC", help="The data set, as camvid:PATH or folder:PATH.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write.", show_default=False)
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(help="A split to write; may be given again.", show_default="all"),
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="For sbd:PATH: write NAME.png beside each NAME.mat.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write samples anew that are there already.")
    ] = False,
) -> None:
    """Write a data set as a folder of images and PNG labels that hold class numbers."""
    from .data.convert import convert, convert_sbd
    from .data.sources import parse
    from .progress import show_progress

    if (out is None) != in_place:
        raise CommandError("name the folder to write with --out, or give --in-place for sbd:PATH")
    if out is None:
        source = parse(spec)
        if source.kind != "sbd" or source.path is None or split or source.split:
            raise CommandError(f"--in-place is for sbd:PATH without a split, not for {spec!r}")
        with show_progress("labels") as progress:
            written, kept = convert_sbd(source.path, overwrite=overwrite, progress=progress)
        print(f"{source.path}: {written} labels written, {kept} were there")
        return
    with show_progress("images") as progress:
        done = convert(spec, out, splits=split or (), overwrite=overwrite, progress=progress)
    parts = ", ".join(f"{name} {count}" for name, count in done.splits.items())
    print(f"{out}: {done.written} images with labels written, {done.kept} were there ({parts})")
    print(f"Use it as {done.spec}")
