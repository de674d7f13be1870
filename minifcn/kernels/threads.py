"""One pool of threads for all kernels, with BLAS at one thread inside it.

NumPy lets go of Python's interpreter lock inside a copy or a matrix product, so plain threads run
these side by side. BLAS has threads of its own; two pools would fight over the cores, so while ours
works, BLAS is told to use one thread, and told its old number afterwards.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..backend import Array, Error, is_numpy, xp_of

RECYCLED = 32 << 20  # bytes; the C library recycles smaller blocks by itself
UNUSED = 2  # references to a buffer without arrays: the list's, and that of asking
ALONE = 6e7  # operations: half a millisecond


class ThreadCountError(Error, ValueError):
    """MINIFCN_NUM_THREADS holds something else than a positive whole number."""


class ThreadError(Error, RuntimeError):
    """The system refuses to start one more thread."""


class _Here(threading.local):
    inside = False  # this thread is working on a share of a parallel_for

    def __init__(self) -> None:
        self.workspaces: dict[tuple[str, Any], np.ndarray] = {}


_here = _Here()
_lock = threading.Lock()
_large: list[np.ndarray] = []  # all buffers of RECYCLED bytes and more that were handed out


@functools.cache
def num_threads() -> int:
    """Return how many threads work: MINIFCN_NUM_THREADS, or one per processor we may use."""
    text = os.environ.get("MINIFCN_NUM_THREADS", "")
    if text and not (text.isdigit() and int(text) > 0):
        raise ThreadCountError(f"MINIFCN_NUM_THREADS={text!r} must be a whole number from 1 up")
    if text:
        return int(text)
    ours = getattr(os, "sched_getaffinity", None)  # where the system tells which we may use
    return len(ours(0)) if ours else os.cpu_count() or 1


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, num_threads() - 1), thread_name_prefix="minifcn")


@functools.cache
def blas() -> Any:
    """Return what sets the number of threads of BLAS."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def starting_threads() -> Iterator[None]:
    """Turn Python's error about a thread that cannot be started into one that tells what to do.

    >>> with starting_threads():
    ...     raise RuntimeError("can't start new thread")
    Traceback (most recent call last):
    minifcn.kernels.threads.ThreadError: the system refuses to start one more thread, as it does \
where memory (ulimit -v) or the number of processes (ulimit -u) is limited: raise the limit, or \
use fewer threads: MINIFCN_NUM_THREADS=1
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        raise ThreadError(
            "the system refuses to start one more thread, as it does where memory (ulimit -v) or "
            "the number of processes (ulimit -u) is limited: raise the limit, or use fewer "
            "threads: MINIFCN_NUM_THREADS=1"
        ) from error


def _after_fork() -> None:
    """Forget the pool in a forked child: its threads exist in the parent only."""
    global _lock
    _pool.cache_clear()
    _lock, _one_blas_thread.users = threading.Lock(), 0


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_after_fork)


class _OneBlasThread:
    """Limits BLAS to one thread: the first to enter does so, the last to leave sets it back."""

    def __init__(self) -> None:
        self.users = 0
        self.before: list[tuple[Any, int]] = []  # each library, and how many threads it had

    def __enter__(self) -> None:
        with _lock:
            self.users += 1
            if self.users == 1:
                self.before = [(each, each.num_threads) for each in blas().lib_controllers]
                for library, _ in self.before:
                    library.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        with _lock:
            self.users -= 1
            if self.users == 0:
                for library, threads in self.before:
                    library.set_num_threads(threads)


_one_blas_thread = _OneBlasThread()


def parallel_for(
    count: int, body: Callable[[int], None], data: Array, operations: float = math.inf
) -> None:
    """Call ``body(i)`` for i = 0 ... count - 1, on several threads; return when all are done.

    ``operations`` tells about how many additions and multiplications that is: to wake a thread for
    less than ALONE takes longer than to work alone.

    Each i must write to memory of its own: then the result does not depend on the number of
    threads. BLAS uses one thread meanwhile, so cut the work into two shares at the least. A call
    from inside a share runs right here; so does everything if ``data`` lies on a GPU, which is
    parallel by itself.
    """
    if _here.inside or not is_numpy(data):
        for i in range(count):
            body(i)
        return
    todo = iter(range(count))  # next() of an iterator is atomic: threads share it safely

    def work() -> None:
        _here.inside = True
        try:
            with np.errstate(all="ignore"):  # infinities are IEEE's business; the loss is looked at
                for i in todo:
                    body(i)
        finally:
            _here.inside = False

    with _one_blas_thread:
        threads = 1 if operations < ALONE else min(num_threads(), count)
        helpers: list[Future[None]] = []
        try:
            with starting_threads():
                for _ in range(threads - 1):
                    helpers.append(_pool().submit(work))
            work()
        finally:
            # A helper that never started has nothing left to do; nobody returns before the others.
            started = [helper for helper in helpers if not helper.cancel()]
            for helper in started:
                helper.exception()  # waits, and raises nothing: the others have to end, too
            for helper in started:
                helper.result()


def workspace(name: str, shape: tuple[int, ...], like: Array) -> Array:
    """Return this thread's reusable array, of any content; it grows when needed.

    A fresh array of a few MB costs as much in page faults as the copy that fills it. On a GPU,
    CuPy's own memory pool does the same work.
    """
    size, dtype = math.prod(shape), like.dtype
    if not is_numpy(like):
        return xp_of(like).empty(shape, dtype)
    buffer = _here.workspaces.get((name, dtype))
    if buffer is None or buffer.size < size:
        buffer = _here.workspaces[name, dtype] = aligned((size,), dtype)
    return buffer[:size].reshape(shape)


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Return an array, of any content, that begins at a multiple of 64 bytes.

    From 32 MiB on, the memory of a former one is taken if nobody uses it any more: the C library
    would give it back to the system, which clears each page before it is used again.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8) if size < RECYCLED else _recycled(size + 64)
    start = -buffer.ctypes.data % 64
    return np.ndarray(shape, dtype, buffer, start)


def _recycled(size: int) -> np.ndarray:
    """Return a buffer that no array refers to; if none is of about the size, forget the free ones.

    So no more memory is held than the arrays of one moment took, and what fits them next time.
    """
    with _lock:
        free = [i for i in range(len(_large)) if sys.getrefcount(_large[i]) == UNUSED]
        for i in free:
            if size <= _large[i].size <= 1.25 * size:
                return _large[i]
        for i in reversed(free):
            del _large[i]
        buffer = np.empty(size, np.uint8)
        _large.append(buffer)
        return buffer
