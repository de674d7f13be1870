"""Try minifcn on an NVIDIA GPU: is it right, what bounds it, how fast is it beside PyTorch?

python benchmarks/gpu.py --quick --out quick.json   # meant to take about two minutes
python benchmarks/gpu.py --out gpu.json             # all of it
python benchmarks/gpu.py --check                    # only whether it computes the right numbers

First comes a plan: what will be measured, and the least time that an H100 could need for it. Then
each operation and some layers of real nets are compared with the CPU in float64, and the losses of
20 training steps with those of the CPU. Only if all that is right, speeds are measured as
`minifcn bench --device cuda` does (README.md in this folder). Everything goes to the file, which is
written anew after each work.

This file must not be called cuda.py: CuPy imports a package `cuda` of NVIDIA's, and would find it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import minifcn.functional as F
from minifcn import bench, memory
from minifcn.autograd import PRIMITIVES, Primitive, Tensor, grad
from minifcn.backend import Array, Error, is_array, require_cupy, to_device
from minifcn.bench import floor, gpu, inputs, machine, ours, works
from minifcn.bench.results import Report
from minifcn.bench.runner import Settings
from minifcn.bench.sides import check_peers, names_in
from minifcn.bench.terminal import Terminal
from minifcn.flow import planned
from minifcn.gradcheck import relative_error
from minifcn.json_file import write_json
from minifcn.kernels.precision import use_precision
from minifcn.progress import new_table, print_table

# What NVIDIA's data sheet promises of an H100 SXM: GFLOP/s without sparsity, and GB/s.
H100 = {"fp32": 67e3, "tf32": 495e3, "bf16": 990e3}
H100_BANDWIDTH = 3350.0
# How far results may be from the CPU's in float64, relative to the largest number.
LIMITS = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
# And the losses of training steps from the CPU's in float32: each step adds to what was before.
LOSS_LIMITS = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
STEPS = 20
ROOM = 0.85  # of a GPU's memory, that a work may need by our reckoning

QUICK = ("small64", "small128", "vgg500-forward", "vgg500", "layers-vgg500")
ALL = (
    *("small64", "small128", "demo96", "vgg224-forward", "vgg224", "vgg500-forward", "vgg500"),
    *("vgg500x20-forward", "vgg500x20", "layers-small", "layers-vgg500", "ops"),
)
QUICKLY = {"rounds": 2, "processes": "together", "layout": "channels_last"}
# Layers whose numbers are compared: channels and kernels as in the nets, fewer pixels.
LAYERS = (
    works.layer(3, 64, 61, first=True),
    works.layer(64, 64, 61),
    works.layer(64, 128, 33, batch=2),
    works.layer(512, 512, 14),
    works.layer(128, 512, 12, 7, padding=0),  # as fc6
    works.layer(512, 21, 16, 1),  # as a score layer
    works.layer(3, 96, 115, 11, stride=4, padding=10, first=True),  # AlexNet's first
    works.layer(96, 256, 27, 5, groups=2),
)
LOSSES = {"net": works.DEMO_NET, "batch": [8, 3, 96, 96]}


class WrongError(Error, RuntimeError):
    """Results that are too far from the CPU's."""


class Notes(Terminal):
    """Shows a run, and keeps all that is known in a file."""

    def __init__(self, out: Path | None) -> None:
        super().__init__()
        self.file, self.found = out, {"format": 1}

    def add(self, **facts: Any) -> None:
        """Take note of something, and write all that is known."""
        self.found |= facts
        if self.file:
            write_json(self.file, self.found)

    def finished(self, report: Report, work: works.Work, processes: str) -> None:
        """Show a work's table, and take note of all results so far."""
        super().finished(report, work, processes)
        self.add(speed=report.as_dict())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less, in about two minutes")
    parser.add_argument("--check", action="store_true", help="compare numbers, measure no speed")
    parser.add_argument("--against", default="torch", help="'' for minifcn alone")
    parser.add_argument("--out", type=Path, help="a file for all numbers, as JSON")
    given = parser.parse_args(arguments)
    chosen = works.find(QUICK if given.quick else ALL)
    form = QUICKLY if given.quick else {}
    settings = Settings(device="cuda", precisions=gpu.PRECISIONS, fused=True, **form)
    peers = names_in(given.against)
    try:
        check_peers(peers)
        with Notes(given.out) as notes:
            run(chosen, settings, peers, notes, speed=not given.check)
    except Error as error:
        sys.exit(f"benchmarks/gpu.py: {error}")


def run(
    chosen: Sequence[works.Work],
    settings: Settings,
    peers: Sequence[str],
    notes: Notes,
    speed: bool = True,
) -> None:
    """Do all of it, the plan first; a wrong number ends it."""
    rows = plan(chosen)
    notes.add(plan=rows)
    show("Plan: the least times on an H100, from its data sheet", rows)
    cupy = require_cupy()
    notes.add(device=machine.facts(1) | gpu.facts())
    room = ROOM * cupy.cuda.Device().mem_info[1]
    too_large = {row["work"] for row in rows if row["needs GB"] * 1e9 > room}
    if too_large:
        print(f"left out, for a GPU with more memory: {', '.join(sorted(too_large))}")
    checks: dict[str, Iterator[dict[str, Any]]] = {  # each done when its turn comes
        "operations": (row for op in operations() for row in check_operation(op)),
        "layers": (row for case in LAYERS for row in check_layer(case)),
        "losses": check_losses(settings.precisions),
    }
    for name, found in checks.items():
        rows = list(found)
        notes.add(**{name: rows})
        judge(name, rows)
    cupy.get_default_memory_pool().free_all_blocks()  # the processes that measure need it
    if speed:
        left = [work for work in chosen if work.name not in too_large]
        report = bench.run(left, peers, settings, notes)
        notes.add(speed=report.as_dict())
        for text in (*report.notes, *report.failures):
            print(f"note: {text}", file=sys.stderr)


# What will be measured


def plan(chosen: Sequence[works.Work]) -> list[dict[str, Any]]:
    """Return for each work of a whole net what it computes, moves and needs, and its floors."""
    rows = []
    for work in chosen:
        for case in work.cases:
            if case.kind not in (works.TRAIN, works.INFER):
                continue
            net, batch = planned(**case.settings["net"]), case.settings["batch"]
            training = case.kind == works.TRAIN
            pieces = (floor.training_step if training else floor.convolutions)(net, batch)
            need = (memory.training if training else memory.inference)(net, *batch[2:], batch[0])
            row = {"work": case.name, "TFLOP": sum(piece.flops for piece in pieces) / 1e12}
            row["GB"] = sum(piece.numbers for piece in pieces) * 4 / 1e9
            row["needs GB"] = (need.weights + need.arrays) / 1e9
            for name, rate in H100.items():
                row[f"{name} ms"] = floor.least_ms(pieces, name, rate, H100_BANDWIDTH)
            rows.append(row)
    return rows


# Is it right?


def operations() -> list[Primitive]:
    """Return the operations of minifcn.functional that have a result for each input."""
    ours = (op for _, op in sorted(PRIMITIVES.items()) if op.__module__.startswith(F.__name__))
    return [op for op in ours if op.cases]


def check_operation(op: Primitive) -> Iterator[dict[str, Any]]:
    """Compare an operation and its gradients on all of its samples."""
    for label, sample in op.cases(np.random.default_rng(0)):
        single = {n: rounded(a, np.float32) for n, a in sample.items()}
        exact = forward_and_backward(op, {n: rounded(a, np.float64) for n, a in single.items()})
        there = {n: to_device(a, "cuda") if is_array(a) else a for n, a in single.items()}
        for what, array in forward_and_backward(op, there).items():
            yield compared(f"{op.name}, {label}: {what}", "fp32", array, exact[what])


def rounded(value: Any, dtype: Any) -> Any:
    """Return floating-point arrays in a type, all else as it is."""
    return value.astype(dtype) if is_array(value) and value.dtype.kind == "f" else value


def forward_and_backward(op: Primitive, arguments: dict[str, Any]) -> dict[str, Array]:
    """Return the output, and the gradients for an upstream gradient that is always the same."""
    leaves = {
        n: Tensor(a, requires_grad=True)
        for n, a in arguments.items()
        if is_array(a) and a.dtype.kind == "f" and n in op.rules
    }
    y = op(**arguments | leaves)
    if not leaves:
        return {"output": y}
    u = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    seed = to_device(u.astype(y.dtype), y.device)
    found = grad(y, list(leaves.values()), seed=Tensor(seed))
    gradients = {f"gradient in {n}": g.data for n, g in zip(leaves, found, strict=True)}
    return {"output": y.data} | gradients


def check_layer(case: works.Case) -> Iterator[dict[str, Any]]:
    """Compare a convolution and its gradients, in each precision."""
    arrays = inputs.layer_arrays(case.settings)
    exact = layer_results(case, [array.astype(np.float64) for array in arrays])
    there = [to_device(array, "cuda") for array in arrays]
    for precision in LIMITS:
        with use_precision(precision):
            for task, result in layer_results(case, there).items():
                yield compared(f"{case.name}: {task}", precision, result, exact[task])


def layer_results(case: works.Case, arrays: Sequence[Array]) -> dict[str, Array]:
    tasks = ours.convolution_of(*arrays, case.settings)
    return {name: task.run() for name, task in tasks.items()}


def compared(what: str, precision: str, result: Array, exact: Array) -> dict[str, Any]:
    """Return a row with the error of a result."""
    error = relative_error(result, exact)
    return {"what": what, "precision": precision, "error": error, "limit": LIMITS[precision]}


def check_losses(precisions: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Compare the losses of some training steps with those of the CPU in float32."""
    on_cpu = losses({})
    for precision in precisions:
        with use_precision(precision):
            on_gpu = losses({"device": "cuda"})
        errors = [abs(a - b) / abs(a) for a, b in zip(on_cpu, on_gpu, strict=True)]
        yield {
            "what": f"loss, {STEPS} steps",
            "precision": precision,
            "error": max(errors),
            "limit": LOSS_LIMITS[precision],
            "losses": on_gpu,
            "on the CPU": on_cpu,
        }


def losses(how: dict[str, str]) -> list[float]:
    step: Callable[[], Array] = ours.training_step(LOSSES, how)["step"].run
    return [step().item() for _ in range(STEPS)]


def judge(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Show the largest errors; raise an error if one is too large."""
    worst = [
        max((r for r in rows if r["precision"] == precision), key=lambda r: r["error"] / r["limit"])
        for precision in dict.fromkeys(row["precision"] for row in rows)
    ]
    columns = ("what", "precision", "error", "limit")
    show(
        f"{len(rows)} comparisons of {name}, the largest error of each precision",
        [{column: row[column] for column in columns} for row in worst],
    )
    wrong = [row for row in rows if not row["error"] <= row["limit"]]
    if wrong:
        first = wrong[0]
        raise WrongError(
            f"{len(wrong)} of {len(rows)} {name} are wrong, the first: {first['what']} in "
            f"{first['precision']} is off by {first['error']:.1e}, more than {first['limit']:.0e}; "
            "no speed was measured"
        )


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a table."""
    print(f"\n{title}", end="", flush=True)
    if rows:
        table = new_table(*(f">{name}" if name != "what" else name for name in rows[0]))
        for row in rows:
            table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
        print_table(table)


if __name__ == "__main__":
    main()
