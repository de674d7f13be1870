"""Which array library holds an array, NumPy or CuPy, and how arrays move between the two.

The rest of minifcn never names CuPy: it asks ``xp_of(array)`` for the library that the array
belongs to and writes ``xp.maximum``, ``xp.matmul`` and so on. This is the only file that imports
CuPy, and it does so only when somebody asks for a CUDA device.
"""

from __future__ import annotations

import functools
import importlib
import sys
import zlib
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any  # a numpy.ndarray or a cupy.ndarray


class Error(Exception):
    """The root of every error that bad input can cause; the command line prints it as one line."""


class DeviceError(Error, RuntimeError):
    """A device that is not there, or arrays of two devices in one operation."""


class DTypeError(Error, TypeError):
    """Element types that do not fit together, or do not fit the operation."""


def xp_of(array: Array) -> ModuleType:
    """Return the module, ``numpy`` or ``cupy``, whose functions work on this array.

    >>> xp_of(np.zeros(3)).__name__
    'numpy'
    """
    return np if isinstance(array, np.ndarray | np.generic) else sys.modules["cupy"]


def is_array(value: object) -> bool:
    """Tell whether a value is a NumPy or CuPy array (a Python number or list is not)."""
    if isinstance(value, np.ndarray | np.generic):
        return True
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def device_of(array: Array) -> str:
    """Return where an array lies: ``"cpu"`` or, for example, ``"cuda:0"``.

    >>> device_of(np.zeros(3))
    'cpu'
    """
    return "cpu" if isinstance(array, np.ndarray | np.generic) else f"cuda:{array.device.id}"


def to_device(array: Array, device: str) -> Array:
    """Return the array on ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; itself when it lies there.

    Raises
    ------
    DeviceError
        If the device cannot be used; the message says why.
    """
    if device == "cpu":
        return array if isinstance(array, np.ndarray) else to_numpy(array)
    number = device_number(device)
    cupy = require_cupy()
    with cupy.cuda.Device(number):
        # A copy made by NumPy's rules would lose the channels-last order: keep the strides.
        return cupy.asarray(array, order="K") if device_of(array) != f"cuda:{number}" else array


def to_numpy(array: Array) -> np.ndarray:
    """Return the array in the computer's own memory, as a NumPy array."""
    return np.asarray(array) if is_numpy(array) else array.get(order="A")


def is_numpy(array: Array) -> bool:
    """Tell whether an array (or NumPy scalar) belongs to NumPy."""
    return isinstance(array, np.ndarray | np.generic)


def device_number(device: str) -> int:
    """Return N of ``"cuda:N"``, 0 of ``"cuda"``; any other name is an error.

    >>> device_number("cuda:1")
    1
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise DeviceError(f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:N'")
    return int(number or 0)


def require_cupy() -> ModuleType:
    """Return the module ``cupy``, or raise a DeviceError that says why it cannot be used."""
    cupy, reason = probe_cuda()
    if cupy is None:
        raise DeviceError(f"device 'cuda' is not available: {reason}")
    return cupy


@functools.cache
def probe_cuda() -> tuple[ModuleType | None, str]:
    """Return CuPy if it can compute here, and one sentence that says what was found.

    An import proves nothing: CuPy imports without a GPU, and fails at the first product when one
    of its libraries is missing. So the probe computes one small product.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        if getattr(error, "name", None) == "cupy":
            return None, "CuPy is not installed (pip install 'minifcn[cuda13]' or '[cuda12]')"
        return None, f"CuPy does not import: {_first_line(error)}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        ones = cupy.ones((2, 2), "f")
        right = float((ones @ ones).sum()) == 8.0
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception as error:  # a missing library, driver or header, each with its own type
        return None, f"CuPy {cupy.__version__} cannot compute here: {_first_line(error)}"
    if not right:
        return None, f"CuPy {cupy.__version__} returned a wrong product on {name}"
    return cupy, f"CuPy {cupy.__version__} on {name} ({count} device{'s' * (count != 1)})"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or repr(error)
    return f"{type(error).__name__}: {text.splitlines()[0]}"


def digest(value: Any) -> int:
    """Return a checksum of an array's bytes, to catch edits of it; 0 if it is not an array."""
    return zlib.crc32(to_numpy(value).tobytes()) if is_array(value) else 0


def may_share_memory(a: Array, b: Array) -> bool:
    """Tell whether two arrays of one device may overlap in memory."""
    return bool(xp_of(a).may_share_memory(a, b))


def check_one_kind(operation: str, arrays: dict[str, Array]) -> None:
    """Raise unless all arrays lie on one device and the floating-point ones have one type.

    Raises
    ------
    DeviceError, DTypeError
        With the names of two arrays that differ. Nothing is ever converted silently: a transfer
        costs more than most operations, and a stray float64 array doubles the work of a net.
    """
    types = {array.dtype for array in arrays.values() if array.dtype.kind == "f"}
    if len(types) < 2 and all(is_numpy(array) for array in arrays.values()):
        return  # as nearly always, and this is asked at every operation
    devices = {device_of(array): name for name, array in arrays.items()}
    dtypes = {str(array.dtype): name for name, array in arrays.items() if array.dtype.kind == "f"}
    found: dict[str, str]
    error: type[Error]
    for found, error in ((devices, DeviceError), (dtypes, DTypeError)):
        if len(found) > 1:
            kinds = " and ".join(f"{name} ({kind})" for kind, name in found.items())
            raise error(f"{operation} got {kinds}: convert one of them with .to(...)")
