"""Compile a kernel's text for the GPU at hand, check what it is given, and start it."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...backend import Array, Error, debugging, device_of, is_array, is_numpy, xp_of

FOLDER = Path(__file__).parent
THREADS = 256  # of a block, where a kernel says nothing else
# Numbers of an array: kernels count in 32 bits, beyond the last number by a block's spare threads.
MOST_NUMBERS = 2**31 - 2**16
MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # along the three axes
SHARED_MEMORY = 48 * 1024  # bytes of a block that a GPU gives unasked
ALIGNED = 16  # bytes: where what is read at once must begin
# What a kernel's text calls its parameters, and the types that fit.
ARRAYS = {"float": "float32", "int": "int32"}
INTEGERS: dict[str, Any] = {"int": np.int32, "unsigned long long": np.uint64}


class KernelError(Error, RuntimeError):
    """A kernel that was given what it does not take, or that failed on the GPU."""


def text(file: str) -> str:
    """Return a kernel file's text, with the files that it includes in their places.

    >>> "#include" in text("conv.cu")
    False
    """
    include = '#include "'
    lines = (FOLDER / file).read_text("utf-8").splitlines()
    return "\n".join(
        text(line.removeprefix(include).rstrip('"')) if line.startswith(include) else line
        for line in lines
    )


def kernel_files() -> list[str]:
    """Return the names of the files with kernels."""
    return sorted(path.name for path in FOLDER.glob("*.cu"))


@functools.cache
def parameters(kernel: str) -> tuple[tuple[str, str], ...]:
    """Return name and type of each parameter of a kernel, as its text says.

    >>> parameters("conv.sum_parts")[:3]
    (('partial', 'float*'), ('total', 'float*'), ('parts', 'int'))
    """
    file, _, name = kernel.partition(".")
    found = re.search(
        rf"__global__\s+void\s+(?:__launch_bounds__\(\w+\)\s+)?{name}\(([^)]*)\)",
        text(f"{file}.cu"),
    )
    if not found:
        raise KernelError(f"there is no kernel {name!r} in {file}.cu")
    words = (re.sub(r"\bconst\b|__restrict__", " ", one).split() for one in found[1].split(","))
    return tuple((name, " ".join(kind)) for *kind, name in words)


def run(
    kernel: str,
    blocks: int | tuple[int, ...],
    *arguments: Any,
    threads: int = THREADS,
    shared: int = 0,
    **constants: int,
) -> None:
    """Start a kernel.

    Parameters
    ----------
    kernel
        File and name: ``"pooling.max_pool2d"``.
    blocks
        How many, along one to three axes. Without any, nothing is done.
    arguments
        Arrays of one device, C-contiguous, and numbers: as many and of the types that the kernel's
        text names.
    threads
        Of a block.
    shared
        Bytes of shared memory of a block, beyond what the kernel declares.
    constants
        Numbers that the text leaves open, as ``TILE=8`` does for ``TILE``.

    Raises
    ------
    KernelError
        If an argument is none of these, or too large; and with ``MINIFCN_DEBUG=1``, which waits for
        each kernel, if it fails.
    """
    grid = (blocks,) if isinstance(blocks, int) else blocks
    if math.prod(grid) == 0:
        return
    checked = check(kernel, grid, arguments)
    arrays = [value for value in arguments if _is_array(value)]
    devices = {device_of(array) for array in arrays}
    if len(devices) > 1 or "cpu" in devices:
        raise KernelError(f"{kernel} got arrays on {' and '.join(sorted(devices))}: use one GPU")
    first = arrays[0]
    with first.device:
        xp = xp_of(first)
        function = _function(xp, first.device.id, kernel, tuple(_options(constants)), shared)
        function(grid, (threads,), checked, shared_mem=shared)
        if debugging():
            _wait(kernel, xp)


def blocks_for(count: int, threads: int = THREADS) -> int:
    """Return how many blocks have a thread for each of ``count`` numbers.

    >>> blocks_for(1000), blocks_for(0)
    (4, 0)
    """
    return -(-count // threads)


def at_once(channels: int, *arrays: Array) -> int:
    """Return how many neighbouring channels a thread may read or write at once: 4 or 1.

    An instruction can move 16 bytes if they begin at a multiple of 16, in each of the arrays.

    >>> a = np.zeros(64, np.float32)
    >>> a = a[-a.ctypes.data % 64 // 4 :]
    >>> at_once(8, a), at_once(6, a), at_once(8, a, a[1:])
    (4, 1, 1)
    """
    together = channels % 4 == 0 and not any(_address(array) % ALIGNED for array in arrays)
    return 4 if together else 1


def _address(array: Array) -> int:
    return array.ctypes.data if is_numpy(array) else array.data.ptr


def check(kernel: str, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments in the form in which a kernel reads them; raise if they do not fit."""
    if any(n > most for n, most in zip(grid, MOST_BLOCKS, strict=False)):
        raise KernelError(
            f"{kernel}: {grid} blocks: there may be {MOST_BLOCKS}, use smaller batches"
        )
    declared = parameters(kernel)
    if len(arguments) != len(declared):
        raise KernelError(f"{kernel} takes {len(declared)} arguments, not {len(arguments)}")
    return tuple(
        _checked(f"{kernel}: {name}", kind, value)
        for (name, kind), value in zip(declared, arguments, strict=True)
    )


def _is_array(value: Any) -> bool:
    return is_array(value) and not isinstance(value, np.generic)


def _checked(where: str, kind: str, value: Any) -> Any:
    """Return an argument as a kernel's parameter of a kind (``float*``, ``int``) takes it."""
    if kind.endswith("*"):
        wanted = ARRAYS[kind.removesuffix("*")]
        if not _is_array(value) or value.dtype != wanted:
            given = str(value.dtype) if is_array(value) else type(value).__name__
            raise KernelError(f"{where} must be an array of {wanted}, not {given}")
        if not value.flags.c_contiguous:
            raise KernelError(f"{where}, {value.shape}, is not contiguous: a kernel takes no steps")
        if value.size > MOST_NUMBERS:
            raise KernelError(
                f"{where}, {value.shape}, has {value.size:,} numbers: a kernel counts to "
                f"{MOST_NUMBERS:,}: use fewer or smaller images in a batch"
            )
        return value
    if kind == "float":
        if isinstance(value, int | float | np.integer | np.floating):
            return np.float32(value)  # CuPy would pass 8 bytes of a Python float
    elif isinstance(value, int | np.integer):
        limits = np.iinfo(INTEGERS[kind])
        if not limits.min <= value <= limits.max:
            raise KernelError(f"{where} is {value:,}: it must be {limits.min:,} to {limits.max:,}")
        return INTEGERS[kind](value)
    raise KernelError(f"{where} must be a number for {kind}, not a {type(value).__name__}")


def _options(constants: dict[str, int]) -> Iterator[str]:
    yield "-std=c++17"
    yield from (f"-D{name}={value}" for name, value in sorted(constants.items()))


@functools.cache
def _module(xp: ModuleType, device: int, file: str, options: tuple[str, ...]) -> Any:
    """Return a file's compiled kernels: once for each device, and for each set of constants."""
    plain = (
        text(file).encode("ascii", "replace").decode()
    )  # CuPy writes it in the system's encoding
    return xp.RawModule(code=plain, options=options)


@functools.cache
def _function(
    xp: ModuleType, device: int, kernel: str, options: tuple[str, ...], shared: int
) -> Any:
    """Return a kernel, allowed to have so much shared memory."""
    file, _, name = kernel.partition(".")
    function = _module(xp, device, f"{file}.cu", options).get_function(name)
    if shared > SHARED_MEMORY:
        function.max_dynamic_shared_size_bytes = shared
    return function


def _wait(kernel: str, xp: ModuleType) -> None:
    try:
        xp.cuda.runtime.deviceSynchronize()
    except Exception as error:  # CuPy has several types
        raise KernelError(f"{kernel} failed on the GPU: {error}") from error
