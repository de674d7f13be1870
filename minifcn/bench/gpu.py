"""Timing on a GPU, and what a GPU is: the part of worker.py for sides that compute on one.

A library only puts work into the GPU's queue and goes on, so a clock beside the call measures
nothing. Marks ("events") are put into the queue between the calls instead; the GPU notes the time
when it comes by. The processor is not waited for within a block: what counts is how fast results
come, as in training, where the next step is prepared while this one is computed. Where the queue
runs empty, because a net is so small that calling takes longer than computing, the marks show that
too.

A process has one GPU, its first: `runner` hides the others.
"""

from __future__ import annotations

import gc
import itertools
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..backend import probe_cuda, require_cupy
from ..kernels.precision import use_precision

PRECISIONS = ("fp32", "tf32", "bf16")
# The element type with which CuPy's own product shows the rate. Tensor cores multiply both types of
# 16 bits at one rate; tf32 is taken for float32 in a process whose environment asks for it.
PRODUCTS = {"fp32": "float32", "tf32": "float32", "bf16": "float16"}
TF32 = {"CUPY_TF32": "1"}
WARM = 0.2  # seconds of untimed calls: the clock of a GPU that has slept needs a moment to rise
FEWEST_WARM = 3  # calls: memory has been given back, and is got again in the first ones
MOST_CALLS = 1000  # in a block
BEST_OF = 8
DRIVER = Path("/proc/driver/nvidia/version")

Answer = dict[str, Any]


class Gpu(Protocol):
    """A library's way to do what timing needs."""

    def computing(self) -> AbstractContextManager[None]:
        """Compute in this side's precision for a while."""

    def mark(self) -> Any:
        """Put a mark into the GPU's queue."""

    def milliseconds(self, first: Any, second: Any) -> float:
        """Return the time between two marks that the GPU has passed."""

    def wait(self) -> None:
        """Wait until the queue is empty."""

    def release(self) -> None:
        """Give memory back that is kept for later arrays."""

    def held(self) -> int:
        """Return the bytes of the GPU's memory that the library has, used or kept."""


class Cupy:
    """minifcn's side."""

    def __init__(self, precision: str = "fp32") -> None:
        self.precision, self.cupy = precision, require_cupy()
        self.pool = self.cupy.get_default_memory_pool()

    def computing(self) -> AbstractContextManager[None]:
        """Compute in this side's precision for a while."""
        return use_precision(self.precision)

    def mark(self) -> Any:
        """Put a mark into the GPU's queue."""
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def milliseconds(self, first: Any, second: Any) -> float:
        """Return the time between two marks that the GPU has passed."""
        return float(self.cupy.cuda.get_elapsed_time(first, second))

    def wait(self) -> None:
        """Wait until the queue is empty."""
        self.cupy.cuda.runtime.deviceSynchronize()

    def release(self) -> None:
        """Give memory back that is kept for later arrays."""
        self.pool.free_all_blocks()

    def held(self) -> int:
        """Return the bytes of the GPU's memory that the library has, used or kept."""
        return int(self.pool.total_bytes())


class Torch:
    """PyTorch's side, with cuDNN looking for its fastest algorithms.

    bf16 is set where something is computed (see torch_peer.py), tf32 for the whole process.
    """

    def __init__(self, precision: str = "fp32") -> None:
        import torch

        if not torch.cuda.is_available():
            raise ImportError(
                f"PyTorch {torch.__version__} sees no GPU: install a build of it for CUDA, as "
                "pytorch.org tells"
            )
        self.precision, self.torch = precision, torch

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in this side's precision for a while."""
        self.torch.backends.cudnn.benchmark = True
        self.torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        self.torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        yield

    def mark(self) -> Any:
        """Put a mark into the GPU's queue."""
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, first: Any, second: Any) -> float:
        """Return the time between two marks that the GPU has passed."""
        return float(first.elapsed_time(second))

    def wait(self) -> None:
        """Wait until the queue is empty."""
        self.torch.cuda.synchronize()

    def release(self) -> None:
        """Give memory back that is kept for later arrays."""
        self.torch.cuda.empty_cache()

    def held(self) -> int:
        """Return the bytes of the GPU's memory that the library has, used or kept."""
        return int(self.torch.cuda.memory_reserved())


def block(gpu: Gpu, run: Callable[[], Any], seconds: float) -> Answer:
    """Compute a task again and again for a while; return the median time of a call.

    Memory is given back afterwards, so that the sides that wait leave room for the one at work.
    """
    with gpu.computing():
        calls = min(MOST_CALLS, math.ceil(seconds / max(_warm(gpu, run, seconds), 1e-6)))
        milliseconds = _timed(gpu, run, calls)
    gc.collect()
    gpu.release()
    # Nobody tells what others do on the GPU: a disturbed block cannot be told from a quiet one.
    return {"seconds": statistics.median(milliseconds) / 1000, "calls": calls, "others": None}


def _warm(gpu: Gpu, run: Callable[[], Any], seconds: float) -> float:
    """Call a function untimed for a moment; return the seconds of the last call."""
    end = time.perf_counter() + min(WARM, seconds)
    for calls in itertools.count(1):
        start = time.perf_counter()
        run()
        gpu.wait()
        now = time.perf_counter()
        if calls >= FEWEST_WARM and now > end:
            break
    return now - start


def _timed(gpu: Gpu, run: Callable[[], Any], calls: int) -> list[float]:
    """Return the milliseconds of each of several calls, one right behind the other."""
    marks = [gpu.mark()]
    for _ in range(calls):
        run()
        marks.append(gpu.mark())
    gpu.wait()
    return [gpu.milliseconds(a, b) for a, b in itertools.pairwise(marks)]


def memory(gpu: Gpu, run: Callable[[], Any], before: int) -> Answer:
    """Return the bytes that a library has of the GPU's memory after a call, begun with none spare.

    Parameters and whatever else outlives a call are included, recordings among them, and what is
    lost between arrays; ``before`` is what it had for other sides when this one was not yet built.
    """
    with gpu.computing():
        for _ in range(FEWEST_WARM):  # what is recorded, is by then
            run()
        gc.collect()
        gpu.release()
        run()
        gpu.wait()
    held = gpu.held()
    gpu.release()
    return {"before": before, "peak": held, "reset": True}


def facts() -> Answer:
    """Return what the GPU and its software are; only ``"reason"`` where none can be used."""
    cupy, reason = probe_cuda()
    if cupy is None:
        return {"reason": reason}
    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    return {
        "GPU": properties["name"].decode(),
        "GPU memory": f"{properties['totalGlobalMem'] / 1e9:.0f} GB",
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "driver": driver_version(DRIVER.read_text("utf-8") if DRIVER.exists() else ""),
        "CUDA": f"{_dotted(runtime.runtimeGetVersion())}, "
        f"the driver's up to {_dotted(runtime.driverGetVersion())}",
        "CuPy": cupy.__version__,
    }


def driver_version(text: str) -> str:
    """Return the driver's version from what Linux says of it.

    >>> driver_version("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27")
    '580.65.06'
    """
    found = re.search(r"\b\d+\.\d+(\.\d+)*\b", text)
    return found[0] if found else "unknown"


def _dotted(version: int) -> str:
    """Return a version as people write it: 13.2 for 13020."""
    return f"{version // 1000}.{version % 1000 // 10}"


def ceilings(size: int, numbers: int, precisions: Sequence[str]) -> Answer:
    """Measure what bounds all works: products of square matrices (GFLOP/s), and a copy (GB/s)."""
    gpu = Cupy()
    cupy = gpu.cupy
    # Random numbers: a GPU multiplies ones with less power, and so at a higher clock.
    matrix = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    gflops = {}
    for precision in precisions:
        a = cupy.asarray(matrix).astype(PRODUCTS[precision])
        gflops[precision] = 2 * size**3 / _best(gpu, _product(a)) / 1e6
    source = cupy.ones(numbers, np.float32)
    target = cupy.empty_like(source)
    ms = _best(gpu, lambda: cupy.copyto(target, source))
    return {"gflops": gflops, "bandwidth": 2 * source.nbytes / ms / 1e6}


def _product(a: Any) -> Callable[[], Any]:
    return lambda: a @ a


def _best(gpu: Gpu, run: Callable[[], Any]) -> float:
    """Return the milliseconds of the fastest of a few calls."""
    _warm(gpu, run, WARM)
    return max(min(_timed(gpu, run, BEST_OF)), 1e-6)


LIBRARIES: dict[str, Callable[[str], Gpu]] = {"minifcn": Cupy, "torch": Torch}
