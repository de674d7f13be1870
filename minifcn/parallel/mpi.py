"""Ranks that send each other messages by MPI; imported only where an MPI launcher is at work."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLong
from functools import partial
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI

from .._version import __version__
from ..autograd import Tensor
from ..backend import Array, is_array, is_numpy, on_device, overwrite, to_numpy
from ..kernels import threads
from . import buckets
from .launch import Launched, patience
from .ranks import ParallelError, Ranks, numbers
from .voice import end_all

T = TypeVar("T")
WAITING = 77  # the tag of the message "I am waiting, too"
ROLL_CALL = 5.0  # seconds in which that message must arrive


class Mpi(Ranks):
    """Several processes, started by an MPI launcher such as ``mpiexec -n 4``: see `Ranks`.

    One thread, and no other, calls MPI, one call after the other in the order in which they were
    asked for. So sums can be made while this thread computes, and no waiting is without end:
    after MINIFCN_PATIENCE seconds (1800, if not given) it is an error that names those missing.

    Parameters
    ----------
    told
        What the launcher says; it must be what MPI says.

    Raises
    ------
    ParallelError
        If it is not, or the ranks were started in different ways.
    """

    def __init__(self, told: Launched) -> None:
        self.comm = MPI.COMM_WORLD
        self.rank, self.number, self.waited = self.comm.rank, self.comm.size, 0.0
        if self.number != told.number:
            raise ParallelError(
                f"mpiexec started {told.number} processes, and mpi4py finds {self.number}: it uses "
                f"{MPI.Get_library_version().split(chr(10))[0].strip()}, mpiexec is of another MPI:"
                " use the mpiexec beside this Python, or pip install --force-reinstall mpi4py mpich"
            )
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise ParallelError(
                "this MPI was built without threads, and sums are made in one: install another, or "
                "pip install --force-reinstall mpi4py mpich"
            )
        sys.excepthook = partial(end_all, sys.excepthook)  # of a script; a command has its own way
        self.patience = patience()
        self.messenger = ThreadPoolExecutor(1, thread_name_prefix="minifcn-mpi")
        self._nccl: Any = None
        where = (socket.gethostname(), os.getpid())
        self.places = self.gather(where)  # (machine, process number) of each rank
        here = [rank for rank, (host, _) in enumerate(self.places) if host == where[0]]
        self.local = here.index(self.rank)  # which of those on this machine
        share_cores(len(here))
        self.check_alike("the command", sys.argv[1:])
        self.check_alike("minifcn's version", __version__)

    def device(self, name: str) -> str:
        """Return "cpu", or a GPU for each rank on this machine."""
        return name if name == "cpu" else f"cuda:{self.local}"

    def told(self) -> str:
        """Say which processes work together: what ends one of them may name its number alone.

        For example: ``2 processes of 1 thread: rank 0 is 4256 on vm, rank 1 is 4257 on vm``.
        """
        each = (f"rank {rank} is {pid} on {host}" for rank, (host, pid) in enumerate(self.places))
        count = threads.num_threads()
        words = f"{count} thread{'s' * (count != 1)}"
        return f"{self.number} processes of {words}: {', '.join(each)}"

    def _ask(self, call: Callable[[], T]) -> T:
        """Have a call of MPI made, and wait for what it returns."""
        return self._result(self.messenger.submit(call))

    def _result(self, future: Future[T]) -> T:
        """Wait for the messenger, but not for ever."""
        try:
            return future.result(self.patience)
        except TooLong:
            raise ParallelError(
                f"rank {self.rank} has waited {self.patience:g} s for {self._missing()}: ended "
                "(a longer time: MINIFCN_PATIENCE=SECONDS)"
            ) from None

    def _missing(self) -> str:
        """Return which ranks do not wait: all that do tell each other so."""
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:  # the messenger is inside of MPI
            return "other ranks"
        others = [rank for rank in range(self.number) if rank != self.rank]
        for rank in others:
            self.comm.Isend(np.zeros(0), rank, WAITING)
        time.sleep(min(ROLL_CALL, self.patience))
        silent = [rank for rank in others if not self.comm.Iprobe(rank, WAITING)]
        told = [f"process {self.places[r][1]} on {self.places[r][0]}" for r in silent]
        return f"{numbers(silent)} ({', '.join(told)})" if silent else "a message that got lost"

    def sum(self, value: Any) -> Any:
        """Return the sum over all ranks of an array or a number: the same bits on each."""
        if is_array(value) and not is_numpy(value):
            with on_device(value):
                total = value.copy()
            self._gpu_of(value).start_sum(total)()
            return total
        total = np.array(value)
        self._ask(lambda: self.comm.Allreduce(MPI.IN_PLACE, total))
        return total if is_array(value) else total.item()

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order; they must be picklable."""
        return self._ask(lambda: self.comm.allgather(value))

    def first(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0 alone; return to all what it returned, or raise its error."""
        sent, error = b"", None
        if self.leads:
            try:
                value = function()
                sent = pickle.dumps(value)
            except Exception as raised:
                error = raised
        got, failed = self._ask(lambda: self.comm.bcast((sent, error and str(error))))
        if error:
            raise error
        if failed:
            raise ParallelError(f"rank 0: {failed}")
        return value if self.leads else pickle.loads(got)

    def spread(self, arrays: Iterable[Array]) -> None:
        """Overwrite arrays with those of rank 0."""
        for array in arrays:
            whole = np.ascontiguousarray(to_numpy(array))
            self._ask(partial(self.comm.Bcast, whole))
            if not self.leads:
                overwrite(array, whole)

    def backward(self, loss: Tensor, parameters: Iterable[Tensor], last: bool = True) -> None:
        """Call ``loss.backward()``, and sum the parameters' gradients over all ranks."""
        if last:
            buckets.backward(loss, parameters, buckets.Buckets(self._start_sum))
        else:
            loss.backward()

    def _start_sum(self, array: Array) -> Callable[[], None]:
        """Begin to sum an array (n,) in place; return a function that waits for the sum."""
        if not is_numpy(array):
            return self._gpu_of(array).start_sum(array)
        future = self.messenger.submit(self.comm.Allreduce, MPI.IN_PLACE, array)

        def wait() -> None:
            start = time.perf_counter()
            self._result(future)
            self.waited += time.perf_counter() - start

        return wait

    def _gpu_of(self, array: Array) -> Any:
        """Return what sums arrays on this rank's GPU."""
        if self._nccl is None:
            from .nccl import Nccl

            self._nccl = Nccl(self.rank, self.number, array)
        return self._nccl

    def check_alike(self, what: str, value: Any) -> None:
        """Raise a `ParallelError` that names the ranks whose value is not that of rank 0."""
        values = self.gather(value)
        others = [rank for rank, each in enumerate(values) if each != values[0]]
        if others:
            raise ParallelError(
                f"{what} is not the same on all ranks: {values[0]!r} on rank 0, "
                f"{values[others[0]]!r} on {numbers(others)}"
            )


def share_cores(processes: int) -> None:
    """Let this process use its part of the cores, if several run on this machine."""
    if "MINIFCN_NUM_THREADS" not in os.environ:
        # Where the launcher gave each process cores of its own, they are shared out already.
        bound = threads.num_threads() < (os.cpu_count() or 1)
        share = threads.num_threads() // (1 if bound else processes)
        os.environ["MINIFCN_NUM_THREADS"] = str(max(1, share))
        threads.num_threads.cache_clear()
    for library in threads.blas().lib_controllers:
        library.set_num_threads(threads.num_threads())
