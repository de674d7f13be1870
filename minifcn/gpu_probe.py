"""Whether CuPy can compute here, tried out: the only place that imports it."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

NOT_INSTALLED = "CuPy is not installed (pip install 'minifcn[cuda13]' or '[cuda12]')"


@functools.cache
def probe_cuda() -> tuple[ModuleType | None, str]:
    """Return CuPy if it can compute here, and one sentence that says what was found.

    An import proves nothing: CuPy imports without a GPU, and fails at the first product when one
    of its libraries is missing. So the probe computes one small product.
    """
    try:
        cupy = importlib.import_module("cupy")
    except Exception as error:  # a missing library, or one of another version: each has its type
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return None, NOT_INSTALLED
        # CuPy's own error begins with a frame of signs, and was raised from the one that tells.
        return None, f"CuPy does not import: {_first_line(error.__cause__ or error)}"
    version = getattr(cupy, "__version__", "of unknown version")  # if a folder is all that is left
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        ones = cupy.ones((2, 2), "f")
        right = float((ones @ ones).sum()) == 8.0
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except Exception as error:  # a missing library, driver or header, each with its own type
        return None, f"CuPy {version} cannot compute here: {_first_line(error)}"
    if not right:
        return None, f"CuPy {version} returned a wrong product on {name}"
    return cupy, f"CuPy {version} on {name} ({count} device{'s' * (count != 1)})"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or repr(error)
    return f"{type(error).__name__}: {text.splitlines()[0]}"
