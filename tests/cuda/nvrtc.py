"""Compile CUDA text for a GPU, without one: NVIDIA's run-time compiler, called as it is."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class CompileError(RuntimeError):
    """Text that the compiler refuses; the message is its log."""


class Kernel(NamedTuple):
    """What a kernel takes of a multiprocessor: registers of a thread, and bytes."""

    registers: int
    spilled: int  # bytes that do not fit into registers: each use goes to memory
    shared: int  # bytes of shared memory that it declares
    local: int  # bytes of arrays that are no registers, as an index is not known when compiling


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the newest compiler of the packages nvidia-cuda-nvrtc; None if there is none."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations or () if package else ()
    found = [file for folder in folders for file in Path(folder).glob("*/lib/libnvrtc.so.*")]
    if not found:
        return None
    return ctypes.CDLL(str(max(found, key=lambda file: int(file.name.split(".")[2]))))


def compiled(text: str, architecture: int, options: Sequence[str] = ()) -> dict[str, Kernel]:
    """Return what each kernel of a text takes on GPUs of a compute capability (90 for 9.0)."""
    nvrtc = library()
    assert nvrtc is not None, "ask library() first"
    flags = ["-std=c++17", f"-arch=sm_{architecture}", "--ptxas-options=-v", *options]
    program = ctypes.c_void_p()
    assert not nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None
    )
    try:
        encoded = [flag.encode() for flag in flags]
        failed = nvrtc.nvrtcCompileProgram(
            program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded)
        )
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, buffer)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    log = buffer.value.decode()
    if failed:
        raise CompileError(f"sm_{architecture}: {log}")
    return _kernels(log)


def _kernels(log: str) -> dict[str, Kernel]:
    """Read what ptxas tells of each kernel."""
    kernels = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.partition("'")[0]
        numbers = {
            key: sum(map(int, re.findall(pattern, part)))
            for key, pattern in (
                ("registers", r"Used (\d+) registers"),
                ("spilled", r"(\d+) bytes spill"),
                ("shared", r"(\d+) bytes smem"),
                ("local", r"(\d+) bytes stack frame"),
            )
        }
        kernels[name] = Kernel(**numbers)
    return kernels
