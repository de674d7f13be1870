"""Facts that commands tell: about this machine, a weight file, a model."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
import threadpoolctl

from . import memory, models, weights
from ._version import __version__
from .backend import probe_cuda
from .data import Dataset, landcover, shapes
from .flow import Net
from .gpu_memory import gpus
from .kernels.threads import num_threads
from .tiling import margins

Facts: TypeAlias = dict[str, str]  # in the order in which they are shown


def machine() -> Facts:
    """Return versions, threads, devices and the bundled data.

    >>> list(machine())
    ['minifcn', 'Python', 'NumPy', 'BLAS', 'threads', 'GPU', 'data']
    """
    sets: list[tuple[Dataset, Dataset]] = [
        (landcover("train"), landcover("val")),
        (shapes("train"), shapes("val")),
    ]
    bundled = [
        f"{train.name.removesuffix(' train')}: {len(train)} images to train on, {len(val)} held "
        f"out, {len(train.classes)} classes ({', '.join(train.classes)})"
        for train, val in sets
    ]
    return versions() | {"data": "\n".join(bundled)}


def versions() -> Facts:
    """Return what a run is computed with: versions, threads and devices.

    >>> list(versions())
    ['minifcn', 'Python', 'NumPy', 'BLAS', 'threads', 'GPU']
    """
    cupy, found = probe_cuda()
    return {
        "minifcn": f"{__version__} in {Path(__file__).parent}",
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "NumPy": np.__version__,
        "BLAS": "\n".join(_blas_line(blas) for blas in _blas()) or "unknown to threadpoolctl",
        "threads": f"{num_threads()} (set MINIFCN_NUM_THREADS to change it)",
        "GPU": "\n".join([found, *gpus()]) if cupy else f"none: {found}",
    }


def processor() -> str:
    """Return what the processor is called; Python itself does not know it on Linux.

    >>> bool(processor())
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # another system
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def weight_file(path: str | Path) -> Facts:
    """Return what a weight file holds. Its tensors are not read.

    >>> weight_file("demo/fcn8s/best.safetensors")["model"]  # doctest: +SKIP
    """
    header = weights.read_header(path)
    numbers = sum(math.prod(shape) for shape in header.shapes.values())
    rule = header.preprocessing
    pixel = "pixel" if rule.scale == 1 else f"pixel / {1 / rule.scale:g}"
    return {
        "file": f"{path} ({Path(path).stat().st_size / 1e6:,.1f} MB)",
        "model": weights.title(header.config),
        "parameters": f"{numbers:,} numbers ({header.dtype}) in {len(header.shapes)} tensors",
        "classes": "\n".join(
            f"{name} {len(head.classes)}: {', '.join(head.classes)}".lstrip()
            for name, head in header.heads.items()
        ),
        "preprocessing": f"{rule.channel_order}, ({pixel} - mean) / std, mean {rule.mean}, "
        f"std {rule.std}",
        "origin": (header.origin or "not told")
        + (f"\nfrom a file with sha256 {header.source_sha256}" if header.source_sha256 else ""),
        "trained on": f"{len(header.trained_on):,} images" if header.trained_on else "not told",
        "written by": f"minifcn {header.minifcn}",
    }


def model(net: models.FCN | models.LateFusion | models.Classifier) -> Facts:
    """Return the size of a net and, of an FCN, the geometry.

    >>> from minifcn import models
    >>> model(models.fcn32s(4, "small"))["model"].partition(", widths")[0]
    'fcn32s(num_classes=4, backbone=small'
    """
    count, size = net.num_parameters(), sum(p.data.nbytes for p in net.parameters())
    facts = {
        "model": weights.title(net.config),
        "parameters": f"{count:,} ({size / 1e6:,.1f} MB)",
    }
    return facts | (_geometry(net) if isinstance(net, models.FCN) else {})


def _geometry(net: models.FCN) -> Facts:
    field = models.receptive_field_of([getattr(net, layer) for layer in net.trunk_names])
    skips = [
        f"{skip.tap} is scored by {skip.score} and added to {skip.upsample}; "
        f"{skip.tap if skip.crop_finer else skip.upsample} is cropped by {skip.offset[0]}"
        for skip in net.skips
    ]
    top, left = net.offset
    high, wide = margins(net, 0), margins(net, 1)
    return {
        "receptive field": f"{field} x {field} pixels, for a score at stride 32",
        "skips": "\n".join(skips) or "none",
        "crop": f"{net.last} is cropped by {top} at the top and {left} at the left",
        "tiles": (
            f"overlap by {high.overlap} rows and {wide.overlap} columns; the smallest have "
            f"{high.smallest} x {wide.smallest} pixels (height x width)"
        ),
    }


def memory_facts(net: Net, height: int, width: int) -> Facts:
    """Return how much memory a net is predicted to need for an image of some size.

    >>> list(memory_facts(models.fcn8s(4, "small"), 375, 500))
    ['inference', 'training step']
    """

    def line(need: memory.Memory, weights: str, arrays: str) -> str:
        total, *parts = (f"{size / 1e6:,.0f} MB" for size in (need.total, *need[:3]))
        return (
            f"{total} for an image of {height} x {width} pixels (height x width): {parts[0]} "
            f"{weights}, {parts[1]} {arrays} (at most, at {need.largest}), {parts[2]} buffers"
        )

    need, training = memory.inference(net, height, width), memory.training(net, height, width)
    return {
        "inference": line(need, "weights", "arrays"),
        "training step": line(training, "weights and momenta", "arrays and gradients"),
    }


def blas_warning() -> str | None:
    """Return a warning if OPENBLAS_CORETYPE makes OpenBLAS use other kernels than it would choose.

    What it would choose, only OpenBLAS itself knows: another process is asked, without the setting.
    """
    forced = os.environ.get("OPENBLAS_CORETYPE")
    here = [found["architecture"] for found in _blas() if "architecture" in found]
    if not forced or not here:
        return None
    code = (
        "import numpy, threadpoolctl\n"
        "for found in threadpoolctl.threadpool_info():\n"
        "    if found['user_api'] == 'blas': print(found.get('architecture', ''))"
    )
    environment = {n: value for n, value in os.environ.items() if n != "OPENBLAS_CORETYPE"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    free = answer.stdout.split()
    if free == here:
        return None
    return (
        f"OPENBLAS_CORETYPE={forced} makes OpenBLAS use its kernels for {', '.join(here)}; by "
        f"itself it would use those for {', '.join(free)}, which may be twice as fast: unset it"
    )


def _blas() -> list[dict]:
    return [found for found in threadpoolctl.threadpool_info() if found["user_api"] == "blas"]


def _blas_line(found: dict) -> str:
    kernels = f", kernels for {found['architecture']}" if "architecture" in found else ""
    threads = found["num_threads"]
    return (
        f"{found['internal_api']} {found['version'] or ''}{kernels}, {threads} "
        f"thread{'s' * (threads != 1)}"
    )
