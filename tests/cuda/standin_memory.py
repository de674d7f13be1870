"""The stand-in's devices, as far as it is about memory: how much there is, and who keeps it.

There are two devices, "cuda:0" and "cuda:1", whose memory is the computer's own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import on_cpu

DEVICES = 2
CAPACITY = 80 << 30  # bytes of a device
ROUNDING = 512  # CuPy's pool hands out multiples of so many bytes


class OutOfMemoryError(MemoryError):
    """More memory was asked for than there is, or than a pool may use."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited})."
        )


class _Here(threading.local):
    device = 0  # that this thread works on
    pool: MemoryPool | None = None  # where new arrays take their memory; None is CuPy's default


here = _Here()


def current() -> int:
    """Return the number of the device that this thread works on."""
    return here.device


class Pool:
    """The memory of one device: what arrays no longer use is kept for the next ones.

    It takes memory from another pool, or from the device. What it keeps is lost if it is dropped.
    """

    def __init__(self, device: int, base: Pool | None = None) -> None:
        self.device, self.base = device, base
        self.used = self.free = self.limit = 0
        self._lock = threading.RLock()  # a block may be given back while another is taken

    total = property(lambda self: self.used + self.free)

    def take(self, size: int) -> int:
        """Return how many bytes were taken, for an array of a size."""
        block = -(-size // ROUNDING) * ROUNDING
        with self._lock:
            try:
                self._grow(block)
            except OutOfMemoryError:
                self.give_back()  # as CuPy does before it gives up
                self._grow(block)
            self.free, self.used = self.free - block, self.used + block
        return block

    def _grow(self, block: int) -> None:
        more = max(0, block - self.free)
        if self.limit and self.total + more > self.limit:
            raise OutOfMemoryError(block, self.total, self.limit)
        if self.base is not None:
            self.base.take(more)
        elif more > CAPACITY - taken[self.device]:
            raise OutOfMemoryError(block, self.total)
        else:
            taken[self.device] += more
        self.free += more

    def give(self, block: int) -> None:
        with self._lock:
            self.used, self.free = self.used - block, self.free + block

    def give_back(self) -> None:
        """Return what is kept to where it came from."""
        with self._lock:
            free, self.free = self.free, 0
            if self.base is not None:
                self.base.give(free)
            else:
                taken[self.device] -= free


taken = [0] * DEVICES  # bytes of each device
pools = [Pool(device) for device in range(DEVICES)]  # CuPy's default ones


class MemoryPool:
    """CuPy's view of some pools: that of the current device."""

    def __init__(self, allocator: Any = None, pools: list[Pool] | None = None) -> None:
        below = allocator.__self__ if allocator else None
        self._pools = pools or [Pool(d, below and below._pools[d]) for d in range(DEVICES)]

    def malloc(self, size: int) -> Any:
        raise NotImplementedError("the stand-in's arrays take memory from the current pool only")

    def used_bytes(self) -> int:
        return self._pools[current()].used

    def total_bytes(self) -> int:
        return self._pools[current()].total

    def free_bytes(self) -> int:
        return self._pools[current()].free

    def get_limit(self) -> int:
        return self._pools[current()].limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        if (size is None) == (fraction is None):
            raise ValueError("set_limit takes one of size= and fraction=")
        self._pools[current()].limit = int(CAPACITY * fraction) if size is None else size

    def free_all_blocks(self, stream: Any = None) -> None:
        self._pools[current()].give_back()


default = MemoryPool(pools=pools)


@contextmanager
def using_allocator(allocator: Any) -> Iterator[None]:
    """Let arrays of this thread take memory from another pool for a while: ``pool.malloc``."""
    before, here.pool = here.pool, allocator.__self__
    try:
        yield
    finally:
        here.pool = before


class Memory:
    """Where an array and its views lie; given back to its pool when the last of them is gone."""

    def __init__(self, array: np.ndarray) -> None:
        self.device, self.block, self.bounds = current(), 0, (0, 0)
        self.pool = (here.pool or default)._pools[self.device]
        self.block = self.pool.take(array.nbytes)
        self.bounds = np.lib.array_utils.byte_bounds(array)
        on_cpu.reachable[self.bounds[0]] = array.nbytes

    def __del__(self) -> None:
        on_cpu.reachable.pop(self.bounds[0], None)
        self.pool.give(self.block)
