"""Processes that make batches, and the shared memory through which the batches come back.

The processes are asked in turn, and answer in turn: the order of the batches does not depend on
which process is fast, and the number of batches in memory is bounded.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import threadpoolctl

from minifcn.data.ahead import in_turn
from minifcn.data.dataset import DataError

Made = TypeVar("Made")

TIME_TO_END = 5.0  # seconds that a worker has for it when told so, before it is killed
ALIGNMENT = 64  # bytes; arrays in shared memory begin at multiples
GONE = (EOFError, ConnectionError)  # how a pipe tells that its end is closed
GUARD = (
    "a worker process could not start; its own message stands above. Worker processes import the "
    "script that needs them: put what the script does under 'if __name__ == \"__main__\":', or "
    "choose workers=0"
)


class LostWorkerError(DataError):
    """A process that ended before its time, or could not begin."""


def by_processes(
    make: Callable[[int], Made], numbers: Iterable[int], workers: int, prefetch: int
) -> Generator[Made, None, None]:
    """Yield ``make(number)`` for each number in turn, made by processes ahead of their use.

    The processes are started afresh, not copied from this one, which has threads: ``make`` and all
    that belongs to it is sent to each of them, once. They end with the last number, or when the
    iterator is closed. Ctrl-C reaches this process only, which then ends them.

    Parameters
    ----------
    make
        A function of a module, or a method of an object that can be pickled, as can what it
        returns.
    numbers
        May be without end.
    workers
        How many processes, 1 or more.
    prefetch
        So many results are made or wait in each process, at most; 1 or more.

    Raises
    ------
    DataError
        If ``make`` cannot be sent.
    LostWorkerError
        If a process ends before its time. Errors of ``make`` are raised when their turn comes, with
        their own type and message.
    """
    try:
        task = pickle.dumps(make)
    except Exception as error:  # pickle lets through whatever an object's own methods raise
        raise DataError(
            f"the data set cannot be sent to worker processes: {error}: define its class and "
            "functions at the top of a module, or choose workers=0"
        ) from error
    crew: list[Worker] = []
    try:
        for _ in range(workers):
            crew.append(Worker(task, prefetch))
        turn = itertools.cycle(crew)
        yield from in_turn(lambda n: next(turn).begin(n), numbers, workers * prefetch)
    finally:
        for worker in crew:  # first tell all, then wait for each
            if worker.end.alive:  # not yet ended because the program ends
                worker.process.terminate()
        for worker in crew:
            worker.end()


class Worker:
    """A process that makes what it is asked for, one after the other.

    Results come back through ``prefetch`` pieces of shared memory, each as large as the largest
    result so far. The first results, and all where there is no room for such memory (containers
    often have 64 MB), come through a pipe, which takes three times as long.

    Raises
    ------
    LostWorkerError
        If the process cannot be started.
    """

    def __init__(self, task: bytes, prefetch: int) -> None:
        # Both start from a clean process; the first is faster, but not to be had on Windows.
        methods = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in methods else "spawn"
        context = multiprocessing.get_context(method)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(  # type: ignore[attr-defined]
            target=work, args=(theirs, task), daemon=True
        )
        try:
            self.process.start()
        except (*GONE, RuntimeError):  # the latter in a script that is just imported by a worker
            raise LostWorkerError(GUARD) from None
        finally:
            theirs.close()  # so that the pipe ends when the process does
        self.rooms = [Room() for _ in range(prefetch)]
        self.free = deque(range(prefetch))
        self.heard = False
        # At the end of the program, too, should nobody close the iterator.
        self.end = weakref.finalize(self, _end, self.process, self.connection, self.rooms)

    def begin(self, number: int) -> Callable[[], Any]:
        """Ask for a result; return a function that waits for it."""
        place = self.free.popleft()
        with contextlib.suppress(*GONE):  # if so, then whoever waits for the result is told
            self.connection.send((number, place, self.rooms[place].name))
        return lambda: self.finish(place)

    def finish(self, place: int) -> Any:
        """Wait for the result that was asked for first, and return it or raise its error."""
        room = self.rooms[place]
        try:
            content, sizes, shared = self.connection.recv()
            self.heard = True
            if shared:
                arrays = room.take(sizes)
            else:
                arrays = [np.empty(size, np.uint8) for size in sizes]
                for array in arrays:
                    self.connection.recv_bytes_into(array.data)
                room.enlarge(sizes)
        except GONE:
            raise self.lost() from None
        self.free.append(place)
        result = pickle.loads(content, buffers=arrays)
        if isinstance(result, Exception):
            raise result
        return result

    def lost(self) -> LostWorkerError:
        """Return the error that tells how the process ended."""
        self.process.join(TIME_TO_END)
        code = self.process.exitcode
        if not self.heard and code == 1:
            return LostWorkerError(GUARD)
        end = f"exit code {code}"
        why = "if memory has run out, choose fewer workers or smaller batches"
        if code is not None and code < 0:
            end = f"killed by signal {-code}, {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            why = (
                "Linux ends processes so when memory runs out (dmesg tells): choose fewer workers "
                f"(--workers), smaller batches, or prefetch=1 (it was {len(self.rooms)})"
            )
        number = self.process.pid
        return LostWorkerError(f"worker process {number} ended before its time ({end}): {why}")


def _end(process: Any, connection: Connection, rooms: Sequence[Room]) -> None:
    """End a process, and give back what was shared with it."""
    process.terminate()
    process.join(TIME_TO_END)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()
    connection.close()
    for room in rooms:
        room.close()


class Room:
    """Shared memory for one result, as large as needed. Owned by the process that takes results."""

    def __init__(self) -> None:
        self.memory: SharedMemory | None = None

    @property
    def name(self) -> str | None:
        """By which the worker finds it; None if there is none."""
        return self.memory.name if self.memory else None

    def take(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """Return copies of the arrays that were stored, as bytes."""
        assert self.memory is not None
        assert self.memory.buf is not None
        return [
            np.frombuffer(self.memory.buf, np.uint8, size, offset).copy()
            for offset, size in zip(_offsets(sizes), sizes, strict=False)
        ]

    def enlarge(self, sizes: Sequence[int]) -> None:
        """Make room for arrays of these sizes, and a quarter more, unless memory is short."""
        self.close()
        wanted = _offsets(sizes)[-1] * 5 // 4
        if not wanted:
            return
        memory = None
        try:
            memory = SharedMemory(create=True, size=wanted)
            file = Path("/dev/shm", memory.name)
            if file.exists():  # Linux: memory that is not there would kill whoever writes to it
                with file.open("r+b") as opened:
                    os.posix_fallocate(opened.fileno(), 0, wanted)
        except OSError:
            if memory:
                memory.close()
                memory.unlink()
            return  # results go on coming through the pipe
        self.memory = memory

    def close(self) -> None:
        """Give the memory back."""
        if self.memory:
            self.memory.close()
            self.memory.unlink()
            self.memory = None


def _offsets(sizes: Sequence[int]) -> list[int]:
    """Return where in a room each of some arrays begins, and where the last ends."""
    whole = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    return [0, *itertools.accumulate(whole)]


def work(connection: Connection, task: bytes) -> None:
    """Make what is asked for until nobody asks any more: what a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rooms: dict[int, SharedMemory] = {}
    make: Callable[[int], Any] | None = None
    # The processors are the other process's: it computes, this one reads.
    with threadpoolctl.threadpool_limits(1), contextlib.suppress(*GONE):
        while True:
            number, place, name = connection.recv()
            try:
                make = make or _unpacked(task)
                result = make(number)
            except Exception as error:  # of any kind: it is raised where the result is waited for
                result = _portable(error)
            _send(connection, result, _room(rooms, place, name))


def _unpacked(task: bytes) -> Callable[[int], Any]:
    try:
        make: Callable[[int], Any] = pickle.loads(task)
    except Exception as error:
        raise DataError(
            f"the data set cannot be rebuilt in a worker process: {error}: define its class and "
            "functions in a module, not in a notebook or at a prompt, or choose workers=0"
        ) from error
    return make


def _room(rooms: dict[int, SharedMemory], place: int, name: str | None) -> SharedMemory | None:
    """Return the shared memory of a name, and let go of what was at its place before."""
    known = rooms.get(place)
    if known and known.name != name:
        known.close()
        del rooms[place]
    if name and place not in rooms:
        rooms[place] = SharedMemory(name)
    return rooms.get(place)


def _send(connection: Connection, result: Any, room: SharedMemory | None) -> None:
    """Send a result: its arrays through the room if they fit, all else through the pipe."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    sizes = [array.nbytes for array in arrays]
    offsets = _offsets(sizes)
    memory = room.buf if room else None
    shared = memory is not None and offsets[-1] <= len(memory)
    if memory is not None and shared:
        for offset, array in zip(offsets, arrays, strict=False):
            memory[offset : offset + array.nbytes] = array
    connection.send((content, sizes, shared))
    if not shared:
        for array in arrays:
            connection.send_bytes(array)


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent, with a note of where it arose."""
    error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = type(error).__name__
        return DataError(f"{kind} in a worker process: {error}")
    return error
