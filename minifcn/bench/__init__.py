"""Benchmarks: minifcn's speed and memory, beside other libraries doing the same work.

    from minifcn import bench

    report = bench.run(["small64"], against=["torch"])
    print(report.results[0].ours.timing.ms)

`run` measures; works.py lists what can be measured and sides.py with whom; measure.py has the
method, load.py how disturbances are found; worker.py runs in processes of its own and computes.
"""

from .process import WorkerError
from .results import Report, Result, SideResult
from .runner import DifferentResultsError, Observer, Settings, run
from .sides import PEERS
from .works import WORKS, BenchError, Case, Work

__all__ = [
    "PEERS",
    "WORKS",
    "BenchError",
    "Case",
    "DifferentResultsError",
    "Observer",
    "Report",
    "Result",
    "Settings",
    "SideResult",
    "Work",
    "WorkerError",
    "run",
]
