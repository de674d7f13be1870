"""Run CUDA kernels on NumPy arrays: their text is compiled with g++ against ``cuda_shim.h``.

A `RawModule` is used as CuPy's is, and refuses what would go wrong there: a Python float for a
``float`` (CuPy passes a double), an array of another type, one that is not contiguous, too large a
grid, one array for two parameters that say they are apart. Kernels run in the order that `order`
sets; a kernel that depends on it has a mistake.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HEADERS = [Path(__file__).with_name("cuda_shim.h"), *sorted(Path(__file__).parent.glob("shim_*.h"))]
# The sanitizers only mark the places: cuda_shim.h has functions for them, their own library is not
# linked.
CHECKS = "thread,signed-integer-overflow,shift,integer-divide-by-zero,bounds-strict,alignment,null"
FLAGS = (
    *("-std=c++17", "-O1", "-g1", "-w", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing"),
    *(f"-fsanitize={CHECKS}", "--param", "tsan-instrument-func-entry-exit=0"),
)
ORDERS = ("forward", "reverse", "shuffled")
MOST = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}
SHARED_MEMORY = 48 * 1024  # bytes of a block, unless a kernel asks for more
LARGEST_SHARED_MEMORY = 99 * 1024  # of compute capability 8.6 and 8.9, the least from 8.0 on

_setting = {"order": 0, "seed": 1}
# Where arrays begin that a kernel may find through addresses in a table, and how many bytes they
# have: the table is an array of uint64. An address may also be an argument, an uint64.
reachable: dict[int, int] = {}


class CompileError(RuntimeError):
    """Text that the compiler refuses; the message is its own."""


class KernelError(RuntimeError):
    """A kernel that cannot be launched, or that does something it must not."""


def available() -> bool:
    """Tell whether there is a compiler, on a system whose memory and signals the shim knows."""
    return sys.platform == "linux" and shutil.which("g++") is not None


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
            self._kernels[name] = Kernel(library, name, self.code)
        return self._kernels[name]


class Kernel:
    """A kernel that is called as ``kernel(grid, block, arguments, shared_mem=bytes)``."""

    def __init__(self, library: ctypes.CDLL, name: str, code: str) -> None:
        self.name, self._library, self._code = name, library, code
        self._apart = _apart(code, name)
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
        arrays = _Arrays(self._library)
        try:
            pointers = (ctypes.c_void_p * max(1, len(args)))()
            for i, (value, kind) in enumerate(zip(args, self.parameters, strict=True)):
                where = f"{self.name}: argument {i}"
                value = getattr(value, "on_cpu", value)  # an array of the stand-in for CuPy
                pointers[i] = arrays.add(where, value, kind, self._apart[i])
            arrays.watch()
            arrays.watch_reachable(args)
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
                told = _with_lines(failure.decode(), Path(self._library._name), self._code)
                raise KernelError(f"{self.name}: {told}{arrays.touched()}")
            arrays.copy_back()
        finally:
            arrays.free()


class _Memory(ctypes.Structure):
    _fields_ = (
        ("map", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("mapped", ctypes.c_size_t),
        ("bytes", ctypes.c_size_t),
    )


class _Copy:
    """An array of a launch, in memory of its own between forbidden pages."""

    def __init__(self, where: str, array: np.ndarray, room: _Memory) -> None:
        self.where, self.array, self.room = where, array, room
        self.written = self.apart = False

    def __str__(self) -> str:
        return f"{self.where} {self.array.shape} {self.array.dtype}"


class _Arrays:
    """The arguments of a launch."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.kept: list[Any] = []  # what pointers point to
        self.copies: dict[tuple[int, int], _Copy] = {}
        library.sim_array.restype = _Memory
        library.sim_watch.argtypes = [_Memory, ctypes.c_bool, ctypes.c_bool]
        library.sim_touched.restype = ctypes.c_void_p

    def add(self, where: str, value: Any, kind: str, apart: bool) -> int:
        """Return the address of an argument, after checking its kind."""
        if kind.startswith("P"):
            address = ctypes.c_void_p(self._copy(where, value, kind[1:], apart))
        else:
            address = _scalar(where, value, kind[:-1])
        self.kept.append(address)
        return ctypes.addressof(address)

    def _copy(self, where: str, array: Any, kind: str, apart: bool) -> int:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{where} must be an array, not {type(array).__name__}")
        given = f"{array.dtype.kind}{array.dtype.itemsize}"
        if given != kind[:-1]:
            raise TypeError(f"{where} is {array.dtype}, and the kernel takes {kind[:-1]}")
        if not array.flags.c_contiguous:
            raise TypeError(f"{where} is not contiguous, and a kernel knows nothing of strides")
        place = (array.ctypes.data, array.nbytes)
        writes = kind.endswith("w")
        for other in self.copies.values():
            same = place == (other.array.ctypes.data, other.array.nbytes)
            allowed = same and not apart and not other.apart
            if (writes or other.written) and not allowed and np.shares_memory(array, other.array):
                raise TypeError(
                    f"{where} and {other.where} share memory, and one of them is written: only the "
                    "same array may be given twice, where no parameter has __restrict__"
                )
        if place not in self.copies:
            # NumPy's memory begins at a multiple of 16, as CuPy's does. A part of it need not.
            offset = array.ctypes.data % 16 if array.size else 0
            room = self.library.sim_array(ctypes.c_size_t(array.nbytes), ctypes.c_size_t(offset))
            ctypes.memmove(room.data, array.ctypes.data, array.nbytes)
            self.copies[place] = _Copy(where, array, room)
        copy = self.copies[place]
        copy.written, copy.apart = copy.written or writes, copy.apart or apart
        return int(copy.room.data or 0)

    def watch(self) -> None:
        """Let what a kernel does to the arrays be looked at."""
        for copy in self.copies.values():
            self.library.sim_watch(copy.room, not copy.written, copy.array.itemsize < 4)

    def watch_reachable(self, args: Sequence[Any]) -> None:
        """Let arrays be used whose addresses are arguments, or in a table among them."""
        tables = [getattr(value, "on_cpu", value) for value in args]
        tables = [t for t in tables if getattr(t, "dtype", None) == np.uint64]
        addresses = [int(number) for table in tables for number in table.flat]
        starts = sorted(reachable)
        for start in {
            starts[max(0, bisect(starts, address) - 1)] for address in addresses if starts
        }:
            size = reachable[start]
            if any(start <= address < start + size for address in addresses):
                self.library.sim_watch(_Memory(start, start, size, size), False, False)

    def copy_back(self) -> None:
        """Copy what was written."""
        for copy in self.copies.values():
            if copy.written:
                ctypes.memmove(copy.array.ctypes.data, copy.room.data, copy.array.nbytes)

    def touched(self) -> str:
        """Return which array is nearest to a forbidden address."""
        address = self.library.sim_touched()
        if not address:
            return ""
        for copy in self.copies.values():
            room, offset = copy.room, address - copy.room.data
            if room.map <= address < room.map + room.mapped:
                return f"; {offset:+d} bytes from the start of {copy}"
        return ""

    def free(self) -> None:
        """Give the memory back."""
        for copy in self.copies.values():
            self.library.sim_free(copy.room)


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


def _apart(code: str, kernel: str) -> list[bool]:
    """Tell of each parameter whether it promises that no other points to its array."""
    found = re.search(rf"\bvoid\b[^;{{}}]*\b{kernel}\s*\(([^)]*)\)", code)
    assert found, f"no parameters of {kernel}"
    return ["__restrict__" in parameter for parameter in found[1].split(",")]


def _with_lines(message: str, library: Path, code: str) -> str:
    """Replace "@17c", a place in the compiled code, by the line of the text; quote each line."""

    def line(place: re.Match[str]) -> str:
        told = subprocess.run(
            ["addr2line", "-i", "-e", library, place[1]], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"kernel\.cu:(\d+)", told)
        return f"line {found[1]}" if found else "an unknown line"

    def quoted(place: re.Match[str]) -> str:
        return f"{place[0]}: {lines[int(place[1]) - 1].strip()}"

    lines = code.splitlines()
    return re.sub(r"\bline (\d+)", quoted, re.sub(r"@([0-9a-f]+)", line, message))


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
    exports = "".join(f"SHIM_EXPORT({name})\n" for name in names)
    whole = f'#include "{HEADERS[0].name}"\n#line 1 "kernel.cu"\n{text}\n{exports}'
    command = ["g++", *FLAGS, *options, f"-I{HEADERS[0].parent}", "-c"]
    key = "\0".join([whole, *(header.read_text("utf-8") for header in HEADERS), *command])
    place = _cache() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            source, compiled, target = (
                Path(folder) / f"kernel.{end}" for end in ("cpp", "o", "so")
            )
            source.write_text(whole, "utf-8")
            _run_compiler([*command, source, "-o", compiled])
            _run_compiler(["g++", "-shared", "-Wl,-z,defs", compiled, "-o", target])
            target.replace(place)
    return ctypes.CDLL(str(place))


def _cache() -> Path:
    """Return a folder that only this user can write to, as what lies there is executed."""
    folder = Path(tempfile.gettempdir()) / f"minifcn-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise KernelError(f"{folder} belongs to somebody else, or others may write to it")
    return folder


def _run_compiler(command: Sequence[str | Path]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode:
        raise CompileError(f"g++ cannot compile the kernel:\n{done.stderr[:4000]}")
