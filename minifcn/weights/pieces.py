"""Large arrays, moved a piece at a time: fc6 of VGG16 has 411 MB, and a whole copy takes as much.

Files keep the weights of convolutions as (O, C, h, w), in this order; in memory they lie as
(h, w, C, O) (see `minifcn.nn.Conv2d`). What is rearranged in one go jumps through the memory, so it
is done in blocks that a processor's cache holds.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator

import numpy as np

from ..backend import Array, device_of, overwrite, to_device, to_numpy
from .header import WeightsError

Progress = Callable[[float, int], None]
"""Is called with the bytes that are done and the bytes in all."""

ROWS, COLUMNS = 256, 8
"""Of a block. fc6 took 0.6 s with these on two cores, 3.0 s in one go and 4.5 s in 64 x 64."""


def row_pieces(count: int) -> Iterator[slice]:
    """Yield slices of some ROWS each that cover so many rows.

    >>> [(rows.start, rows.stop) for rows in row_pieces(300)]
    [(0, 256), (256, 300)]
    """
    yield from (slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS))


def copy_rows(target: Array, source: Array) -> None:
    """Copy an array into another of its shape, whatever the order of their axes in memory.

    >>> target = np.zeros((2, 3)).T
    >>> copy_rows(target, np.arange(6.0).reshape(3, 2))
    >>> target.tolist()
    [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    """
    for rows in row_pieces(len(target)):
        here, there = target[rows], to_device(source[rows], device_of(target))
        columns = COLUMNS if target.ndim > 2 else target.shape[-1]
        for start in range(0, target.shape[1], columns) if target.ndim > 1 else ():
            overwrite(here[:, start : start + columns], there[:, start : start + columns])
        if target.ndim == 1:
            overwrite(here, there)


def in_order(array: Array) -> Iterator[np.ndarray]:
    """Yield an array's numbers piece by piece, each in the order of the axes.

    >>> [piece.tolist() for piece in in_order(np.array([[1, 2], [3, 4]]).T)]
    [[[1, 3], [2, 4]]]
    """
    for rows in row_pieces(len(array)):
        piece = to_numpy(array[rows])
        if not piece.flags.c_contiguous:
            ordered = np.empty(piece.shape, piece.dtype)
            copy_rows(ordered, piece)
            piece = ordered
        yield piece


def check_finite(array: np.ndarray, name: str, path: object, first_row: int = 0) -> None:
    """Raise unless all numbers of an array, or of its rows from some on, are finite.

    Raises
    ------
    WeightsError
        With the file, the array and the place of the first such number.

    Examples
    --------
    >>> check_finite(np.array([1, np.nan]), "fc6.bias", "net.pth")
    Traceback (most recent call last):
    ...
    minifcn.weights.header.WeightsError: net.pth: fc6.bias holds numbers that are not finite ...
    """
    for rows in row_pieces(len(array)):
        finite = np.isfinite(array[rows])
        if not finite.all():
            first, *rest = np.argwhere(~finite)[0].tolist()
            value = array[(first + rows.start, *rest)]
            place = (first + rows.start + first_row, *rest)
            raise WeightsError(
                f"{path}: {name} holds numbers that are not finite ({value} at {place}): the "
                "training went wrong before it was saved; use an earlier file"
            )


def release(array: np.ndarray) -> None:
    """Tell the system that an array is not needed for now, if it is a view of a mapped file.

    Else the pages that were read stay in memory until the file is closed. The array stays valid:
    what is looked at is read again.

    >>> array = np.ones(3)
    >>> release(array)  # not of a file: nothing is done
    >>> array.sum()
    np.float64(3.0)
    """
    base: object = array
    while base is not None and not isinstance(base, mmap.mmap):
        # Arrays, NumPy's stand-in below strided views, and memoryviews, in this order.
        base = getattr(base, "base", None) if hasattr(base, "base") else getattr(base, "obj", None)
    if not isinstance(base, mmap.mmap) or not hasattr(base, "madvise") or not array.size:
        return
    low, high = np.lib.array_utils.byte_bounds(array)
    start = low - np.frombuffer(base, np.uint8).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages only
    length = start + high - low - first
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, first, length)
