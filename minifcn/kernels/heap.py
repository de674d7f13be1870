"""Keeping freed memory for the next step, in place of giving it back to the system.

A training step allocates the same arrays as the one before. The C library returns large blocks to
the system as soon as they are freed, and the system clears each page when it is first written to
again: up to a fifth of a small net's step. A program of its own, such as the command ``minifcn``,
can tell the library to keep them. It is a setting of the whole process, which afterwards stays as
large as it ever was; so no library should change it unasked, and Python users call it themselves.
"""

from __future__ import annotations

import ctypes
import sys
import traceback

# From malloc.h of the GNU C library: the numbers of its settings, and what to set them to.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
SETTINGS = {
    M_MMAP_MAX: 0,  # no block is so large that it is fetched from the system for itself
    M_TRIM_THRESHOLD: 2**31 - 1,  # free bytes at the end of the heap that are kept
    M_TOP_PAD: 64 << 20,  # bytes that the heap grows by
}


def keep_freed_memory() -> bool:
    """Keep what is freed in this process from now on; tell whether this system can.

    Only the GNU C library (most Linux systems) has these settings.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*setting) == 1 for setting in SETTINGS.items())


def let_go(error: BaseException | None) -> None:
    """Free the arrays that an error's frames still hold, and give the memory back to the system.

    An error keeps the variables of all functions that it came through, for debuggers: where memory
    has run out in a training step, these are the net's activations. Who goes on after the error,
    to save what is there, needs that memory.

    >>> let_go(MemoryError())
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        if hasattr(error, "arrays"):
            error.arrays = ()
        error = error.__cause__ or error.__context__
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library's
        if trim is not None:
            trim(0)
