"""The command ``minifcn bench``: its options, and what it shows while it measures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, check_file, complain

EXAMPLES = (
    "Examples: [cyan]minifcn bench --list[/], [cyan]minifcn bench small128[/], "
    "[cyan]minifcn bench layers-vgg224 --rounds 9 --out vgg.json[/], "
    "[cyan]minifcn bench common-step --against torch,mygrad,jax[/], "
    "[cyan]minifcn bench vgg500 --device cuda --precision fp32,tf32,bf16[/]"
)
FAILED = 1  # exit code


def bench(
    works: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORK", help="What to measure.", show_default="small64 small128 demo96"
        ),
    ] = None,
    against: Annotated[
        str, typer.Option(help="Libraries to compare with, with commas; '' for none.")
    ] = "torch",
    rounds: Annotated[int, typer.Option(min=1, help="Blocks of each library.")] = 5,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of every library.", show_default="one per processor"),
    ] = None,
    processes: Annotated[
        str, typer.Option(help="apart: a process for each; together: one for all; both.")
    ] = "apart",
    layout: Annotated[
        str, typer.Option(help="Of PyTorch's images: contiguous, channels_last; best: the faster.")
    ] = "best",
    tuned: Annotated[
        bool, typer.Option("--tuned", help="Once more with freed memory kept.")
    ] = False,
    fused: Annotated[
        bool, typer.Option("--fused", help="PyTorch's SGD in its fused form.")
    ] = False,
    graphs: Annotated[
        bool, typer.Option("--graphs", help="On a GPU: PyTorch also as CUDA graphs.")
    ] = False,
    device: Device = "cpu",
    precision: Annotated[
        str, typer.Option(help="On a GPU, of convolutions: fp32, tf32, bf16, with commas.")
    ] = "fp32",
    out: Annotated[
        Path | None, typer.Option(help="Write all numbers to this file, as JSON.")
    ] = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="List works and libraries, and stop.")
    ] = False,
) -> None:
    """Measure speed and memory beside other libraries that do the same work, in turn."""
    from .bench import Settings, run, table
    from .bench.sides import names_in
    from .bench.terminal import Terminal
    from .bench.works import DEFAULT_WORKS, find
    from .progress import print_table

    if list_all:
        print_table(table.list_works())
        print_table(table.list_peers())
        return
    check_file("--out", out)
    names = list(works or DEFAULT_WORKS)
    find(names)  # an unknown one is better known now
    peers = names_in(against)
    precisions = tuple(names_in(precision))
    settings = Settings(
        rounds, threads, processes, layout, tuned, fused, graphs, device, precisions
    )
    with Terminal(out) as terminal:
        report = run(names, peers, settings, terminal)
    print(table.legend(report))
    for note in report.notes:
        complain(f"note: {note}")
    for failure in report.failures:
        complain(f"error: {failure}")
    if out:
        report.write(out)
        print(f"All numbers are in {out}.")
    if report.failures:
        raise typer.Exit(FAILED)
