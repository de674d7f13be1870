"""Training and measuring in several processes at once, on one machine or many.

Each process, a *rank*, has the whole net and learns from its share of every batch. The gradients
are added up over all ranks before a step, so that all take the same step: N ranks do what one does
with batches N times as large as each of them gets. `Ranks` is what the rest of the package asks;
`join` returns it. Messages between processes are other libraries' business: MPI between CPUs, NCCL
between GPUs.
"""

from .launch import join, launched
from .ranks import ALONE, ParallelError, Ranks
from .voice import leave, one_voice

__all__ = ["ALONE", "ParallelError", "Ranks", "join", "launched", "leave", "one_voice"]
