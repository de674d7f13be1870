"""What the stand-in for CuPy counts, and its devices, streams and events.

Everything is done at once, so streams and events have nothing to keep in order: they are there to
be counted.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import Any

from standin_memory import (
    CAPACITY,
    DEVICES,
    MemoryPool,
    OutOfMemoryError,
    current,
    default,
    here,
    pools,
    taken,
    using_allocator,
)


@dataclass
class Counts:
    """What was asked of the GPU."""

    launches: int = 0  # of CuPy's own kernels: about one for each operation on arrays
    products: int = 0  # of matrices
    kernels: int = 0  # of ours
    to_gpu: int = 0  # transfers
    to_cpu: int = 0
    waits: int = 0  # times that the program waited for the GPU
    places: list[str] = field(default_factory=list)  # in the source, where it moved data or waited

    @property
    def started(self) -> int:
        """All that was started on the GPU: each costs a few microseconds of the CPU."""
        return self.launches + self.products + self.kernels


counts = Counts()


@contextmanager
def counting() -> Iterator[Counts]:
    """Count for a while: the object holds the numbers after the ``with`` block."""
    before, seen = replace(counts), Counts()
    first = len(counts.places)
    try:
        yield seen
    finally:
        for name in ("launches", "products", "kernels", "to_gpu", "to_cpu", "waits"):
            setattr(seen, name, getattr(counts, name) - getattr(before, name))
        seen.places = counts.places[first:]


def note(**what: int) -> None:
    """Count transfers and waits, and remember from where in minifcn they were asked for."""
    for name, number in what.items():
        setattr(counts, name, getattr(counts, name) + number)
    if recording():
        for moved, way in {"to_gpu": "H2D", "to_cpu": "D2H"}.items():
            if moved in what:
                raise RuntimeError(
                    f"the current stream is capturing, so {way} transfers are disallowed"
                )
        raise CUDARuntimeError(
            "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
        )
    frame: Any = sys._getframe(1)
    callers: list[str] = []
    while frame is not None and len(callers) < 4:
        if (name := frame.f_globals.get("__name__", "")).startswith("minifcn"):
            callers.append(f"{name}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    asked = ", ".join(name for name, number in what.items() if number)
    counts.places.append(f"{asked}: {' < '.join(callers) or 'not in minifcn'}")


class CUDARuntimeError(RuntimeError):
    """What CUDA's runtime complains of."""


class _Recording(threading.local):
    work: list[Any] | None = None  # what a CUDA graph will do, while one is recorded


_recording = _Recording()


class Device:
    """A GPU: ``with Device(1): ...`` makes it the one that this thread works on."""

    def __init__(self, device: int | Device | None = None) -> None:
        self.id = current() if device is None else int(getattr(device, "id", device))
        self._before: list[int] = []

    def use(self) -> Device:
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        here.device = self.id
        return self

    def __enter__(self) -> Device:
        before = current()
        self.use()
        self._before.append(before)
        return self

    def __exit__(self, *exception: object) -> None:
        here.device = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def synchronize(self) -> None:
        note(waits=1)

    compute_capability = "90"

    @property
    def mem_info(self) -> tuple[int, int]:
        return CAPACITY - taken[self.id], CAPACITY


def recording() -> bool:
    """Tell whether a graph is being recorded."""
    return _recording.work is not None


def recorded(again: Callable[[], Any]) -> bool:
    """Take down what a graph has to do, while one is recorded; tell whether one is.

    What is recorded should not be done at once. CuPy's own operations are, all the same: new arrays
    come out of them.
    """
    if _recording.work is None:
        return False
    _recording.work.append(again)
    return True


class Graph:
    """What was recorded."""

    def __init__(self, work: list[Callable[[], Any]]) -> None:
        self._work = work

    def launch(self, stream: Any = None) -> None:
        counts.launches += 1
        for again in self._work:
            again()


class Stream:
    """A queue of work, which is done as soon as it is put there."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self._before: list[Stream] = []
        self.non_blocking = non_blocking
        self.ptr = id(self) if non_blocking else 0

    def __enter__(self) -> Stream:
        self._before.append(_streams.stream)
        return self.use()

    def __exit__(self, *exception: object) -> None:
        _streams.stream = self._before.pop()

    def use(self) -> Stream:
        _streams.stream = self
        return self

    def synchronize(self) -> None:
        note(waits=1)

    def begin_capture(self, mode: int | None = None) -> None:
        if not self.non_blocking:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: a non-blocking stream can")
        _recording.work = []

    def end_capture(self) -> Graph:
        work, _recording.work = _recording.work, None
        if work is None:
            raise CUDARuntimeError("cudaErrorIllegalState: nothing is being recorded")
        return Graph(work)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        event.check()

    done = True


class Event:
    """A moment in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, **other: bool) -> None:
        self.at: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.at = time.perf_counter()

    def check(self) -> None:
        if self.at is None:
            raise CUDARuntimeError("cudaErrorInvalidResourceHandle: the event was never recorded")

    def synchronize(self) -> None:
        self.check()
        note(waits=1)

    done = True


Stream.null = Stream()


class _Streams(threading.local):
    stream = Stream.null


_streams = _Streams()


def _elapsed(start: Event, end: Event) -> float:
    """Return the milliseconds between two events."""
    for event in (start, end):
        event.check()
    return 1000 * (end.at - start.at)  # type: ignore[operator]


def _properties(device: int) -> dict[str, Any]:
    return {
        "name": b"a stand-in (no GPU)",
        "totalGlobalMem": CAPACITY,
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 132,
        "warpSize": 32,
    }


def _not_there(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise NotImplementedError(f"the stand-in for CuPy has no cupy.cuda.{name} yet")


def module() -> ModuleType:
    """Return what stands for ``cupy.cuda``."""
    cuda = ModuleType("cupy.cuda")
    runtime = ModuleType("cupy.cuda.runtime")
    runtime.__dict__.update(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: DEVICES,
        getDevice=current,
        setDevice=lambda device: Device(device).use() and None,
        getDeviceProperties=_properties,
        deviceSynchronize=lambda: note(waits=1),
        memGetInfo=lambda: Device().mem_info,
        runtimeGetVersion=lambda: 13000,
        driverGetVersion=lambda: 13000,
        __getattr__=lambda name: (
            _not_there(f"runtime.{name}") if name[0] != "_" else _not_there(name)
        ),
    )
    cuda.__dict__.update(
        Device=Device,
        Stream=Stream,
        Event=Event,
        MemoryPool=MemoryPool,
        get_allocator=lambda: (here.pool or default).malloc,
        using_allocator=using_allocator,
        get_current_stream=lambda: _streams.stream,
        get_elapsed_time=_elapsed,
        get_device_id=current,
        is_available=lambda: True,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=runtime,
        __getattr__=_not_there,
    )
    return cuda


def reset() -> None:
    """Forget counts and limits, and go back to the first device."""
    counts.__dict__.update(Counts().__dict__)
    here.device, _streams.stream = 0, Stream.null
    for pool in pools:
        pool.limit = 0
