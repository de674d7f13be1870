"""The command ``minifcn``: what a user can do without writing Python.

Each command imports what it needs when it runs, so that ``minifcn --help`` answers at once. Errors
that a user can cause become one line; what they say is written where they are raised.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ._version import __version__
from .backend import Error
from .cli_bench import EXAMPLES as BENCH_EXAMPLES
from .cli_bench import bench
from .cli_convert import EXAMPLES as CONVERT_EXAMPLES
from .cli_convert import convert
from .cli_export import EXAMPLES as EXPORT_EXAMPLES
from .cli_export import export
from .cli_info import EXAMPLES as INFO_EXAMPLES
from .cli_info import info
from .cli_pretrain import EXAMPLE as PRETRAIN_EXAMPLE
from .cli_pretrain import pretrain
from .cli_train import EXAMPLE as TRAIN_EXAMPLE
from .cli_train import train
from .kernels.heap import keep_freed_memory
from .options import Absent, CommandError, Data, Device, Seed, Weights, complain

if TYPE_CHECKING:
    from .data import Dataset
    from .weights import Loaded

UNEXPECTED, USER_ERROR, INTERRUPTED = 1, 2, 130  # exit codes; 130 is the shell's for Ctrl-C


class _Commands(TyperGroup):
    """All commands; says so if one is interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (without the program's name), print errors as one line, and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    given.sort(key=lambda argument: argument != "--debug")  # it may stand anywhere: move it first
    keep_freed_memory()  # this process does nothing else
    try:
        app(given, prog_name="minifcn")
    except Exception as error:
        expected = isinstance(error, Error | OSError)
        if "--debug" in given:
            traceback.print_exc()
        elif expected:
            complain("\n  ".join([f"error: {error}", *getattr(error, "__notes__", ())]))
        else:
            complain(f"unexpected {type(error).__name__}: {error}; run again with --debug")
        sys.exit(USER_ERROR if expected else UNEXPECTED)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"minifcn {__version__}")
        raise typer.Exit


@app.callback(epilog="Start here: [cyan]minifcn demo[/]")
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and stop.", is_eager=True, callback=_version
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show Python's traceback of an error.")
    ] = False,
) -> None:
    """Fully convolutional networks: train, evaluate and use nets that label every pixel."""


@app.command(epilog="Example: [cyan]minifcn demo --out demo[/]")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, report and nets.")] = Path("demo"),
    seed: Seed = 0,
) -> None:
    """Train FCN-32s, 16s and 8s on satellite images, in about two minutes."""
    from .demo import run_demo
    from .progress import TerminalObserver

    with TerminalObserver() as observer:
        run_demo(out, seed, observer)


app.command(epilog=TRAIN_EXAMPLE)(train)
app.command(epilog=PRETRAIN_EXAMPLE)(pretrain)
app.command(epilog=CONVERT_EXAMPLES)(convert)
app.command(epilog=BENCH_EXAMPLES)(bench)


@app.command(
    epilog="Example: [cyan]minifcn evaluate demo/fcn8s/best.safetensors --data landcover[/]"
)
def evaluate(
    weights: Weights,
    data: Data,
    split: Annotated[str, typer.Option(help="Part of the data: train, val, ...")] = "val",
    absent: Annotated[
        Absent,
        typer.Option(help="In mean IU, a predicted class that is not there is 0, or left out."),
    ] = Absent.zero,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file too.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Measure a net on a data set: four metrics, and IU by class."""
    from .about import evaluation
    from .data import open_dataset
    from .progress import class_table, print_table, show_progress
    from .report import METRICS, percent
    from .train import evaluate, one_class_warning, write_json
    from .weights import load_fcn

    dataset = open_dataset(data, split)
    with show_progress("reading weights") as progress:
        loaded = load_fcn(weights, progress=progress)
    check_classes(weights, loaded, dataset)
    with show_progress("images") as progress:
        matrix = evaluate(
            loaded.model, dataset, loaded.preprocessing, device=device, progress=progress
        )
    print(f"{weights} on {dataset.name}: {len(dataset)} images\n")
    numbers = matrix.summary() | {"mean_iu": matrix.mean_iu(absent.value)}
    for name, title in METRICS.items():
        print(f"{title:<16}{percent(numbers[name]):>8}")
    print_table(class_table(matrix, loaded.classes))
    if warning := one_class_warning(matrix, loaded.classes):
        complain(f"warning: {warning}")
    if json_file:
        facts = {"weights": str(weights), "data": data, "split": split, "images": len(dataset)}
        write_json(json_file, facts | evaluation(matrix, loaded.classes, absent.value))


@app.command(
    epilog="Example: [cyan]minifcn predict demo/fcn8s/best.safetensors photos --out labelled[/]"
)
def predict(
    weights: Weights,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE_OR_FOLDER",
            help="Image files, or folders of them.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default=False)],
    device: Device = "cpu",
    tile: Annotated[
        str,
        typer.Option(
            metavar="auto|off|N",
            help="Let the net see tiles of N pixels a side at most; auto: only if the memory that "
            "is free calls for it.",
        ),
    ] = "auto",
) -> None:
    """Label images: for each, write class numbers (NAME.png) and a picture (NAME_overlay.png)."""
    from .predict import find_images, predict_files
    from .progress import show_progress
    from .weights import load_fcn

    size = _tile_size(tile)
    files, skipped = find_images(images)
    for path in skipped:
        complain(f"skipped {path}: {'a folder' if path.is_dir() else 'not an image'}")
    with show_progress("reading weights") as progress:
        loaded = load_fcn(weights, progress=progress)
    with show_progress("images") as progress:
        done = predict_files(loaded, files, out, device=device, tile=size, progress=progress)
    for job in done:
        if len(job.tiles) > 1:
            rows, columns = job.tiles[0]
            print(
                f"{job.image}: the net saw {len(job.tiles)} tiles of at most {rows.size} x "
                f"{columns.size} pixels (height x width)"
            )
    some = done[0].label.name, done[0].overlay.name
    print(f"{len(done)} image{'s' * (len(done) != 1)} labelled: see {out}/{some[0]} and {some[1]}")


@app.command(epilog="Example: [cyan]minifcn gradcheck conv2d max_pool2d[/]")
def gradcheck(
    operations: Annotated[
        list[str] | None,
        typer.Argument(metavar="OP", help="Which ones; all if none is named."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Check operations against loops, and their gradients against difference quotients."""
    import numpy as np
    from rich.text import Text

    from .autograd import PRIMITIVES
    from .gradcheck import EXACT_LIMIT, GRADIENT_LIMIT, check_primitive
    from .progress import new_table, print_table, show_progress

    known = {name: op for name, op in sorted(PRIMITIVES.items()) if op.loops and op.cases}
    wanted = operations or list(known)
    for name in wanted:
        if name not in known:
            raise CommandError(f"no operation is called {name!r}: there are {', '.join(known)}")
    reports = []
    with show_progress("operations") as progress:
        for name in wanted:
            reports.append(check_primitive(known[name], np.random.default_rng(seed)))
            progress(len(reports), len(wanted))
    titles = ("reference", "gradient", "2nd order", "adjoint")
    table = new_table("operation", ">cases", *(f">{title}" for title in titles), "result")
    for report in reports:
        errors = report.reference, report.gradient, report.second_order, report.adjoint
        cells = ("-" if error is None else f"{error:.1e}" for error in errors)
        result = Text("PASS", "green") if report.passed else Text("FAIL", "bold red")
        table.add_row(report.name, str(report.samples), *cells, result)
    print_table(table)
    failed = [report.name for report in reports if not report.passed]
    print(
        "The largest relative errors of all samples. Allowed are "
        f"{EXACT_LIMIT:.0e} (reference, adjoint) and {GRADIENT_LIMIT:.0e} (gradient, second order)."
    )
    print(
        f"{len(failed)} of {len(reports)} failed: {', '.join(failed)}" if failed else "All passed."
    )
    if failed:
        raise typer.Exit(UNEXPECTED)


app.command(epilog=INFO_EXAMPLES)(info)
app.command(epilog=EXPORT_EXAMPLES)(export)


def _tile_size(text: str) -> Any:
    """Return what ``--tile`` means: "auto", None for off, or a number."""
    if text not in ("auto", "off") and not (text.isdecimal() and int(text) > 0):
        raise CommandError(f"--tile {text}: it must be auto, off, or a number of pixels, as 1024")
    return int(text) if text.isdecimal() else {"off": None}.get(text, text)


def check_classes(path: Path, loaded: Loaded, dataset: Dataset) -> None:
    """Raise unless a net and a data set tell apart the same number of classes; warn of names."""
    ours, theirs = loaded.classes, dataset.classes
    if len(ours) != len(theirs):
        raise CommandError(
            f"{path} tells {len(ours)} classes apart ({', '.join(ours)}), but {dataset.name} has "
            f"{len(theirs)} ({', '.join(theirs)}): choose the data that the net was trained for"
        )
    if ours != theirs:
        pairs = [f"{a} / {b}" for a, b in zip(ours, theirs, strict=True) if a != b]
        complain(
            f"warning: {path} and {dataset.name} have other names for {len(pairs)} classes: "
            + ", ".join(pairs)
        )
