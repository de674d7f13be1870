"""How a batch is cut into parts that fit into the cache, and are shared among threads."""

from __future__ import annotations

import functools
from typing import NamedTuple


class Tile(NamedTuple):
    """Some images, and some rows of their output: all rows, if there are several images."""

    images: slice
    rows: slice


@functools.lru_cache(maxsize=256)  # a net sees the same sizes again and again
def cut(n: int, rows: int, per_tile: int, least: int = 2) -> list[Tile]:
    """Cut n images of so many rows into tiles of about ``per_tile`` rows.

    A tile is a band of one image, or several small images at once. There are ``least`` tiles, if
    possible: two, for two threads. The cut does not depend on the number of threads.

    >>> [(t.images.start, t.rows.start, t.rows.stop) for t in cut(n=2, rows=5, per_tile=3)]
    [(0, 0, 3), (0, 3, 5), (1, 0, 3), (1, 3, 5)]
    """
    size = min(rows, max(1, per_tile))
    if n == 1:
        size = min(size, -(-rows // least))
    if size < rows:
        size = -(-rows // -(-rows // size))  # bands of nearly equal height
        bands = [slice(r, min(r + size, rows)) for r in range(0, rows, size)]
        return [Tile(slice(i, i + 1), band) for i in range(n) for band in bands]
    together = max(1, min(per_tile // rows, -(-n // least)))
    return [Tile(slice(i, min(i + together, n)), slice(0, rows)) for i in range(0, n, together)]
