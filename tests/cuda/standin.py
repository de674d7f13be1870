"""A module that acts as CuPy where there is no GPU: its arrays lie in the computer's own memory.

It is stricter than CuPy. Arrays of NumPy and of CuPy do not mix, nothing turns into a NumPy array
by itself, names and arguments that CuPy 14 lacks are refused (``cupy_names.json``), and so is what
CuPy does but should not be asked for: arrays of a device that is not the current one, places in an
array that do not exist (CuPy starts again from the front), cuRAND and other libraries that minifcn
does not install. Memory that nobody wrote to holds NaN. New arrays have the memory order that CuPy
gives them: rows first, whatever the order of what they were computed from. All that takes time on a
GPU is counted (`counting`); our kernels run through ``on_cpu.py``.

What it cannot show: speed, the order of what runs at the same time, and how the GPU's own libraries
round.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import on_cpu
import standin_device as device
from standin_array import (
    FUNCTIONS,
    JOINING,
    OTHERS,
    UFUNCS,
    VERSION,
    WAITING,
    array,
    call,
    check_here,
    check_products,
    fresh,
    join,
    ndarray,
    refuse_unknown,
    view_of,
)
from standin_device import counting, counts, note, recorded
from standin_operators import matmul, ufunc_of

from minifcn.kernels.cuda import cublas

__all__ = ["counting", "counts", "cupy", "installed", "ndarray"]

ON_CPU = {  # these answer without asking the GPU
    *("broadcast_shapes", "can_cast", "iscomplexobj", "isrealobj", "isscalar", "issubdtype"),
    *("min_scalar_type", "ndim", "promote_types", "result_type", "shape", "size"),
}
OTHER_LIBRARIES = {"random", "fft", "linalg", "polynomial", "testing"}  # cuRAND, cuFFT, cuSOLVER


def _function_of(name: str) -> Callable[..., Any]:
    function = getattr(np, name)

    def checked(*args: Any, **options: Any) -> Any:
        refuse_unknown(name, FUNCTIONS[name], options)
        if name in WAITING:
            note(waits=1)
        if name in JOINING:
            join(args[0])
        if name == "full" and isinstance((*args[1:], options.get("fill_value"))[0], ndarray):
            note(to_cpu=1, waits=1)  # as `ndarray.fill`
        check_products(name)
        if name in ON_CPU:
            return function(*(getattr(value, "on_cpu", value) for value in args), **options)
        return call(function, args, options)

    return checked


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: Any = None, blocking: bool = False
) -> ndarray:
    """Return the array itself where it will do."""
    return array(a, dtype, copy, order)


def asnumpy(
    a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True
) -> np.ndarray:
    """Return the numbers in a NumPy array."""
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    """Return the array with rows first, and at least one axis."""
    found = a.astype(a.dtype if dtype is None else dtype, "C", copy=False)
    return found if found.ndim else found.reshape(1)


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: Any = None) -> None:
    """Copy into an array, where a mask is true."""
    call(np.copyto, (dst, src), {"casting": casting} | ({} if where is None else {"where": where}))


def concatenate(tup: Sequence[ndarray], axis: Any = 0, out: Any = None, **options: Any) -> ndarray:
    """Join arrays along an axis."""
    refuse_unknown("concatenate", FUNCTIONS["concatenate"], options)
    if not all(isinstance(one, ndarray) for one in tup):
        raise TypeError("Only cupy arrays can be concatenated")
    if out is not None:
        options["out"] = out
    join(tup)
    return call(np.concatenate, (list(tup),), {"axis": axis} | options)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Return an array of any content: NaN."""
    return ndarray(shape, dtype, order=order)


def empty_like(
    prototype: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    """Return such an array in the same memory order."""
    found = np.empty_like(prototype.on_cpu, dtype, order, False, shape)
    if found.size:
        found.transpose(np.argsort([-n for n in found.strides], kind="stable")).reshape(-1).view(
            np.uint8
        )[...] = 255
    return fresh(found)


def may_share_memory(a: ndarray, b: ndarray, max_work: Any = None) -> bool:
    """Tell whether two arrays may overlap: both must be CuPy's."""
    for name, value in {"a": a, "b": b}.items():
        if not isinstance(value, ndarray):
            raise TypeError(
                f"Argument {name!r} has incorrect type (expected cupy._core.core._ndarray_base, "
                f"got {type(value).__module__}.{type(value).__name__})"
            )
    return np.may_share_memory(a.on_cpu, b.on_cpu)


def _filled_like(value: Any) -> Callable[..., ndarray]:
    def like(
        a: ndarray, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
    ) -> ndarray:
        result = empty_like(a, dtype, order, subok, shape)
        result.fill(value)
        return result

    return like


def full_like(
    a: ndarray, fill_value: Any, dtype: Any = None, order: str = "K", **options: Any
) -> ndarray:
    """Return an array like another, filled with one number."""
    return _filled_like(fill_value)(a, dtype, order, **options)


def as_strided(x: ndarray, shape: Any = None, strides: Any = None) -> ndarray:
    """Return a view with other steps; refuse what would lie outside of the memory."""
    view = np.lib.stride_tricks.as_strided(x.on_cpu, shape, strides)
    low, high = np.lib.array_utils.byte_bounds(view)
    if view.size and (low < x._memory.bounds[0] or high > x._memory.bounds[1]):
        raise IndexError(f"as_strided: {shape} with steps {strides} leaves the memory of {x.shape}")
    return view_of(view, x)


class RawModule:
    """Our kernels in a text, run by ``on_cpu.py``."""

    def __init__(self, code: str, *, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        if not isinstance(options, tuple):
            raise TypeError("options must be a tuple of str")
        self._module = on_cpu.RawModule(code=code, options=options)

    def get_function(self, name: str) -> Function:
        """Return a kernel."""
        return Function(self._module.get_function(name))


class Function:
    """A kernel, which counts how often it was started."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Return how much shared memory a launch may ask for."""
        return self._kernel.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._kernel.max_dynamic_shared_size_bytes = size

    def __call__(
        self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0, stream: Any = None
    ) -> None:
        for value in args:
            if isinstance(value, ndarray):
                check_here(value)
            elif isinstance(value, np.ndarray):
                raise TypeError(f"Unsupported type {type(value)}")
        counts.kernels += 1
        if not recorded(lambda: self._kernel(grid, block, args, shared_mem=shared_mem)):
            self._kernel(grid, block, args, shared_mem=shared_mem)


def _is_type(value: Any) -> bool:
    known = np.generic | np.dtype | np.finfo | np.iinfo
    return isinstance(value, type) and issubclass(value, known)


class _CuPy(ModuleType):
    """The module: what is not defined here is NumPy's, if CuPy has it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in OTHER_LIBRARIES:
            raise ImportError(f"cupy.{name} needs a library of CUDA that minifcn does not install")
        found = getattr(np, name, None)
        if name not in UFUNCS | OTHERS | FUNCTIONS.keys():
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        if name in UFUNCS and isinstance(found, np.ufunc):
            found = ufunc_of(name)
        elif name in FUNCTIONS and callable(found):
            found = _function_of(name)
        elif not isinstance(found, float) and not _is_type(found):
            found = None
        if found is None and name != "newaxis":
            raise NotImplementedError(f"the stand-in for CuPy has no cupy.{name} yet")
        setattr(self, name, found)
        return found


cupy = _CuPy("cupy")
cupy.__dict__.update(
    {f.__name__: f for f in (array, asarray, asnumpy, ascontiguousarray, copyto, concatenate)},
    **{f.__name__: f for f in (empty, empty_like, full_like, matmul, ndarray, RawModule)},
    may_share_memory=may_share_memory,
    __version__=VERSION,
    asanyarray=asarray,
    cuda=device.module(),
    exceptions=np.exceptions,
    get_array_module=lambda *args: cupy if any(isinstance(a, ndarray) for a in args) else np,
    get_default_memory_pool=lambda: device.default,
    lib=SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=as_strided)),
    ones_like=_filled_like(1),
    zeros_like=_filled_like(0),
)
cupyx = ModuleType("cupyx")
cupyx.__dict__.update(empty_pinned=np.empty, zeros_pinned=np.zeros, empty_like_pinned=np.empty_like)


class Cublas:
    """What stands for the library of that name: it is given addresses, and finds matrices there."""

    def cublasCreate_v2(self, handle: Any) -> int:  # noqa: N802
        return 0

    def cublasSetStream_v2(self, handle: Any, stream: int) -> int:  # noqa: N802
        self.memory = False
        return 0

    def cublasSetWorkspace_v2(self, handle: Any, place: int, size: int) -> int:  # noqa: N802
        self.memory = size > 0
        return 0

    def cublasSgemm_v2(  # noqa: N802
        self, handle: Any, turn_a: int, turn_b: int, m: int, n: int, k: int, *rest: Any
    ) -> int:
        """Compute C = alpha · A · B + beta · C, all in columns; ld: from one to the next."""
        alpha, a, ld_a, b, ld_b, beta, c, ld_c = rest
        assert self.memory, "without memory of ours, cuBLAS asks for some while a graph is recorded"
        factor, rest_of_c = alpha._obj.value, beta._obj.value
        left = _columns(a, k if turn_a else m, m if turn_a else k, ld_a)
        right = _columns(b, n if turn_b else k, k if turn_b else n, ld_b)
        result = _columns(c, m, n, ld_c)

        def compute() -> None:
            with np.errstate(all="ignore"):  # a GPU warns of nothing
                product = (left.T if turn_a else left) @ (right.T if turn_b else right)
                # As in the library, what is there is not read if its factor is 0: it may be NaN.
                result[...] = factor * product + (rest_of_c * result if rest_of_c else 0)

        counts.products += 1
        if not recorded(compute):
            compute()
        return 0


def _columns(address: int, rows: int, columns: int, step: int) -> np.ndarray:
    """Return the matrix at an address, whose columns begin ``step`` numbers after each other."""
    if rows > step:
        raise ValueError(f"columns of {rows} numbers cannot begin after each {step}")
    size = max(0, (columns - 1) * step + rows)
    numbers = np.ctypeslib.as_array((ctypes.c_float * size).from_address(address))
    return np.lib.stride_tricks.as_strided(numbers, (rows, columns), (4, 4 * step))


@contextmanager
def installed() -> Iterator[ModuleType]:
    """Let ``import cupy`` find the stand-in for a while."""
    modules = {"cupy": cupy, "cupyx": cupyx, "cupy.cuda": cupy.cuda}
    before = {name: sys.modules.get(name) for name in modules}
    device.reset()
    sys.modules.update(modules)
    libraries, cublas._library = cublas._library, lambda xp: library
    cublas._handles.of.clear()
    library = Cublas()
    try:
        yield cupy
    finally:
        cublas._library = libraries
        cublas._handles.of.clear()
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
        device.reset()
