"""Images with a frame of zeros around them: what window.cu does."""

from __future__ import annotations

from ...backend import Array, xp_of
from ...shapes import Pair
from ..elementwise import empty
from .launch import at_once, blocks_for, run


def put(x: Array, size: Pair, first: Pair) -> Array:
    """Return (N, *size, C): x (N, h, w, C) from row and column ``first`` on, zeros around it."""
    x = xp_of(x).ascontiguousarray(x)
    N, h, w, C = x.shape
    y = empty((N, *size, C), x)
    together = at_once(C, x, y)
    count = y.size // together
    where = *size, C // together, h, w, *first
    run("window.put", blocks_for(count), x, y, *where, count, WIDE=together)
    return y
