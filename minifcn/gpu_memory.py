"""How much memory GPUs have, and how much of it this program has taken.

CuPy keeps what arrays no longer use, in a pool, and gives it to later arrays: so a program only
ever takes more, and what it has is the most that it needed. The pool is bounded by the environment
variable CUPY_GPU_MEMORY_LIMIT, if that is set: to bytes, or to a share as 50%.
"""

from __future__ import annotations

from .backend import device_number, probe_cuda, require_cupy
from .kernels.cuda.graph import most_before


def gpus() -> list[str]:
    """Return two lines for each GPU, as one text: what it is, and its memory; none without CuPy.

    >>> isinstance(gpus(), list)
    True
    """
    cupy, _ = probe_cuda()
    if cupy is None:
        return []
    lines = []
    for number in range(cupy.cuda.runtime.getDeviceCount()):
        facts = cupy.cuda.runtime.getDeviceProperties(number)
        with cupy.cuda.Device(number) as device:
            free, total = device.mem_info
            limit = cupy.get_default_memory_pool().get_limit()
        bound = f"at most {limit / 1e6:,.0f} MB of it (CUPY_GPU_MEMORY_LIMIT)"
        lines.append(
            f"cuda:{number}: {facts['name'].decode()}, compute capability {facts['major']}."
            f"{facts['minor']}, {total / 1e6:,.0f} MB, {free / 1e6:,.0f} MB free,\n  to be used: "
            f"{bound if limit else 'all of it (set CUPY_GPU_MEMORY_LIMIT to change it)'}"
        )
    return lines


def taken(device: str) -> str:
    """Say how much memory of a device was needed at the most; nothing of the CPU.

    >>> taken("cpu")
    ''
    """
    if device == "cpu":
        return ""
    number, cupy = device_number(device), require_cupy()
    with cupy.cuda.Device(number) as there:
        now, total = cupy.get_default_memory_pool().total_bytes(), there.mem_info[1]
    most = max(now, most_before.get(number, 0))
    return f"cuda:{number}: {most / 1e6:,.0f} MB of {total / 1e6:,.0f} MB were taken at the most"


def held(device: str) -> int:
    """Return the bytes of a GPU that this program's arrays take at the moment; 0 of the CPU.

    >>> held("cpu")
    0
    """
    if device == "cpu":
        return 0
    number, cupy = device_number(device), require_cupy()
    with cupy.cuda.Device(number):
        return int(cupy.get_default_memory_pool().used_bytes())
