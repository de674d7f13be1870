"""Run CUDA kernels on NumPy arrays: their text is compiled with g++ against ``cuda_shim.h``.

A `RawModule` is used as CuPy's is, and refuses what would go wrong there: a Python float for a
``float`` (CuPy passes a double), an array of another type, one that is not contiguous, too large a
grid. Kernels run in the order that `order` sets; a kernel that depends on it has a mistake.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SHIM = Path(__file__).with_name("cuda_shim.h")
CACHE = Path(tempfile.gettempdir()) / f"minifcn-cuda-on-cpu-{os.getuid()}"
FLAGS = (
    "-O1 -std=c++17 -fPIC -shared -w -ffp-contract=off -fno-strict-aliasing "
    "-fsanitize=signed-integer-overflow,shift,integer-divide-by-zero,bounds,alignment,null"
).split()
ORDERS = ("forward", "reverse", "shuffled")
MOST = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}
SHARED_MEMORY = 48 * 1024  # bytes of a block, unless a kernel asks for more
LARGEST_SHARED_MEMORY = 99 * 1024  # of compute capability 8.6 and 8.9, the least from 8.0 on

_setting = {"order": 0, "seed": 1}


class KernelError(RuntimeError):
    """A kernel that cannot be compiled or launched, or that does something it must not."""


def available() -> bool:
    """Tell whether there is a compiler."""
    return shutil.which("g++") is not None


@contextmanager
def order(name: str, seed: int = 1) -> Iterator[None]:
    """Let threads and blocks run in another order: one of `ORDERS`."""
    before = dict(_setting)
    _setting.update(order=ORDERS.index(name), seed=seed)
    try:
        yield
    finally:
        _setting.update(before)


class RawModule:
    """The kernels in a text, compiled when the first is asked for."""

    def __init__(self, *, code: str, options: Sequence[str] = (), **unused: Any) -> None:
        self.code = code
        self.options = tuple(option for option in options if option.startswith(("-D", "-U")))
        self._kernels: dict[str, Kernel] = {}

    def get_function(self, name: str) -> Kernel:
        """Return a kernel by its name."""
        if name not in self._kernels:
            library = _library(self.code, self.options)
            if not hasattr(library, f"sim_launch_{name}"):
                raise KernelError(f"there is no kernel {name!r} in the text")
            self._kernels[name] = Kernel(library, name)
        return self._kernels[name]


class Kernel:
    """A kernel that is called as ``kernel(grid, block, arguments, shared_mem=bytes)``."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name, self._library = name, library
        self.max_dynamic_shared_size_bytes = SHARED_MEMORY
        signature = getattr(library, f"sim_signature_{name}")
        signature.restype = ctypes.c_char_p
        self.parameters: list[str] = signature().decode().split()

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Any = None,
    ) -> None:
        """Run all threads of a grid of blocks; arrays that a kernel writes to change in place."""
        sizes = {"grid": _three(grid), "block": _three(block)}
        for what, size in sizes.items():
            if min(size) < 1 or any(n > most for n, most in zip(size, MOST[what], strict=True)):
                raise KernelError(f"{self.name}: {what} {size}: each must be 1 to {MOST[what]}")
        if np.prod(sizes["block"]) > 1024:
            raise KernelError(f"{self.name}: block {sizes['block']}: it has more than 1024 threads")
        allowed = min(self.max_dynamic_shared_size_bytes, LARGEST_SHARED_MEMORY)
        if shared_mem > allowed:
            raise KernelError(f"{self.name}: {shared_mem} bytes of shared memory, not {allowed}")
        if len(args) != len(self.parameters):
            raise KernelError(f"{self.name}: {len(args)} arguments for {len(self.parameters)}")
        arrays = _Arrays(self._library, at_end=_setting["order"] != 1)
        try:
            pointers = (ctypes.c_void_p * max(1, len(args)))()
            for i, (value, kind) in enumerate(zip(args, self.parameters, strict=True)):
                where = f"{self.name}: argument {i}"
                value = getattr(value, "on_cpu", value)  # an array of the stand-in for CuPy
                pointers[i] = arrays.add(where, value, kind)
            run = getattr(self._library, f"sim_launch_{self.name}")
            run.restype = ctypes.c_char_p
            three = ctypes.c_uint * 3
            failure = run(
                three(*sizes["grid"]),
                three(*sizes["block"]),
                ctypes.c_size_t(shared_mem),
                pointers,
                _setting["order"],
                _setting["seed"],
            )
            if failure:
                raise KernelError(f"{self.name}: {failure.decode()}{arrays.touched()}")
            arrays.copy_back(self.name)
        finally:
            arrays.free()


class _Guarded(ctypes.Structure):
    _fields_ = (("map", ctypes.c_void_p), ("data", ctypes.c_void_p), ("mapped", ctypes.c_size_t))


class _Arrays:
    """The arguments of a launch, each array in memory of its own between forbidden pages."""

    def __init__(self, library: ctypes.CDLL, at_end: bool) -> None:
        self.library, self.at_end = library, at_end
        self.kept: list[Any] = []  # what pointers point to
        self.copies: dict[int, tuple[str, np.ndarray, _Guarded, bool]] = {}
        library.sim_guarded.restype = _Guarded
        library.sim_touched.restype = ctypes.c_void_p

    def add(self, where: str, value: Any, kind: str) -> int:
        """Return the address of an argument, after checking its kind."""
        if kind.startswith("P"):
            address = ctypes.c_void_p(self._copy(where, value, kind[1:]))
        else:
            address = _scalar(where, value, kind[:-1])
        self.kept.append(address)
        return ctypes.addressof(address)

    def _copy(self, where: str, array: Any, kind: str) -> int:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{where} must be an array, not {type(array).__name__}")
        given = f"{array.dtype.kind}{array.dtype.itemsize}"
        if given != kind[:-1]:
            raise TypeError(f"{where} is {array.dtype}, and the kernel takes {kind[:-1]}")
        if not array.flags.c_contiguous:
            raise TypeError(f"{where} is not contiguous, and a kernel knows nothing of strides")
        start = array.ctypes.data
        if start not in self.copies:
            room = self.library.sim_guarded(ctypes.c_size_t(array.nbytes), self.at_end)
            ctypes.memmove(room.data, start, array.nbytes)
            self.copies[start] = (where, array, room, False)
        written = self.copies[start][3] or kind.endswith("w")
        self.copies[start] = (*self.copies[start][:3], written)
        return int(self.copies[start][2].data)

    def copy_back(self, name: str) -> None:
        """Copy what was written; complain of writes beside an array, or to a constant one."""
        for where, array, room, written in self.copies.values():
            if not self.library.sim_intact(room, ctypes.c_size_t(array.nbytes)):
                raise KernelError(f"{where}: writes outside the array of shape {array.shape}")
            if written:
                ctypes.memmove(array.ctypes.data, room.data, array.nbytes)

    def touched(self) -> str:
        """Return which array is nearest to a forbidden address."""
        address = self.library.sim_touched()
        if not address:
            return ""
        near = [
            f"; {address - room.data:+d} bytes from the start of {where} {array.shape} {array.dtype}"
            for where, array, room, _ in self.copies.values()
            if room.map <= address < room.map + room.mapped
        ]
        return "".join(near) or "; not near any array"

    def free(self) -> None:
        """Give the memory back."""
        for _, _, room, _ in self.copies.values():
            self.library.sim_free(room)


def _scalar(where: str, value: Any, kind: str) -> Any:
    """Return a number as CuPy passes it: 8 bytes of a Python int or float, or a NumPy number."""
    if isinstance(value, bool):
        value = np.bool_(value)
    elif isinstance(value, int):
        if kind[0] not in "iu":
            raise TypeError(f"{where} is a Python int, and the kernel takes {kind}")
        limits = np.iinfo(f"{kind[0]}{kind[1:]}")
        if not limits.min <= value <= limits.max:
            raise OverflowError(f"{where} is {value}, which is no {limits.dtype}")
        value = limits.dtype.type(value)
    elif isinstance(value, float):
        value = np.float64(value)
    given = f"{value.dtype.kind}{value.dtype.itemsize}"
    if given != kind:
        raise TypeError(f"{where} is {value.dtype}, and the kernel takes {kind}")
    return ctypes.create_string_buffer(value.tobytes())


def _three(size: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*(int(n) for n in size), 1, 1)[:3]
    return x, y, z


@functools.cache
def _library(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Return the kernels of a text as a shared library, compiled unless that was done before."""
    names = re.findall(
        r"__global__[\w\s]*?\bvoid\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(", code
    )
    # `extern __shared__ float tile[];` names the memory that is asked for at the launch.
    text = re.sub(
        r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w\s]+?)\s+(\w+)\s*\[\s*\]\s*;",
        r"\1* \2 = (\1*)shim::dynamic_shared;",
        code,
    )
    exports = "".join(
        f'extern "C" const char* sim_launch_{n}(const unsigned* g, const unsigned* b, size_t s, '
        f"void** a, int how, unsigned seed) {{ shim::body_of<&{n}>(&{n}); "
        f"return shim::launch(g, b, s, a, how, seed); }}\n"
        f'extern "C" const char* sim_signature_{n}() {{ return shim::signature(&{n}); }}\n'
        for n in names
    )
    whole = (
        f'#include "{SHIM.name}"\n#line 1 "kernel.cu"\n{text}\n{exports}'
        'extern "C" shim::Guarded sim_guarded(size_t n, bool end) { return shim::guarded(n, end); }\n'
        'extern "C" bool sim_intact(shim::Guarded g, size_t n) { return shim::intact(g, n); }\n'
        'extern "C" const void* sim_touched() { return shim::touched; }\n'
        'extern "C" void sim_free(shim::Guarded g) { munmap(g.map, g.mapped); }\n'
    )
    command = ["g++", *FLAGS, *options, f"-I{SHIM.parent}"]
    key = "\0".join([whole, SHIM.read_text("utf-8"), *command])
    place = CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
    if not place.exists():
        CACHE.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            source, target = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            source.write_text(whole, "utf-8")
            done = subprocess.run(
                [*command, source, "-o", target], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise KernelError(f"g++ cannot compile the kernel:\n{done.stderr[:4000]}")
            target.replace(place)
    return ctypes.CDLL(str(place))
