"""Sums over all pixels: what reduction.cu does."""

from __future__ import annotations

from ...backend import Array
from ..elementwise import empty
from .launch import blocks_for, run

CHANNELS = 32  # of a block
LEAST_ROWS = 256  # of a block: fewer are not worth a second pass
MOST_PARTS = 512  # a few blocks for each processor of a GPU


def sum_rows(rows: Array) -> Array:
    """Return the sum (C,) of the rows of a contiguous matrix (count, C), float32."""
    count, C = rows.shape
    each = max(LEAST_ROWS, -(-count // MOST_PARTS))
    parts = -(-count // each)
    sums = empty((parts, C), rows)
    blocks = blocks_for(C, CHANNELS)
    run("reduction.sum_rows", (blocks, parts), rows, sums, count, C, each)
    if parts == 1:
        return sums[0]
    total = empty((C,), rows)
    run("reduction.sum_rows", (blocks, 1), sums, total, parts, C, parts)
    return total
