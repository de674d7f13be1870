"""Compile a kernel's text for the GPU at hand, check what it is given, and start it."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...backend import Array, Error, is_array, is_numpy, xp_of

FOLDER = Path(__file__).parent
THREADS = 256  # of a block, where a kernel says nothing else
MOST_NUMBERS = 2**31 - 1  # of an array: kernels compute places in 32 bits
SHARED_MEMORY = 48 * 1024  # bytes of a block that a GPU gives unasked


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
        Arrays of one device, C-contiguous; whole numbers for ``int``, and floats for ``float``.
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
    arrays = [value for value in arguments if is_array(value) and value.ndim]
    checked = tuple(_checked(kernel, place, value) for place, value in enumerate(arguments))
    first = arrays[0]
    devices = {array.device.id for array in arrays}
    if len(devices) > 1:
        raise KernelError(f"{kernel}: arrays of several devices: cuda {sorted(devices)}")
    file, _, name = kernel.partition(".")
    with first.device:
        module = _module(xp_of(first), first.device.id, f"{file}.cu", tuple(_options(constants)))
        function = module.get_function(name)
        if shared > SHARED_MEMORY:
            function.max_dynamic_shared_size_bytes = shared
        function(grid, (threads,), checked, shared_mem=shared)
        if os.environ.get("MINIFCN_DEBUG", "0") not in ("", "0"):
            _wait(kernel, xp_of(first))


def blocks_for(count: int, threads: int = THREADS) -> int:
    """Return how many blocks have a thread for each of ``count`` numbers.

    >>> blocks_for(1000), blocks_for(0)
    (4, 0)
    """
    return -(-count // threads)


def _checked(kernel: str, place: int, value: Any) -> Any:
    """Return an argument in the form in which a kernel reads it."""
    where = f"{kernel}: argument {place}"
    if is_array(value) and value.ndim:
        if is_numpy(value):
            raise KernelError(f"{where} is an array on the CPU: move it with .to(...)")
        if not value.flags.c_contiguous:
            raise KernelError(f"{where}, {value.shape}, is not contiguous: a kernel takes no steps")
        if value.size > MOST_NUMBERS:
            raise KernelError(
                f"{where}, {value.shape}, has {value.size:,} numbers: a kernel counts to "
                f"{MOST_NUMBERS:,}: use fewer or smaller images in a batch"
            )
        return value
    if isinstance(value, int | np.integer):
        if not -MOST_NUMBERS <= value <= MOST_NUMBERS:
            raise KernelError(f"{where} is {value:,}: a kernel counts to {MOST_NUMBERS:,}")
        return np.int32(value)
    if isinstance(value, float | np.floating):
        return np.float32(value)  # CuPy would pass 8 bytes of a Python float
    raise KernelError(f"{where} is a {type(value).__name__}: no array and no number")


def _options(constants: dict[str, int]) -> Iterator[str]:
    yield "-std=c++17"
    yield from (f"-D{name}={value}" for name, value in sorted(constants.items()))


@functools.cache
def _module(xp: ModuleType, device: int, file: str, options: tuple[str, ...]) -> Any:
    """Return a file's compiled kernels: once for each device, and for each set of constants."""
    return xp.RawModule(code=text(file), options=options)


def _wait(kernel: str, xp: ModuleType) -> None:
    try:
        xp.cuda.runtime.deviceSynchronize()
    except Exception as error:  # CuPy has several types
        raise KernelError(f"{kernel} failed on the GPU: {error}") from error
