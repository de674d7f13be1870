"""Sums over the GPUs of several ranks, by NVIDIA's NCCL: thin, and measured nowhere yet."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ..backend import Array, device_of, xp_of
from .ranks import ParallelError


class Nccl:
    """The GPUs of all ranks, one each.

    Sums are made on a stream of their own: the GPU's queue of computing is not held up, and waits
    where it needs a sum. The program itself waits for neither.

    Parameters
    ----------
    rank, number
        As of `minifcn.parallel.Ranks`.
    like
        An array on this rank's GPU.

    Raises
    ------
    ParallelError
        If NCCL is missing.
    """

    def __init__(self, rank: int, number: int, like: Array) -> None:
        self.cuda = xp_of(like).cuda
        with like.device:
            try:
                distributed = importlib.import_module("cupyx.distributed")
                self.comm = distributed.NCCLBackend(number, rank, use_mpi=True)
            except (ImportError, AttributeError, RuntimeError) as error:
                raise ParallelError(
                    f"sums over GPUs need NCCL, which cannot be used ({error}): "
                    "pip install nvidia-nccl-cu13 (or nvidia-nccl-cu12)"
                ) from error
            self.stream = self.cuda.Stream(non_blocking=True)
        self.device = device_of(like)

    def start_sum(self, array: Array) -> Callable[[], None]:
        """Begin to sum an array (n,) in place, once it is computed; return what waits for that."""
        with array.device:
            self.stream.wait_event(self.cuda.get_current_stream().record())
            self.comm.all_reduce(array, array, "sum", self.stream)
            done = self.stream.record()

        def wait() -> None:
            with array.device:  # each GPU has a current stream of its own
                self.cuda.get_current_stream().wait_event(done)

        return wait
