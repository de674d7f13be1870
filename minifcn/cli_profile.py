"""The command ``minifcn profile``."""

from __future__ import annotations

import json
import statistics
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_info import facts_and_net
from .options import Device, Precision, check_file, check_precision, height_and_width

if TYPE_CHECKING:
    from .memory import Memory
    from .models import FCN, Classifier, LateFusion
    from .profile import Profile

EXAMPLES = (
    "Examples: [cyan]minifcn profile[/], [cyan]minifcn profile --by layer --trace trace.json[/], "
    "[cyan]minifcn profile fcn8s --size 224 --batch 2[/], "
    "[cyan]minifcn profile demo/fcn8s/best.safetensors --forward[/]"
)
WARM = 2  # steps before those that count: they fetch memory, and compile
MB = 1e6
LEGEND = """\
ms, calls, GFLOP, MB: of a step, the mean of {steps}. GFLOP: two for each product of an input with
a weight that is added up. MB moved: read and written at least, each array once. MB saved: kept for
the backward pass. other: Python between the operations. + ReLU: done by that layer."""
WAITING = "The program waited for the GPU at each operation, so that its time is known."


class By(StrEnum):
    """What a line of the table is."""

    op = "op"
    layer = "layer"
    both = "both"


def profile(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="WEIGHTS|MODEL",
            help="A weight file, or a model, as for minifcn info.",
            show_default="fcn8s --backbone small",
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Of an FCN; see minifcn info.")] = None,
    classes: Annotated[
        int | None, typer.Option(help="Of a model.", show_default="21, or 1000 of a classifier")
    ] = None,
    width: Annotated[
        float | None, typer.Option(help="Of a model, not the small one: factor on all channels.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Height and width of the images.",
            show_default="what the net is usually trained on",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a step.")] = 1,
    forward: Annotated[
        bool, typer.Option("--forward", help="Inference alone, without backward pass and update.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="How many to measure, after two more.")] = 3,
    by: Annotated[
        By, typer.Option(help="A line for each operation, each layer, or each operation of each.")
    ] = By.op,
    trace: Annotated[
        Path | None, typer.Option(help="Write a file for ui.perfetto.dev or chrome://tracing.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file, as JSON.")
    ] = None,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Show where the time and the memory of a training step go, on made-up images."""
    from .layer_table import default_size, layer_table
    from .profile.table import profile_table
    from .progress import print_table

    check_precision(precision, device)
    for option, path in (("--trace", trace), ("--json", out)):
        check_file(option, path)
    if subject is None and backbone is None and width is None:
        backbone = "small"
    pixels = None if size is None else height_and_width(size)
    _, plan = facts_and_net(subject or "fcn8s", backbone, classes, width, pixels)
    pixels = pixels or default_size(plan)
    layer_table(plan, *pixels)  # the size may not fit
    found, text, numbers = _measured(plan, subject, pixels, batch, forward, steps, device)
    what = "forward pass" if forward else "training step"
    images = f"{batch} image{'s' * (batch != 1)} of {pixels[0]} x {pixels[1]} pixels"
    net = " on ".join(str(plan.config[key]) for key in ("model", "backbone") if key in plan.config)
    print(f"{net}: a {what} on {images} (height x width), {device}")
    print_table(profile_table(found.rows, found.seconds, steps, by))
    print(LEGEND.format(steps=f"{steps} steps" if steps > 1 else "one step"))
    if device != "cpu":
        print(WAITING)
    print(text)
    if trace:
        found.trace(trace)
        print(f"The trace is in {trace}: open it in ui.perfetto.dev or chrome://tracing.")
    if out:
        facts = {"model": plan.config, "size": pixels, "batch": batch, "forward": forward}
        _write(out, facts | {"device": device, "steps": steps} | numbers, found)
        print(f"All numbers are in {out}.")


def _measured(
    plan: FCN | LateFusion | Classifier,
    subject: str | None,
    pixels: tuple[int, int],
    images: int,
    forward: bool,
    steps: int,
    device: str,
) -> tuple[Profile, str, dict[str, Any]]:
    """Make the net and its steps; return what was found, and what `_told` says of it."""
    import numpy as np

    from . import memory, models, weights
    from .process_memory import resident
    from .profile import profiling
    from .profile.made_up import forward_pass, training_step, waited
    from .progress import show_progress

    need = (memory.inference if forward else memory.training)(plan, *pixels, images)
    before = resident() if device == "cpu" else 0
    if subject is not None and Path(subject).is_file():
        net = weights.load(subject).model
    else:
        net = models.build(**plan.config, rng=np.random.default_rng(0))
    step = (forward_pass if forward else training_step)(net.to(device), *pixels, images)
    done = 0
    with show_progress("steps") as progress:

        def make() -> float:
            nonlocal done
            start = time.perf_counter()
            waited(net, step)
            progress(done := done + 1, WARM + 2 * steps)
            return time.perf_counter() - start

        for _ in range(WARM):
            make()
        plain = [make() for _ in range(steps)]
        with profiling(net, steps) as found:
            for _ in range(steps):
                make()
    return found, *_told(plain, found, need, before)


def _told(
    plain: list[float], found: Profile, need: Memory, before: int
) -> tuple[str, dict[str, Any]]:
    """Return a text about times and memory, and the numbers by name."""
    usual, watched = statistics.median(plain), found.seconds / found.steps
    text = (
        f"Without looking on, a step took {1000 * usual:,.1f} ms (median); "
        f"with it {1000 * watched:,.1f} ms.\n"
    )
    peak = found.peak - before if found.peak else None
    measured = "" if peak is None else f"{peak / MB:,.0f} MB at the most, "
    text += f"Memory: {measured}{need.total / MB:,.0f} MB as predicted (minifcn.memory)."
    return text, {
        "seconds": {"plain": plain, "profiled": watched},
        "memory": {"measured": peak, "predicted": need.total},
    }


def _write(path: Path, facts: dict[str, Any], found: Profile) -> None:
    """Write all numbers as JSON."""
    from .bench.machine import facts as machine
    from .files import replacing
    from .kernels.threads import num_threads

    rows = [row._asdict() | {"gflops": row.gflops} for row in found.rows]
    content = {"machine": machine(num_threads())} | facts
    content |= {"total": found.seconds, "other": found.other, "rows": rows}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), "utf-8")
