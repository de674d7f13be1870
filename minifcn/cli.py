"""The command ``minifcn``: what a user can do without writing Python.

Each command imports what it needs when it runs, so that ``minifcn --help`` answers at once. Errors
that a user can cause become one line; what they say is written where they are raised.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ._version import __version__
from .backend import Error
from .cli_bench import EXAMPLES as BENCH_EXAMPLES
from .cli_bench import bench
from .cli_convert import EXAMPLES as CONVERT_EXAMPLES
from .cli_convert import convert
from .cli_data import data_app
from .cli_evaluate import EXAMPLES as EVALUATE_EXAMPLES
from .cli_evaluate import evaluate
from .cli_export import EXAMPLES as EXPORT_EXAMPLES
from .cli_export import export
from .cli_info import EXAMPLES as INFO_EXAMPLES
from .cli_info import info
from .cli_predict import EXAMPLES as PREDICT_EXAMPLES
from .cli_predict import predict
from .cli_pretrain import EXAMPLE as PRETRAIN_EXAMPLE
from .cli_pretrain import pretrain
from .cli_profile import EXAMPLES as PROFILE_EXAMPLES
from .cli_profile import profile
from .cli_runs import EXAMPLES as RUNS_EXAMPLES
from .cli_runs import runs
from .cli_train import EXAMPLE as TRAIN_EXAMPLE
from .cli_train import train
from .kernels.heap import keep_freed_memory
from .kernels.threads import starting_threads
from .options import CommandError, Device, Seed, complain
from .parallel import launched, leave, one_voice
from .terminal import shielded

UNEXPECTED, USER_ERROR, INTERRUPTED = 1, 2, 130  # exit codes; 130 is the shell's for Ctrl-C
IN_RANKS = ("train", "evaluate", "predict")  # commands that share their work with other processes


class _Commands(TyperGroup):
    """All commands; says so if one is interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            complain("interrupted")
            leave(INTERRUPTED)  # others would wait for this process


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
    with shielded():
        _run(given)


def _run(given: list[str]) -> None:
    """Run a command line, and leave with its exit code."""
    try:
        with one_voice(), starting_threads():
            app(given, prog_name="minifcn")
    except Exception as error:
        expected = isinstance(error, Error | OSError | MemoryError)
        if isinstance(error, MemoryError) and not isinstance(error, Error):
            fix = "choose smaller images, batches or nets"
            text = f"error: out of memory: {error or 'no more is to be had'}: {fix}"
        elif expected:
            text = f"error: {error}"
        else:
            text = f"unexpected {type(error).__name__}: {error}; run again with --debug"
        if "--debug" in given:
            traceback.print_exc()
        else:
            complain("\n  ".join([text, *getattr(error, "__notes__", ())]))
        leave(USER_ERROR if expected else UNEXPECTED)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"minifcn {__version__}")
        raise typer.Exit


@app.callback(epilog="Start here: [cyan]minifcn demo[/]")
def options(
    context: typer.Context,
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
    name, processes = context.invoked_subcommand, launched().number
    if processes > 1 and name not in IN_RANKS:
        raise CommandError(
            f"minifcn {name} was started in {processes} processes, and works in one: leave out "
            f"mpiexec ({', '.join(IN_RANKS)} share their work)"
        )


@app.command(epilog="Example: [cyan]minifcn demo --out demo[/]")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, report and nets.")] = Path("demo"),
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train FCN-32s, 16s and 8s on satellite images, in about two minutes."""
    from .demo import run_demo
    from .progress import TerminalObserver

    with TerminalObserver() as observer:
        run_demo(out, seed, observer, device)


app.command(epilog=TRAIN_EXAMPLE)(train)
app.command(epilog=RUNS_EXAMPLES)(runs)
app.command(epilog=PRETRAIN_EXAMPLE)(pretrain)
app.command(epilog=CONVERT_EXAMPLES)(convert)
app.command(epilog=BENCH_EXAMPLES)(bench)
app.add_typer(data_app, name="data")


app.command(epilog=EVALUATE_EXAMPLES)(evaluate)


app.command(epilog=PREDICT_EXAMPLES)(predict)


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
app.command(epilog=PROFILE_EXAMPLES)(profile)
