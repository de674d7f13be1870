"""The commands ``minifcn data check``, ``show`` and ``list``."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_data_convert import CONVERT_EXAMPLES, convert
from .options import CommandError, Seed, complain

if TYPE_CHECKING:
    from rich.table import Table

    from .data import Dataset
    from .data.check import Report

PROBLEMS = 1  # the exit code of a check that found errors

data_app = typer.Typer(
    no_args_is_help=True,
    help="Look at data sets: list the kinds, verify every file, show samples, convert.",
    epilog="Example: [cyan]minifcn data check landcover[/]",
)

Spec = Annotated[
    str,
    typer.Argument(
        metavar="SPEC",
        help="Data, as landcover or voc:PATH?split=val (see minifcn data list).",
        show_default=False,
    ),
]


@data_app.command(
    epilog="Examples: [cyan]minifcn data check folder:PATH --out check.html[/], "
    "[cyan]minifcn data check 'voc:PATH?split=val'[/]"
)
def check(
    spec: Spec,
    out: Annotated[
        Path | None,
        typer.Option(help="Write an HTML page with all of it, and samples to look at."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file too.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that read, 0 for this one alone; if not given, up to one for each "
            "processor.",
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Read every sample: find what is wrong, count classes and sizes.

    All splits are read, or the one that SPEC names. The exit code is 1 if there are errors.
    """
    from .contact_sheet import summary, write_contact_sheet
    from .data import check
    from .json_file import write_json
    from .progress import print_table, show_progress
    from .weights import check_place

    for file in filter(None, (out, json_file)):
        check_place(file)  # now, not after the long work
    with show_progress("samples") as progress:
        report = check(spec, workers=workers, progress=progress)
    for table in _tables(report):
        print_table(table)
    for (a, b), count in report.shared.items():
        smaller = min(report.splits[a].images, report.splits[b].images)
        if count < smaller:  # neither is part of the other
            print(f"{a} and {b} share {count} samples")
    for problem in report.problems:
        kind = "error" if problem.is_error else "warning"
        print(f"{kind} ({problem.split}): {problem.text}")
    if report.unlisted:
        print(f"... and {report.unlisted} more bad samples")
    print(f"{spec}: {summary(report)}")
    if json_file:
        write_json(json_file, report.as_dict())
    if out:
        with show_progress("pictures") as progress:
            count = write_contact_sheet(out, report, seed=seed, progress=progress)
        print(f"{count} samples to look at: {out}")
    if report.errors:
        raise typer.Exit(PROBLEMS)


@data_app.command(
    epilog="Examples: [cyan]minifcn data show landcover --index 5[/], "
    "[cyan]minifcn data show voc:PATH --split val --name 2007_000033 --out plane.png[/]"
)
def show(
    spec: Spec,
    split: Annotated[
        str | None,
        typer.Option(help="Part of the data; if SPEC names none, its first.", show_default=False),
    ] = None,
    index: Annotated[
        int | None, typer.Option(min=0, help="Number of the sample, from 0.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the sample, instead.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many samples, from that one on.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="PNG file to write; if not given, named after the sample."),
    ] = None,
) -> None:
    """Draw samples: image, label and overlay, with the classes' colours."""
    from .data import open_dataset, save_image, splits_of
    from .data.sources import parse
    from .sample_pictures import sample_sheet

    if index is not None and name is not None:
        raise CommandError(f"--index {index} and --name {name}: give one of them")
    named = parse(spec).split
    if named and split and named != split:
        raise CommandError(f"--split {split}: {spec} names the split {named} already")
    split = named or split or splits_of(spec)[0]
    dataset = open_dataset(spec, split)
    first = _number_of(dataset, name) if name is not None else index or 0
    if first >= len(dataset):
        raise CommandError(
            f"--index {first}: {dataset.name} has {len(dataset)} samples, 0 to {len(dataset) - 1}"
        )
    last = min(first + count, len(dataset))
    samples = [dataset[number] for number in range(first, last)]
    safe = samples[0].name.replace("/", "_").replace("\\", "_")
    out = out or Path(f"{parse(spec).kind}-{split}-{safe}.png")
    save_image(out, sample_sheet(samples, dataset))
    for number, sample in enumerate(samples, start=first):
        height, width = sample.image.shape[:2]
        print(f"{number}  {sample.name}  {height} x {width} pixels (height x width)")
    if len(samples) < count:
        complain(f"{dataset.name} ends with sample {last - 1}")
    print(f"{dataset.name}: see {out}")


data_app.command(epilog=CONVERT_EXAMPLES)(convert)


@data_app.command("list", epilog="Example: [cyan]minifcn data list[/]")
def list_kinds() -> None:
    """List the kinds of data sets, how each is written, and its options."""
    from .data.sources import SOURCES, example

    for kind, source in SOURCES.items():
        sizes = ", ".join(f"{split} {size:,}" for split, size in source.published.items())
        print(f"{example(kind)}\n    {source.about}.")
        if source.options:
            print(f"    Options: {', '.join(source.options)}.")
        if sizes:
            print(f"    Images as published: {sizes}.")
    print(
        "\nA SPEC may name a split and options: 'kind:PATH?split=NAME&option=value', in quotes for "
        "the\nshell's sake. For each kind there is a page in docs/data/."
    )


def _number_of(dataset: Dataset, name: str) -> int:
    """Return the number of the sample of this name."""
    from .data import Files

    if isinstance(dataset, Files):
        names = [item.name for item in dataset.items]
    else:
        names = [dataset[number].name for number in range(len(dataset))]
    if name not in names:
        close = difflib.get_close_matches(name, names)
        hint = f" (similar: {', '.join(close)})" if close else f" (the first is {names[0]})"
        raise CommandError(f"--name {name}: {dataset.name} has no sample of that name{hint}")
    return names.index(name)


def _tables(report: Report) -> list[Table]:
    """Return the numbers of a check: splits, channels, and the classes of each kind of labels."""
    from .contact_sheet import formats_text, size_text
    from .progress import new_table
    from .report import percent

    splits = list(report.splits.values())
    table = new_table("split", ">images", ">published", ">read", "height x width", "files")
    for tally in splits:
        published = report.published.get(tally.name)
        table.add_row(
            tally.name,
            f"{tally.images:,}",
            "-" if published is None else f"{published:,}",
            f"{tally.read:,}",
            size_text(tally),
            formats_text(tally),
        )
    alike = report.alike
    if not alike:
        return [table]
    titles = [f">{tally.name}: {what}" for tally in alike for what in ("mean", "std")]
    colours = new_table("channel", *titles)
    numbers = [row for tally in alike for row in tally.mean_and_std()]
    for name, *row in zip(alike[0].channels(), *numbers, strict=True):
        colours.add_row(name, *(f"{number:.2f}" for number in row))
    tables = [table, colours]
    titles = [f">{tally.name}: {what}" for tally in alike for what in ("share", "images")]
    for k, (head, (classes, _)) in enumerate(alike[0].heads.items()):
        table = new_table(f"{head} class".strip(), *titles)
        shares = [tally.shares(head) for tally in alike]
        for number, name in enumerate(classes):
            cells: list[str] = []
            for tally, share in zip(alike, shares, strict=True):
                cells += percent(share[number]), f"{tally.images_with[k, number]:,}"
            table.add_row(name, *cells)
        table.add_section()
        ignored = [cell for tally in alike for cell in (percent(tally.ignored(head)), "")]
        table.add_row("ignored, of all pixels", *ignored)
        tables.append(table)
    return tables
