"""Which array library holds an array, NumPy or CuPy, and how arrays move between the two.

The rest of minifcn never names CuPy: it asks ``xp_of(array)`` for the library that the array
belongs to and writes ``xp.maximum``, ``xp.matmul`` and so on. CuPy is imported when somebody asks
for a CUDA device (see `minifcn.gpu_probe`).
"""

from __future__ import annotations

import functools
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType, TracebackType
from typing import Any, NoReturn, TypeAlias

import numpy as np

from .gpu_probe import NOT_INSTALLED, probe_cuda

Array: TypeAlias = Any  # a numpy.ndarray or a cupy.ndarray
_HERE = nullcontext()
_NUMPY = np.ndarray, np.generic
# What most arguments are that are no arrays: this is asked some thousand times in a training step.
PLAIN = frozenset({type(None), bool, int, float, str, tuple})
# What to do if memory runs out: of an operation, and of a move of weights.
FEWER_IMAGES = "use fewer or smaller images at a time, or a net with less padding"
NARROWER_NET = "use a narrower net (--width), or another GPU: see nvidia-smi"


class Error(Exception):
    """The root of every error that bad input can cause; the command line prints it as one line."""


class DeviceError(Error, RuntimeError):
    """A device that is not there, or arrays of two devices in one operation."""


class DTypeError(Error, TypeError):
    """Element types that do not fit together, or do not fit the operation."""


class OperationError(Error):
    """An operation that failed while it computed; ``arrays`` are those it worked on."""

    arrays: tuple[Array, ...] = ()


class NotFiniteError(OperationError, FloatingPointError):
    """An operation whose result is not finite; raised in debugging mode alone."""


class OutOfMemoryError(OperationError, MemoryError):
    """Memory that an operation asked for and did not get."""


def xp_of(array: Array) -> ModuleType:
    """Return the module, ``numpy`` or ``cupy``, whose functions work on this array.

    >>> xp_of(np.zeros(3)).__name__
    'numpy'
    """
    return np if isinstance(array, _NUMPY) else sys.modules["cupy"]


def is_array(value: object) -> bool:
    """Tell whether a value is a NumPy or CuPy array (a Python number or list is not)."""
    if isinstance(value, _NUMPY):
        return True
    if type(value) in PLAIN:
        return False
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def device_of(array: Array) -> str:
    """Return where an array lies: ``"cpu"`` or, for example, ``"cuda:0"``.

    >>> device_of(np.zeros(3))
    'cpu'
    """
    return _name_of(gpu_of(array))


@functools.cache
def _name_of(gpu: int) -> str:
    return "cpu" if gpu < 0 else f"cuda:{gpu}"


def gpu_of(array: Array) -> int:
    """Return the number of the GPU that an array lies on, or -1 if it is on the CPU.

    >>> gpu_of(np.zeros(3))
    -1
    """
    return -1 if isinstance(array, _NUMPY) else array.data.device_id


def to_device(
    array: Array, device: str, name: str = "an array", advice: str = FEWER_IMAGES
) -> Array:
    """Return the array on ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; itself when it lies there.

    The error for too little memory has the name and the advice.

    Raises
    ------
    DeviceError
        If the device cannot be used; the message says why.
    OutOfMemoryError
        If the array does not fit there.
    """
    if device == "cpu":
        return array if isinstance(array, np.ndarray) else to_numpy(array)
    number = device_number(device)
    if gpu_of(array) == number:
        return array
    cupy = require_gpu(device)
    move = Operation(f"the move to cuda:{number}", {name: array}, advice=advice)
    move.place = cupy.cuda.Device(number)
    with move:
        # CuPy moves arrays that lie row by row. Seen in memory order, channels-last ones do.
        # It copies them to pinned memory first, and does not wait until the GPU has fetched them.
        axes = memory_order(array)
        moved = cupy.asarray(array.transpose(axes), order="C")
        return moved.transpose(undo(axes))


def to_numpy(array: Array) -> np.ndarray:
    """Return the array in the computer's own memory, as a NumPy array of the same memory order."""
    if is_numpy(array):
        return np.asarray(array)
    axes = memory_order(array)
    return array.transpose(axes).get().transpose(undo(axes))


def memory_order(array: Array) -> list[int]:
    """Return the axes from the one with the largest step in memory to the one with the smallest.

    >>> memory_order(np.zeros((2, 4, 4, 3)).transpose(0, 3, 1, 2))
    [0, 2, 3, 1]
    """
    return sorted(range(array.ndim), key=array.strides.__getitem__, reverse=True)


def undo(axes: list[int]) -> list[int]:
    """Return the order of axes that takes ``transpose(axes)`` back.

    >>> undo([0, 2, 3, 1])
    [0, 3, 1, 2]
    """
    return sorted(range(len(axes)), key=axes.__getitem__)


def on_device(array: Array) -> AbstractContextManager[Any]:
    """Return a context in which new arrays lie where this one does.

    CuPy makes them on the thread's *current* GPU, and computes with arrays of no other.
    """
    return other_device(array) or _HERE


def other_device(array: Array) -> Any:
    """Return the GPU that an array lies on, if it is not the thread's current one; else None.

    To make a GPU the current one takes longer than to ask which one is.
    """
    number = gpu_of(array)
    here = number < 0 or number == sys.modules["cupy"].cuda.get_device_id()
    return None if here else array.device


def overwrite(array: Array, values: Any) -> None:
    """Put a number, or the numbers of an array on any device, into an array, where that lies.

    >>> x = np.zeros(2)
    >>> overwrite(x, np.array([1.0, 2.0]))
    >>> x.tolist()
    [1.0, 2.0]
    """
    with on_device(array):
        array[...] = to_device(values, device_of(array)) if is_array(values) else values


def is_numpy(array: Array) -> bool:
    """Tell whether an array (or NumPy scalar) belongs to NumPy."""
    return isinstance(array, _NUMPY)


def choose_device(name: str) -> tuple[str, str]:
    """Return the device that is meant by a name, after trying it, and what should be said of it.

    ``"auto"`` is the first GPU where one can compute, else the CPU. There is nothing to say of a
    CPU, unless CuPy is there: then somebody wanted a GPU.

    Raises
    ------
    DeviceError
        If the device cannot be used; the message says why.

    Examples
    --------
    >>> choose_device("cpu")
    ('cpu', '')
    """
    if name == "auto":
        cupy, found = probe_cuda()
        if cupy:
            return "cuda:0", f"on cuda:0: {found}"
        return "cpu", "" if found == NOT_INSTALLED else f"on the CPU: {found}"
    to_device(np.zeros(1), name)
    return name, "" if name == "cpu" else f"on {name}: {probe_cuda()[1]}"


def device_number(device: str) -> int:
    """Return N of ``"cuda:N"``, 0 of ``"cuda"``; any other name is an error.

    >>> device_number("cuda:1")
    1
    """
    if not (found := re.fullmatch("cuda(:[0-9]{1,9})?", device)):
        raise DeviceError(
            f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:N', or in a command 'auto'"
        )
    return int((found[1] or ":0")[1:])


def require_cupy(device: str = "cuda") -> ModuleType:
    """Return the module ``cupy``, or raise a DeviceError that says why it cannot be used."""
    cupy, reason = probe_cuda()
    if cupy is None:
        raise DeviceError(f"device {device!r} is not available: {reason}")
    return cupy


def require_gpu(device: str) -> ModuleType:
    """Return the module ``cupy``, or raise a DeviceError: also if there is no GPU of this number.

    ``device`` is ``"cuda"`` or ``"cuda:N"``.
    """
    number, cupy = device_number(device), require_cupy(device)
    count = cupy.cuda.runtime.getDeviceCount()
    if number >= count:
        there = ", ".join(f"cuda:{n}" for n in range(count))
        raise DeviceError(f"device {device!r} is not available: there is only {there}")
    return cupy


def checksum(value: Any) -> int:
    """Return a checksum of an array's bytes, to catch edits of it; 0 if it is not an array."""
    return zlib.crc32(to_numpy(value).tobytes()) if is_array(value) else 0


def may_share_memory(a: Array, b: Array) -> bool:
    """Tell whether two arrays may overlap in memory; those on different devices never do.

    >>> x = np.zeros(4)
    >>> may_share_memory(x, x[1:]), may_share_memory(x[:2], x[2:])
    (True, False)
    """
    return gpu_of(a) == gpu_of(b) and bool(xp_of(a).may_share_memory(a, b))


def debugging() -> bool:
    """Tell whether the environment asks for it: ``MINIFCN_DEBUG=1``.

    Then the program waits for the GPU after each operation, and checks what came out: see
    `minifcn.autograd.debug`.
    """
    return os.environ.get("MINIFCN_DEBUG", "0") not in ("", "0")


@contextmanager
def for_a_while(settings: object, **changed: Any) -> Iterator[None]:
    """Change attributes, such as those that each thread has for itself, until the end of a block.

    >>> state = ModuleType("state")
    >>> state.fast = True
    >>> with for_a_while(state, fast=False):
    ...     state.fast
    False
    >>> state.fast
    True
    """
    before = {name: getattr(settings, name) for name in changed}
    settings.__dict__.update(changed)
    try:
        yield
    finally:
        settings.__dict__.update(before)


def check_one_kind(operation: str, arrays: dict[str, Array], debug: bool = False) -> Operation:
    """Return the context to compute in, if all arrays lie on one device and floats have one type.

    Raises
    ------
    DeviceError, DTypeError
        With the names of two arrays that differ. Nothing is ever converted silently: a transfer
        costs more than most operations, and a stray float64 array doubles the work of a net.
    """
    types = {array.dtype for array in arrays.values() if array.dtype.kind == "f"}
    if len(types) < 2 and len({gpu_of(array) for array in arrays.values()}) < 2:
        return Operation(operation, arrays, debug)  # as nearly always: this is asked at each one
    devices: dict[str, str] = {}  # to the name of the first array there
    dtypes: dict[str, str] = {}
    for name, array in arrays.items():
        devices.setdefault(device_of(array), name)
        if array.dtype.kind == "f":
            dtypes.setdefault(str(array.dtype), name)
    for found, error in ((devices, DeviceError), (dtypes, DTypeError)):
        if len(found) > 1:
            kinds = " and ".join(f"{name} ({kind})" for kind, name in found.items())
            raise error(f"{operation} got {kinds}: {_conversion(found.values(), arrays)}")
    raise AssertionError("the arrays differ in neither")


def _conversion(names: Iterable[str], arrays: dict[str, Array]) -> str:
    """Say how one of some arrays can be made like the others; a NumPy number has no ``.to``."""
    numbers = [name for name in names if isinstance(arrays[name], np.generic)]
    return f"use float({numbers[0]})" if numbers else "convert one of them with .to(...)"


class Operation:
    """The context in which an operation computes: on the device of its arrays.

    Errors of memory get its name. It gives a function to pass the result through, which in
    debugging mode waits for the GPU, and raises an error that names the operation if it failed or
    if the result is not finite. Besides arrays, the first excepted, there may be tensors, or
    anything else, which messages then leave out. ``advice`` says what to do if memory runs out.

    >>> with Operation("log", {"x": np.zeros(3)}, debug=True) as checked:
    ...     y = checked(np.full(3, -np.inf))
    Traceback (most recent call last):
    minifcn.backend.NotFiniteError: log made inf of x (3,) from 0 to 0
    """

    __slots__ = ("advice", "debug", "given", "name", "place")

    def __init__(
        self, name: str, given: Mapping[str, Any], debug: bool = False, advice: str = FEWER_IMAGES
    ) -> None:
        self.name, self.given, self.debug, self.advice = name, given, debug, advice
        first = next(iter(given.values()), None)  # this decides, as all are on one device
        self.place: Any = None if first is None else other_device(first)

    def __enter__(self) -> Callable[[Array], Array]:
        if self.place is not None:
            self.place.__enter__()
        return self._checked if self.debug else _unchanged

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.place is not None:
            self.place.__exit__(kind, error, traceback)
        if isinstance(error, OperationError):
            if not str(error).startswith(self.name):  # of an operation within this one
                error.add_note(f"in {self.name}")
            error.arrays += tuple(self._arrays().values())
        elif isinstance(error, MemoryError):
            self._complain(error)

    def _arrays(self) -> dict[str, Array]:
        """Return the arrays, those of tensors too."""
        held = {n: v if is_array(v) else getattr(v, "data", None) for n, v in self.given.items()}
        return {name: array for name, array in held.items() if is_array(array)}

    def _complain(self, error: MemoryError) -> NoReturn:
        """Raise an error that says what needed how much memory, and how much there is."""
        arrays, free = self._arrays(), ""
        first = next(iter(arrays.values()), None)
        gpu = self.place or (None if first is None or is_numpy(first) else first.device)
        if gpu is not None:
            left, total = (size / 1e6 for size in gpu.mem_info)
            free = f"; of cuda:{gpu.id}, {left:,.0f} MB of {total:,.0f} MB are free"
        shapes = " and ".join(f"{name} {array.shape}" for name, array in arrays.items())
        asked = str(error).strip().rstrip(".") or "no more memory"
        told = OutOfMemoryError(f"{self.name} of {shapes}: {asked}{free}: {self.advice}")
        told.arrays = tuple(arrays.values())
        raise told from error

    def _checked(self, output: Any) -> Any:
        """Return the result, once it is there and all of it is finite."""
        if not is_array(output):
            return output  # a tensor: its numbers were checked where they were made
        if not is_numpy(output):
            try:
                output.device.synchronize()
            except Exception as error:  # CuPy has several types
                raise DeviceError(f"{self.name} failed on the GPU: {error}") from error
        xp = xp_of(output)
        with on_device(output):  # not where its operands are, if this is the move to another GPU
            if output.dtype.kind != "f" or xp.isfinite(output).all():
                return output
            kind = "nan" if xp.isnan(output).any() else "inf"
        given = " and ".join(f"{n} {_range(array)}" for n, array in self._arrays().items())
        told = NotFiniteError(f"{self.name} made {kind} of {given}")
        told.arrays = tuple(self._arrays().values())
        raise told


def _unchanged(output: Array) -> Array:
    return output


def _range(array: Array) -> str:
    """Return the shape of an array, and its smallest and largest number."""
    if not array.size:
        return f"{array.shape}"
    with on_device(array):
        return f"{array.shape} from {array.min().item():.6g} to {array.max().item():.6g}"
