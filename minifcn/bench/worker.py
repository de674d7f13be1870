"""A process that computes one side, or several, when it is asked to.

Started as ``python -m minifcn.bench.worker``, it reads one JSON object per line from its standard
input and answers each with one on its standard output; see the functions in `ACTIONS`. It ends
where its input does. While another process is measured this one sleeps: it waits for a line.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import threadpoolctl

from .._version import __version__
from ..kernels.heap import keep_freed_memory
from ..process_memory import forget_most, most_resident, resident
from . import gpu, ours, peers, torch_peer
from .inputs import sample
from .load import Others
from .ours import Builder, Tasks
from .sides import OURS
from .works import COMMON, NETS

STARTS: dict[str, Callable[[int], str]] = {
    OURS: lambda threads: __version__,
    "torch": torch_peer.start,
    **peers.STARTS,
}
BUILDERS: dict[str, dict[str, Builder]] = {
    OURS: ours.BUILDERS,
    "torch": torch_peer.BUILDERS,
    **{name: {COMMON: step} for name, step in peers.STEPS.items()},
}
WARM = 0.05  # seconds to compute untimed at the start of a block: others have emptied the caches
LONG = 0.5  # a call of so many seconds fills the caches by itself

Answer = dict[str, Any]
_built: dict[str, Tasks] = {}
_gpus: dict[str, gpu.Gpu] = {}  # of the sides that compute on one
_longest: dict[str, float] = {}  # seconds that a call took in a side's last block
_memory: dict[str, int] = {}
_needed: dict[str, dict[str, Answer]] = {}  # of a GPU's memory, by a side's tasks


def hello(peer: str, threads: int, keep_memory: bool = False) -> Answer:
    """Import a library, tell it how many threads to use, and return its version."""
    if keep_memory:
        keep_freed_memory()
    version = STARTS[peer](threads)
    return {"version": version, "python": platform.python_version(), "pid": os.getpid()}


def build(
    side: str, peer: str, how: dict[str, str], kind: str, settings: dict, calls: int
) -> Answer:
    """Make a case ready, in place of the one before; compute each task ``calls`` times.

    Returns, for each task, what it has to compute at least, and numbers from its first results.
    """
    drop(side)
    _memory["before"] = resident()
    if how.get("device", "cpu") != "cpu":
        _gpus[side] = gpu.LIBRARIES[peer](how["precision"])
        _gpus[side].release()
        held_before = _gpus[side].held()
    computing = _gpus[side].computing() if side in _gpus else nullcontext()
    with computing:
        tasks = _built[side] = BUILDERS[peer][kind](settings, how)
        gc.collect()
        _memory["reset"] = forget_most()
        checks = {name: [sample(task.run()) for _ in range(calls)] for name, task in tasks.items()}
    if side in _gpus:
        _gpus[side].release()  # others are built next
        if kind in NETS:  # now: what is built later would count as well
            _needed[side] = {
                name: gpu.memory(_gpus[side], task.run, held_before) for name, task in tasks.items()
            }
    return {
        "flops": {name: task.flops for name, task in tasks.items()},
        "pieces": {name: task.pieces for name, task in tasks.items()},
        "checks": checks,
    }


def block(side: str, task: str, seconds: float) -> Answer:
    """Compute a task again and again for a while; return the median time of a call."""
    run, others = _built[side][task].run, Others()
    if side in _gpus:
        return gpu.block(_gpus[side], run, seconds)
    if _longest.get(side, 0.0) < LONG:
        _calls(run, min(WARM, seconds / 3))
    times = _calls(run, seconds)
    _longest[side] = max(times)
    return {
        "seconds": statistics.median(times),
        "calls": len(times),
        "others": others.processors(),
    }


def _calls(run: Callable[[], Any], seconds: float) -> list[float]:
    """Call a function until so many seconds have passed; return the time of each call."""
    times = []
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        times.append(now - start)
        if now > end:
            return times


def memory(side: str = "", task: str = "") -> Answer:
    """Return the bytes in use before the case was built, and the most since; 0 if unknown.

    That is the whole process; on a GPU, it is what a side's task needs.
    """
    if side in _gpus:
        return _needed[side][task]
    return {**_memory, "peak": most_resident()}


def drop(side: str) -> Answer:
    """Forget a case."""
    _built.pop(side, None)
    _longest.pop(side, None)
    gc.collect()
    if side in _gpus:
        _gpus.pop(side).release()
    return {}


def peak(size: int, threads: int) -> Answer:
    """Return the best GFLOP/s of NumPy's product of two square float32 matrices."""
    a, b = np.ones((2, size, size), np.float32)
    c, times, others = np.empty_like(a), [], Others()
    with threadpoolctl.threadpool_limits(threads, user_api="blas"):
        for _ in range(12):
            start = time.perf_counter()
            np.matmul(a, b, out=c)
            times.append(time.perf_counter() - start)
    gflops = 2 * size**3 / min(times) / 1e9
    return {"gflops": gflops, "others": others.processors(), "blas": _blas()}


def _blas() -> list[Answer]:
    keys = ("internal_api", "version", "architecture", "threading_layer", "num_threads")
    found = (lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas")
    return [{key: lib.get(key) for key in keys} for lib in found]


ACTIONS: dict[str, Callable[..., Answer]] = {
    action.__name__: action
    for action in (hello, build, block, memory, drop, peak, gpu.facts, gpu.ceilings)
}


def main() -> None:
    """Answer requests until there are no more."""
    # Libraries may print: only answers go to the pipe, all else to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = ACTIONS[request.pop("do")](**request)
        except Exception as error:  # it is the asking process that has to deal with it
            traceback.print_exc()
            answer = {
                "error": f"{type(error).__name__}: {error}",
                "missing": isinstance(error, ImportError),
            }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
