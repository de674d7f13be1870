"""The kernels for NVIDIA GPUs: each does there what a function of `minifcn.kernels` does on a CPU.

Without them everything runs on a GPU as well, by CuPy's own functions, in many more steps:
`plain` switches to that, for comparison. Read a kernel's twin first; then its text in the file
with the ending ``.cu``, which says how the work is dealt out to the threads.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ...backend import Array, for_a_while, is_numpy

_SINGLE = np.dtype(np.float32)


class _Setting(threading.local):
    plain = False


_setting = _Setting()


def plain() -> AbstractContextManager[None]:
    """Compute with CuPy's own functions only, in this thread."""
    return for_a_while(_setting, plain=True)


def is_plain() -> bool:
    """Tell whether this thread computes with CuPy's own functions only."""
    return _setting.plain


def on(array: Array) -> bool:
    """Tell whether our kernels work on this array: float32, on a GPU, and not switched off.

    >>> import numpy as np
    >>> on(np.zeros(3, np.float32))
    False
    """
    return not is_numpy(array) and array.dtype == _SINGLE and not is_plain()


def __getattr__(name: str) -> Any:
    """Import a module of this folder when it is first used: ``cuda.pooling``.

    Those who compute on a CPU never need it, and modules of the two kinds may import each other.
    """
    if importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
