"""The computer on which a benchmark runs: what it is, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._version import __version__
from ..about import blas_warning, processor
from ..backend import DeviceError, device_number, require_gpu
from . import gpu, measure
from .load import disturbed, wait_for_quiet
from .process import Worker
from .sides import OURS

SIDE = 2048  # of the square matrices whose product counts as the peak
GPU_SIDE = 8192
COPIED = 1 << 28  # numbers, 1 GiB: no cache holds them


def facts(threads: int) -> dict[str, Any]:
    """Return what is known without measuring: processor, versions, threads, time.

    >>> list(facts(1))[:4]
    ['processor', 'processors', 'threads', 'system']
    """
    return {
        "processor": processor(),
        "processors": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "minifcn": __version__,
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "command": shlex.join([_program(Path(sys.argv[0])), *sys.argv[1:]]),
    }


def _program(path: Path) -> str:
    """Return the name of a program; that of its folder if it is a package's __main__.py."""
    return path.parent.name if path.stem == "__main__" else path.name


def version_of(package: str) -> str:
    """Return the version of an installed package, without importing it.

    >>> version_of("numpy") == np.__version__
    True
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # found, but not installed: a folder beside this one
        return "of unknown version"


def warnings() -> list[str]:
    """Return what makes all figures on this computer worth less than they could be."""
    warning = blas_warning()
    return [warning] if warning else []


class Peaks(NamedTuple):
    """How fast matrices are multiplied, and memory is copied, and by what.

    Attributes
    ----------
    gflops
        By number of threads; on a GPU by precision.
    facts
        What else is known of who does it.
    doubtful
        Whether other programs computed meanwhile: then the rates may be too low.
    bandwidth
        GB/s, reading and writing counted together; 0 where it is not measured.
    """

    gflops: dict[str, float]
    facts: dict[str, Any]
    doubtful: bool = False
    bandwidth: float = 0.0


def gpu_peaks(device: str, precisions: Sequence[str], threads: int) -> Peaks:
    """Measure products of 8192 x 8192 matrices on a GPU, the best of a few, and a copy of 1 GiB.

    Raises
    ------
    DeviceError
        If there is no such GPU, or it cannot be used; the message says why.
    """
    require_gpu(device)  # here, where none is hidden
    environment = only(device)
    with Worker(OURS, threads, environment) as worker:
        facts = worker.ask("facts")
        if "reason" in facts:
            raise DeviceError(f"device {device!r} is not available: {facts['reason']}")
        plain = [one for one in precisions if one != "tf32"]
        found = worker.ask("ceilings", size=GPU_SIDE, numbers=COPIED, precisions=plain)
    gflops = found["gflops"]
    if "tf32" in precisions:
        with Worker(OURS, threads, environment | gpu.TF32) as worker:
            gflops |= worker.ask("ceilings", size=GPU_SIDE, numbers=0, precisions=["tf32"])[
                "gflops"
            ]
    return Peaks(gflops, facts, bandwidth=found["bandwidth"])


def only(device: str) -> dict[str, str]:
    """Return the environment in which a process has one GPU, which is ``"cuda:0"`` there.

    >>> only("cuda:2")
    {'CUDA_VISIBLE_DEVICES': '2'}
    """
    number, allowed = device_number(device), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number)] if allowed is None else allowed.split(",")[number : number + 1]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names)}


def sgemm_peaks(threads: int) -> Peaks:
    """Measure the best of twelve products of 2048 x 2048 matrices in float32, apart."""
    with Worker(OURS, threads) as worker:
        answers = {str(n): _peak(worker, n) for n in (threads, 1)}
    blas = [
        f"{lib['internal_api']} {lib['version']}, kernels for {lib['architecture']}, "
        f"{lib['threading_layer']}"
        for lib in answers[str(threads)]["blas"]
    ]
    peaks = {name: answer["gflops"] for name, answer in answers.items()}
    doubtful = any(disturbed(answer["others"]) for answer in answers.values())
    return Peaks(peaks, {"BLAS": "; ".join(blas) or "unknown to threadpoolctl"}, doubtful)


def _peak(worker: Worker, threads: int) -> dict[str, Any]:
    """Return the first attempt that nobody disturbed, or the fastest of a few."""
    found: list[dict[str, Any]] = []
    for attempt in range(measure.TRIES):
        if attempt:
            wait_for_quiet(measure.WAIT)
        found.append(worker.ask("peak", size=SIDE, threads=threads))
        if not disturbed(found[-1]["others"]):
            return found[-1]
    return max(found, key=lambda answer: answer["gflops"])
