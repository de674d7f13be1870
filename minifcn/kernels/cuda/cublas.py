"""Matrix products by cuBLAS, NVIDIA's library, called without CuPy in between.

CuPy's own products cannot be recorded in a CUDA graph (`graph.py`): it refuses to call cuBLAS
meanwhile. Two things make that possible here: the memory that cuBLAS works in is given to it
beforehand, and it is told the stream each time that this changes. Besides, a product can be added
to what is there.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from typing import Any

from ...backend import Array, Error, on_device, xp_of
from .launch import MOST, KernelError, check_shapes

WORKSPACE = 32 << 20  # bytes, as NVIDIA advises for compute capability 9.0: it takes 4 MB elsewhere
FILES = {"linux": "libcublas.so.{}", "win32": "cublas64_{}.dll"}


class CublasError(Error, RuntimeError):
    """cuBLAS is not there, or it refuses something."""


def product(a: Array, b: Array, out: Array, add: bool = False) -> Array:
    """Put the product of two matrices into a third, or add it to what is there.

    Parameters
    ----------
    a, b : (m, k), (k, n)
        float32 on a GPU. Each lies row by row, or column by column as the transpose of such a
        matrix does.
    out : (m, n)
        Lies row by row.
    add
        Whether to add.

    Returns
    -------
    out

    Raises
    ------
    CublasError
        If cuBLAS is not there, or something goes wrong in it.
    KernelError
        If shapes do not fit together, or are beyond what cuBLAS counts, with 32 bits.
    """
    (m, k), n = a.shape, b.shape[1]
    check_shapes("cublas.product", b=(b, (k, n)), out=(out, (m, n)))
    if m == 0 or n == 0:
        return out
    steps = [_step(matrix) for matrix in (b, a, out)]
    if max(m, n, k, *steps) > MOST:
        raise KernelError(
            f"cublas.product of {a.shape} and {b.shape}: cuBLAS counts to {MOST:,}: use fewer or "
            "smaller images at a time"
        )
    first, second = ctypes.c_float(1.0), ctypes.c_float(float(add))
    with on_device(out):
        library, handle = _ready(xp_of(out))
        # cuBLAS thinks in columns. What it takes for a matrix is its transpose, so it is asked for
        # (a b)ᵀ = bᵀ aᵀ, and finds both of them where b and a are.
        code = library.cublasSgemm_v2(
            *(handle, _turned(b), _turned(a), n, m, k),
            *(ctypes.byref(first), b.data.ptr, steps[0], a.data.ptr, steps[1]),
            *(ctypes.byref(second), out.data.ptr, steps[2]),
        )
    _check(code, f"a product of {a.shape} and {b.shape}")
    return out


def _turned(matrix: Array) -> int:
    """Return 1 if a matrix lies column by column, and 0 if row by row."""
    if matrix.strides[1] == matrix.itemsize or matrix.shape[1] == 1:
        return 0
    if matrix.strides[0] == matrix.itemsize or matrix.shape[0] == 1:
        return 1
    raise CublasError(
        f"a matrix {matrix.shape} with steps of {matrix.strides} bytes must be copied first"
    )


def _step(matrix: Array) -> int:
    """Return how many numbers lie from one row, or column, to the next."""
    rows, columns = matrix.shape
    turned = _turned(matrix)
    least = rows if turned else columns
    return max(least, matrix.strides[1 if turned else 0] // matrix.itemsize)


class _Handles(threading.local):
    """What cuBLAS needs, for each device that this thread used: handle, memory and stream."""

    def __init__(self) -> None:
        self.of: dict[int, list[Any]] = {}


_handles = _Handles()


def workspace(xp: Any) -> Array:
    """Return the memory that this thread's products on the current GPU work in."""
    _ready(xp)
    return _handles.of[xp.cuda.get_device_id()][1]


def _ready(xp: Any) -> tuple[Any, Any]:
    """Return the library, and a handle that works on the current device and stream."""
    library, device = _library(xp), xp.cuda.get_device_id()
    if device not in _handles.of:
        handle = ctypes.c_void_p()
        _check(library.cublasCreate_v2(ctypes.byref(handle)), "its start")
        _handles.of[device] = [handle, xp.empty(WORKSPACE, "uint8"), None]
    handle, memory, used = _handles.of[device]
    stream = xp.cuda.get_current_stream().ptr
    if stream != used:
        _check(library.cublasSetStream_v2(handle, stream), "a stream")
        # A new stream makes it forget the memory.
        _check(library.cublasSetWorkspace_v2(handle, memory.data.ptr, memory.nbytes), "its memory")
        _handles.of[device][2] = stream
    return library, handle


@functools.cache
def _library(xp: Any) -> Any:
    """Return cuBLAS, which CuPy has loaded for its first product."""
    name = FILES[sys.platform].format(xp.cuda.runtime.runtimeGetVersion() // 1000)
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise CublasError(f"{name} cannot be loaded: {error}") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.cublasCreate_v2.argtypes = [pointer]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    library.cublasSgemm_v2.argtypes = [
        *(pointer, number, number, number, number, number, pointer),
        *(pointer, number, pointer, number, pointer, pointer, number),
    ]
    return library


def _check(code: int, what: str) -> None:
    if code:
        raise CublasError(f"cuBLAS refused {what}: its error {code}")
