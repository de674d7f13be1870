"""What a program asks of a GPU, recorded once and asked for again at once: CUDA graphs.

To start a kernel takes Python some 50 microseconds. A training step starts hundreds, and a fast GPU
computes a small net's in less time than it takes to start them. But each step starts the same ones,
with the same arrays in the same places. So they are recorded in a graph; after that, one call makes
the GPU do all of it.

Between two replays only numbers in memory may change, never the program: neither shapes nor places,
and no number that Python computes. `Recorded` copies the arguments to where the recorded kernels
look for them; `from_cpu` does the same for numbers that the CPU makes anew each time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...backend import Array, Error, debugging, for_a_while, gpu_of, is_numpy, on_device, xp_of
from .. import precision
from . import cublas, is_plain

USUAL = 2  # calls with the same shapes that run as usual before one is recorded
most_before: dict[int, int] = {}  # bytes that CuPy had of each GPU when a recording began
_given_up: deque[tuple[Any, Any]] = deque()  # GPUs and pools of recordings that are no more
_tidying = threading.Lock()


class RecordingError(Error, RuntimeError):
    """Something in a function cannot be recorded."""


class _State(threading.local):
    recorded: Recorded | None = None  # what this thread is recording
    usual = False  # whether all calls run as usual for now


_state = _State()


class Recorded:
    """A function of arrays that is replayed on a GPU, once it was called often enough.

    The first calls with arrays of some shapes run as usual: kernels are compiled, and functions
    called with new shapes each time are never recorded. Then a call is recorded, and from there on
    the function is not called any more, until a shape changes. On a CPU it always is.

    The results lie in memory of the recording: each call overwrites those of the call before.

    Parameters
    ----------
    function
        Of arrays on one GPU; returns a sequence of arrays. It must not ask for a number on the GPU,
        and must do the same each time (in each precision, and with the same settings).
    places
        Returns arrays that the function uses beside its arguments, such as a net's weights. What is
        in them may change, but where they lie may not: if it does, all is recorded anew.
    settings
        Returns what else decides what the function does, such as which layers learn: if it
        changes, all is recorded anew, too.

    Raises
    ------
    RecordingError
        If something cannot be recorded, such as CuPy's own products of matrices.
        ``MINIFCN_GRAPH=0`` lets every call run as usual, and so does ``MINIFCN_DEBUG=1``.

    Examples
    --------
    >>> double = Recorded(lambda x: [2 * x])
    >>> double(np.ones(2))[0].tolist()
    [2.0, 2.0]
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Array]],
        places: Callable[[], Sequence[Array]] = tuple,
        settings: Callable[[], Sequence[Any]] = tuple,
    ) -> None:
        self.function, self.places, self.settings = function, places, settings
        self._give_up: Callable[[], object] = lambda: None
        self.close()

    def close(self) -> None:
        """Give back the memory of a recording; the next calls run as usual again.

        What somebody still holds of the results stays as it is, and so does its memory.
        """
        self.seen: Any = None  # shapes, places and settings of the last call
        self.times = 0  # that these came one after the other
        self.graph: Any = None
        self.inputs: list[Array] = []
        self.outputs: Sequence[Array] = ()
        self.changing: list[tuple[Array, Callable[[], np.ndarray]]] = []
        self.workspace: Any = None
        self._give_up()
        _tidy()

    def __call__(self, *arrays: Array) -> Sequence[Array]:
        """Return what the function returns; the same arrays each time, once it is recorded."""
        if is_numpy(arrays[0]) or not _wanted():
            return self.function(*arrays)
        key: list[Any] = [(gpu_of(a), a.shape, a.strides, a.dtype.char) for a in arrays]
        key += [(a.data.ptr, a.strides) for a in self.places()]
        key += [precision.current(), *self.settings()]
        if key != self.seen:
            self.close()
            self.seen = key
        self.times += 1
        xp = xp_of(arrays[0])
        with on_device(arrays[0]):
            if self.times <= USUAL:
                return self.function(*arrays)
            if self.graph is None:
                self._record(xp, arrays)
            for place, array in zip(self.inputs, arrays, strict=True):
                xp.copyto(place, array)
            for place, make in self.changing:
                xp.copyto(place, xp.asarray(make()))
            self.graph.launch()
        return self.outputs

    def _record(self, xp: Any, arrays: Sequence[Array]) -> None:
        """Call the function; the GPU takes down what it should do, and does nothing yet."""
        _tidy()
        gpu, everything = xp.cuda.Device(), xp.get_default_memory_pool()
        most_before[gpu.id] = max(most_before.get(gpu.id, 0), everything.total_bytes())
        everything.free_all_blocks()  # the recording needs as much, of its own
        # What the function gives back to this pool, only the function takes from it again: so
        # nobody else's arrays get into the memory that replays write to. The pool itself takes
        # from CuPy's usual one, whose limit so holds for both.
        pool = xp.cuda.MemoryPool(xp.cuda.get_allocator())
        finalizer = weakref.finalize(self, _given_up.append, (gpu, pool))
        finalizer.atexit = False
        self._give_up = finalizer
        # Of this thread; made now, so not in the recording's memory, and kept, though it may end.
        self.workspace = cublas.workspace(xp)
        stream = xp.cuda.Stream(non_blocking=True)
        with xp.cuda.using_allocator(pool.malloc):
            self.inputs = [xp.empty_like(array) for array in arrays]  # in their memory order
            with stream:
                _state.recorded = self
                stream.begin_capture()
                try:
                    self.outputs = self.function(*self.inputs)
                except BaseException as error:
                    _abandon(stream)
                    self.close()
                    if "captur" in str(error).lower():  # CuPy and CUDA have several types
                        raise _refused(error) from error
                    raise
                finally:
                    _state.recorded = None
                try:
                    self.graph = stream.end_capture()
                except Exception as error:  # CuPy has several types
                    self.close()
                    raise _refused(error) from error


def _tidy() -> None:
    """Free the memory of recordings that are no more, but for what somebody holds of their results.

    CuPy does not free a pool that is merely dropped.
    """
    with _tidying:
        for _ in range(len(_given_up)):
            gpu, pool = _given_up.popleft()
            with gpu:
                pool.free_all_blocks()
                if pool.total_bytes():
                    _given_up.append((gpu, pool))


def from_cpu(xp: Any, make: Callable[[], np.ndarray], like: np.ndarray) -> Array:
    """Return on the GPU what ``make`` returns: at each replay anew, if this is being recorded.

    ``like`` has the shape and the type of it: while it is recorded, ``make`` is not called.
    """
    recorded = _state.recorded
    if recorded is None:
        return xp.asarray(make())
    place = xp.empty(like.shape, like.dtype)
    recorded.changing.append((place, make))
    return place


def as_usual() -> contextlib.AbstractContextManager[None]:
    """Let calls in this thread run as usual: who looks at layers while they compute needs that."""
    return for_a_while(_state, usual=True)


def _wanted() -> bool:
    wanted = os.environ.get("MINIFCN_GRAPH", "1") != "0"
    # CuPy's own products, which `plain` asks for, cannot be recorded.
    return wanted and not (_state.usual or debugging() or is_plain())


def _refused(error: BaseException) -> RecordingError:
    return RecordingError(
        f"this cannot be recorded as a CUDA graph: {error}: products of matrices must be of "
        "float32 and not of stacks (F.matmul, nn.Linear), and nothing may be asked from the GPU "
        "or moved to it (.item(), if, print): set MINIFCN_GRAPH=0 to do without"
    )


def _abandon(stream: Any) -> None:
    """Stop recording after an error, which is raised then; what was recorded is of no use."""
    with contextlib.suppress(Exception):  # because of the error, this fails, too
        stream.end_capture()
