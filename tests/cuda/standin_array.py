"""The arrays of the stand-in for CuPy (see ``standin.py``), and what they count."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import standin_device as device
from standin_device import Device, counts, note, recorded, recording
from standin_memory import Memory

_file = json.loads(Path(__file__).with_name("cupy_names.json").read_text("utf-8"))
VERSION: str = _file["version"]
UFUNCS, OTHERS = set(_file["ufuncs"].split()), set(_file["others"].split())
FUNCTIONS: dict[str, str] = _file["functions"]
METHODS: dict[str, str] = _file["methods"]
TYPES = "?bhilqBHILQefdFD"
# What these do depends on numbers: they wait for the GPU to tell, say, how many are not zero.
WAITING = {
    *("argwhere", "asarray_chkfinite", "average", "bincount", "choose", "compress", "delete"),
    *("extract", "flatnonzero", "histogram", "histogram2d", "histogramdd", "in1d", "intersect1d"),
    *("isin", "mask_indices", "nanmax", "nanmin", "nonzero", "place", "ravel_multi_index"),
    *("setdiff1d", "setxor1d", "shares_memory", "trim_zeros", "union1d", "unique", "unique_all"),
    *("unique_counts", "unique_inverse", "unique_values", "unravel_index"),
    # Thrust, which sorts for CuPy, waits until all is sorted.
    *("argpartition", "argsort", "lexsort", "median", "msort", "nanmedian", "partition"),
    *("percentile", "quantile", "sort", "sort_complex"),
}
# These multiply by cuBLAS, which CuPy does not call while a graph is recorded.
MULTIPLYING = {"convolve", "correlate", "corrcoef", "cov", "dot", "einsum", "inner", "tensordot"}
MULTIPLYING |= {"matmul", "vdot"}
JOINING = {"column_stack", "concatenate", "dstack", "hstack", "stack", "vstack"}


class ndarray:  # noqa: N801 (CuPy's name)
    """An array on a GPU that is not there. ``on_cpu`` holds its numbers."""

    __slots__ = ("__weakref__", "_memory", "base", "on_cpu")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    on_cpu: np.ndarray
    base: ndarray | None

    def __init__(self, shape: Any, dtype: Any = float, *, order: str = "C") -> None:
        array = np.empty(shape, _dtype(dtype), order=order)
        array.reshape(-1, order="A").view(np.uint8)[...] = 255  # NaN: nobody may count on zeros
        self.on_cpu, self._memory, self.base = array, Memory(array), None

    # What it is.

    shape = property(lambda self: self.on_cpu.shape)
    strides = property(lambda self: self.on_cpu.strides)
    dtype = property(lambda self: self.on_cpu.dtype)
    ndim = property(lambda self: self.on_cpu.ndim)
    size = property(lambda self: self.on_cpu.size)
    itemsize = property(lambda self: self.on_cpu.itemsize)
    nbytes = property(lambda self: self.on_cpu.nbytes)
    device = property(lambda self: Device(self._memory.device))
    T = property(lambda self: view_of(self.on_cpu.T, self))

    @property
    def data(self) -> SimpleNamespace:
        """Return a pointer."""
        return SimpleNamespace(ptr=self.on_cpu.ctypes.data, device_id=self._memory.device)

    @property
    def flags(self) -> SimpleNamespace:
        """Return how the numbers lie in memory."""
        flags = self.on_cpu.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous,
            f_contiguous=flags.f_contiguous,
            fnc=flags.fnc,
            forc=flags.forc,
            owndata=self.base is None,
        )

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            raise NotImplementedError(f"the stand-in for CuPy has no ndarray.{name} yet")
        raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")

    def __len__(self) -> int:
        return len(self.on_cpu)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    # From and to the CPU.

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def get(
        self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True
    ) -> np.ndarray:
        """Return a copy in the computer's memory, in C or Fortran order: CuPy knows no other."""
        if order not in ("C", "F", "A"):
            raise ValueError(f"unsupported order: {order}")
        if not self.size:
            return np.empty(self.shape, self.dtype)
        note(to_cpu=1, waits=int(blocking))
        if out is not None:
            if (out.shape, out.dtype) != (self.shape, self.dtype) or not out.flags.forc:
                raise ValueError("get(out=) takes a contiguous array of the same shape and type")
            out[...] = self.on_cpu
            return out
        order = ("F" if self.flags.f_contiguous else "C") if order == "A" else order
        if not getattr(self.flags, f"{order.lower()}_contiguous"):
            counts.launches += 1  # it is put in order on the GPU first
        return np.array(self.on_cpu, order=order)

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        """Copy from the computer's memory."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if (arr.dtype, arr.shape) != (self.dtype, self.shape):
            raise TypeError(f"{arr.dtype} {arr.shape} cannot be set to {self.dtype} {self.shape}")
        if not self.flags.forc:
            raise RuntimeError("Cannot set to non-contiguous array")
        note(to_gpu=1, waits=int(stream is None))
        self.on_cpu[...] = arr

    def item(self) -> Any:
        """Return the only number."""
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self) -> Any:
        """Return the numbers in lists."""
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        """Return the bytes."""
        return self.get().tobytes(order)

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, form: str) -> str:
        return format(self.get(), form)

    def __reduce__(self) -> tuple[Any, ...]:
        return array, (self.get(),)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> ndarray:
        with self.device:
            return self.copy()

    # Copies and views.

    def astype(
        self, dtype: Any, order: str = "K", *, casting: str = "unsafe", copy: Any = True
    ) -> ndarray:
        """Return the numbers as another type."""
        found = self.on_cpu.astype(_dtype(dtype), order, casting, copy=bool(copy))
        if found is self.on_cpu:
            return self
        check_here(self)
        counts.launches += bool(found.size)
        recorded(lambda: np.copyto(found, self.on_cpu, casting))
        return fresh(found)

    def copy(self, order: str = "C") -> ndarray:
        """Return a copy on the current device."""
        if self._memory.device == device.current():
            return self.astype(self.dtype, order)
        if not self.flags.forc and order == "K":
            raise NotImplementedError("CuPy cannot copy non-contiguous array between devices.")
        counts.launches += 1
        return fresh(self.on_cpu.copy(order))

    def view(self, dtype: Any = None) -> ndarray:
        """Return a view, maybe of another type."""
        return view_of(self.on_cpu.view() if dtype is None else self.on_cpu.view(dtype), self)

    def fill(self, value: Any) -> None:
        """Set all elements to one number; CuPy looks whether it is 0."""
        if isinstance(value, ndarray):
            note(to_cpu=1, waits=1)
        self[...] = value.item() if isinstance(value, np.ndarray) else value

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        """Return a view of another shape where possible, else a copy."""
        found = _wrapped(self.on_cpu.reshape(*shape, order=order), [self])
        if found.base is None:
            recorded(lambda: np.copyto(found.on_cpu, self.on_cpu.reshape(*shape, order=order)))
        return found

    def transpose(self, *axes: Any) -> ndarray:
        """Return a view with the axes in another order."""
        return view_of(self.on_cpu.transpose(*axes), self)

    # Places.

    def __getitem__(self, key: Any) -> ndarray:
        plain, advanced = _index(key)
        if not advanced:
            return view_of(self.on_cpu[plain], self)
        check_here(self)
        found = _wrapped(self.on_cpu[plain], [])
        recorded(lambda: np.copyto(found.on_cpu, self.on_cpu[plain]))
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray):
            whole = isinstance(key, slice) and key == slice(None)
            if not whole or (value.shape, value.dtype) != (self.shape, self.dtype):
                raise TypeError("a NumPy array cannot be written into a CuPy array: move it first")
            self.set(value)
            return
        check_here(self)
        plain, _ = _index(key)
        if isinstance(value, ndarray):
            check_here(value)
            value = value.on_cpu
        elif not np.isscalar(value):
            raise TypeError(f"Unsupported type {type(value)}")
        counts.launches += bool(self.size)
        with np.errstate(all="ignore"):
            self.on_cpu[plain] = value
        recorded(lambda: self.on_cpu.__setitem__(plain, value))

    # Through NumPy's own names: np.exp(x) and np.sum(x).

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or ufunc.__name__ not in UFUNCS:
            return NotImplemented
        if "out" in options:
            (options["out"],) = options["out"]
        import standin

        return getattr(standin.cupy, ufunc.__name__)(*inputs, **options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if function.__module__ != "numpy" or function.__name__ not in FUNCTIONS:
            return NotImplemented
        import standin

        return getattr(standin.cupy, function.__name__)(*args, **options)


def _dtype(dtype: Any) -> np.dtype:
    found = np.dtype(dtype)
    if found.char not in TYPES:
        raise ValueError(f"Unsupported dtype {found}")
    return found


def fresh(array: Any) -> ndarray:
    """Return an array of the stand-in with memory of its own."""
    result = object.__new__(ndarray)
    _dtype(array.dtype)
    result.on_cpu, result._memory, result.base = array, Memory(array), None
    return result


def view_of(array: np.ndarray, of: ndarray) -> ndarray:
    result = object.__new__(ndarray)
    # What NumPy gives for one place is a number: here it stays an array, without axes.
    if not isinstance(array, np.ndarray):
        raise TypeError(f"a view of {of.shape} came out as a {type(array).__name__}")
    result.on_cpu, result._memory = array, of._memory
    result.base = of if of.base is None else of.base
    return result


def check_here(array: ndarray) -> None:
    """Refuse arrays of another device: CuPy reads them across, slowly, and warns, or cannot."""
    if array._memory.device != device.current():
        raise ValueError(
            f"The device where the array resides ({array._memory.device}) is different from the "
            f"current device ({device.current()}). Peer access is unavailable between them."
        )


def _plain(value: Any, found: list[ndarray]) -> Any:
    """Return an argument as NumPy takes it, and note the arrays in it."""
    if isinstance(value, ndarray):
        check_here(value)
        found.append(value)
        return value.on_cpu
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, list | tuple):
        return type(value)(_plain(one, found) for one in value)
    return value


def _wrapped(result: Any, sources: Sequence[ndarray]) -> Any:
    """Return a result of NumPy's as CuPy gives it: a view, or rows first in new memory."""
    if isinstance(result, tuple | list):
        return type(result)(_wrapped(one, sources) for one in result)
    array = np.asarray(result)  # NumPy turns what has no axes into a number; CuPy does not
    for source in sources:
        if array.size and np.may_share_memory(array, source.on_cpu):
            return view_of(array, source)
    counts.launches += bool(array.size)
    return fresh(np.asarray(array, order="C"))


def call(function: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]) -> Any:
    """Call a function of NumPy's on arrays of the stand-in."""
    found: list[ndarray] = []
    plain = [_plain(value, found) for value in args]
    given = {name: _plain(value, found) for name, value in options.items()}

    def compute() -> Any:
        with np.errstate(all="ignore"):  # a GPU warns of nothing
            return function(*plain, **given)

    result = compute()
    written = args[0] if result is None else options.get("out")  # None: of copyto
    if isinstance(written, ndarray):
        counts.launches += bool(written.size)
        recorded(compute)
        return written
    wrapped = _wrapped(result, found)
    if isinstance(wrapped, ndarray) and wrapped.base is None:
        recorded(lambda: np.copyto(wrapped.on_cpu, compute()))
    return wrapped


def refuse_unknown(name: str, known: str, options: dict[str, Any]) -> None:
    if unknown := set(options) - set(known.split()):
        raise TypeError(f"cupy.{name}() has no argument {', '.join(sorted(unknown))}")


def join(arrays: Sequence[ndarray]) -> None:
    """Count what joining arrays moves: of more than 8 small ones, CuPy sends a table of places."""
    if len(arrays) > 8 and sum(one.nbytes for one in arrays) < len(arrays) << 21:
        note(to_gpu=1)


def check_products(name: str) -> None:
    """Refuse CuPy's own products of matrices while a graph is recorded."""
    if name in MULTIPLYING and recording():
        raise NotImplementedError(
            "calling cuBLAS API during stream capture is currently unsupported"
        )


def _index(key: Any) -> tuple[Any, bool]:
    """Return an index as NumPy takes it, and whether arrays are in it: a copy is made then."""
    parts = key if isinstance(key, tuple) else (key,)
    plain: list[Any] = []
    advanced = False
    for part in parts:
        if isinstance(part, list | np.ndarray):
            part = array(part)
        if isinstance(part, ndarray):
            check_here(part)
            advanced = True
            if part.dtype == bool:
                note(waits=1)  # for the number of elements that are true
            plain.append(part.on_cpu)
        elif part is None or part is Ellipsis or isinstance(part, slice | int | np.integer):
            plain.append(part)
        else:
            raise IndexError(f"an index cannot be a {type(part).__name__}")
    # With "..." NumPy returns an array without axes where it would return a number.
    whole = advanced or any(part is Ellipsis for part in plain)
    return (*plain, *(() if whole else (Ellipsis,))), advanced


def array(
    obj: Any, dtype: Any = None, copy: Any = True, order: str | None = "K", ndmin: int = 0, **_: Any
) -> ndarray:
    """Return an array on the current device; ``order="K"`` of a NumPy array is C or Fortran."""
    if isinstance(obj, ndarray):
        if obj._memory.device != device.current():
            obj, copy = obj.copy(order or "K"), False
        return obj.astype(obj.dtype if dtype is None else dtype, order or "K", copy=copy)
    if isinstance(obj, list | tuple) and any(isinstance(one, ndarray) for one in obj):
        join(obj)
        return call(np.stack, (obj,), {}).astype(obj[0].dtype if dtype is None else dtype)
    if order in (None, "K", "A"):
        order = "F" if isinstance(obj, np.ndarray) and obj.flags.fnc else "C"
    found = np.array(obj, dtype, order=order, ndmin=ndmin)
    if found.ndim and found.size:
        note(to_gpu=1)
    else:
        counts.launches += found.size  # a number travels as an argument
    return fresh(found)
