"""Compile a kernel's text for the GPU at hand, check what it is given, and start it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...backend import (
    Array,
    Error,
    debugging,
    device_of,
    gpu_of,
    is_array,
    is_numpy,
    on_device,
    xp_of,
)

FOLDER = Path(__file__).parent
THREADS = 256  # of a block, where a kernel says nothing else
# Numbers of an array: kernels count in 32 bits, beyond the last number by a block's spare threads.
MOST_NUMBERS = 2**31 - 2**16
MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # along the three axes
SHARED_MEMORY = 48 * 1024  # bytes of a block that a GPU gives unasked
ALIGNED = 16  # bytes: where what is read at once must begin
# What a kernel's text calls its parameters, and the types that fit.
ARRAYS = {
    **{"float": "float32", "double": "float64", "int": "int32"},
    **{"unsigned short": "uint16", "unsigned long long": "uint64"},
}
INTEGERS: dict[str, Any] = {"int": np.int32, "unsigned long long": np.uint64}
POINTERS = {f"{kind}*": np.dtype(name) for kind, name in ARRAYS.items()}
LIMITS = {kind: (np.iinfo(type).min, np.iinfo(type).max) for kind, type in INTEGERS.items()}
LEAST, MOST = LIMITS["int"]


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
        If an argument is none of these, or too large; if the kernel cannot be compiled or started;
        and with ``MINIFCN_DEBUG=1``, which waits for each kernel, if it fails.
    """
    grid = (blocks,) if isinstance(blocks, int) else blocks
    if 0 in grid:
        return
    checked = check(kernel, grid, arguments)
    arrays = [arguments[place] for place in _places(kernel)]
    first, number = arrays[0], gpu_of(arrays[0])
    if number < 0 or any(gpu_of(array) != number for array in arrays):
        devices = " and ".join(sorted({device_of(array) for array in arrays}))
        raise KernelError(f"{kernel} got arrays on {devices}: use one GPU")
    xp = xp_of(first)
    with on_device(first):
        try:
            function = _function(xp, number, kernel, tuple(constants.items()), shared)
        except Exception as error:  # CuPy has several types
            raise _not_compiled(kernel, error) from error
        try:
            function(grid, (threads,), checked, shared_mem=shared)
        except Exception as error:
            raise KernelError(
                f"{kernel} cannot be started: {error}: a kernel before it may have failed: "
                "MINIFCN_DEBUG=1 waits for each, and names it"
            ) from error
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
    together = channels % 4 == 0 and not any(address(array) % ALIGNED for array in arrays)
    return 4 if together else 1


def address(array: Array) -> int:
    """Return where an array begins in the memory of its device."""
    return array.ctypes.data if is_numpy(array) else array.data.ptr


def check(kernel: str, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments in the form in which a kernel reads them; raise if they do not fit.

    This is done at each launch, of which a training step has hundreds: what nearly all arguments
    are is looked at first, and messages are only put together where they are needed.
    """
    for blocks, most in zip(grid, MOST_BLOCKS, strict=False):
        if blocks > most:
            raise KernelError(
                f"{kernel}: {grid} blocks: there may be {MOST_BLOCKS}, use smaller batches"
            )
    declared, passed = parameters(kernel), list(arguments)
    if len(arguments) != len(declared):
        raise KernelError(f"{kernel} takes {len(declared)} arguments, not {len(arguments)}")
    for place, (name, kind) in enumerate(declared):
        value = passed[place]
        if kind in POINTERS:
            _check_array(kernel, name, POINTERS[kind], value)
        elif kind != "int" or type(value) is not int or not LEAST <= value <= MOST:
            passed[place] = _number(kernel, name, kind, value)
        # Of another int CuPy passes 8 bytes. The kernel reads the first 4, which hold all of it.
    return tuple(passed)


def check_shapes(kernel: str, **needed: tuple[Array | None, tuple[int, ...]]) -> None:
    """Raise unless each array has the shape that a kernel takes for granted.

    A kernel is told some sizes, of one array as a rule, and by them finds its way in all others: in
    a smaller one it would read what lies behind. Nothing but tuples is compared; None fits.

    >>> check_shapes("lrn.own_share", g=(np.zeros(4), (8,)))
    Traceback (most recent call last):
    minifcn.kernels.cuda.launch.KernelError: lrn.own_share: g, (4,), must have the shape (8,)
    """
    for name, (array, shape) in needed.items():
        if array is not None and array.shape != shape:
            raise KernelError(f"{kernel}: {name}, {array.shape}, must have the shape {shape}")


@functools.cache
def _places(kernel: str) -> list[int]:
    """Return which of a kernel's parameters are arrays."""
    return [place for place, (_, kind) in enumerate(parameters(kernel)) if kind in POINTERS]


def _is_array(value: Any) -> bool:
    return is_array(value) and not isinstance(value, np.generic)


def _check_array(kernel: str, name: str, wanted: np.dtype, value: Any) -> None:
    """Raise unless an argument is an array that a kernel's parameter takes."""
    where = f"{kernel}: {name}"
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


def _number(kernel: str, name: str, kind: str, value: Any) -> Any:
    """Return an argument as a kernel's parameter of a kind (``float``, ``int``) takes it."""
    where = f"{kernel}: {name}"
    if kind == "float":
        if isinstance(value, int | float | np.integer | np.floating):
            return np.float32(value)  # CuPy would pass 8 bytes of a Python float
    elif isinstance(value, int | np.integer):
        least, most = LIMITS[kind]
        if not least <= value <= most:
            raise KernelError(f"{where} is {value:,}: it must be {least:,} to {most:,}")
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
    xp: ModuleType, device: int, kernel: str, constants: tuple[tuple[str, int], ...], shared: int
) -> Any:
    """Return a kernel, allowed to have so much shared memory."""
    file, _, name = kernel.partition(".")
    options = tuple(_options(dict(constants)))
    function = _module(xp, device, f"{file}.cu", options).get_function(name)
    if shared > SHARED_MEMORY:
        function.max_dynamic_shared_size_bytes = shared
    return function


def _not_compiled(kernel: str, error: Exception) -> KernelError:
    """Return an error for a file that cannot be compiled, or not loaded by the driver."""
    advice = (
        "NVIDIA's driver may be too old for this CuPy, or a part of CUDA is missing: see "
        '`minifcn info`, and "Install" in docs/cuda.md'
    )
    if isinstance(error, OSError) and error.filename:
        advice = "CuPy keeps what it compiled: set CUPY_CACHE_DIR to a folder that takes files"
    file = kernel.partition(".")[0]
    return KernelError(f"{kernel}: {file}.cu cannot be compiled and loaded: {error}: {advice}")


def _wait(kernel: str, xp: ModuleType) -> None:
    try:
        xp.cuda.runtime.deviceSynchronize()
    except Exception as error:  # CuPy has several types
        raise KernelError(f"{kernel} failed on the GPU: {error}") from error
