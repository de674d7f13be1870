"""Operations that treat each number by itself, at the speed of the memory.

Such an operation does so little with a number that reading and writing it takes most of the time.
So a large array is worked on in parts that stay in a processor's cache from the first step to the
last, and the result is written straight to where it belongs. How the axes lie in memory does not
matter, if it is the same in all arrays: `flat` turns each into one long row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..backend import Array, is_numpy, xp_of
from .threads import aligned, parallel_for, workspace

PART = 1 << 17  # numbers: large enough for a thread, small enough for a cache of 2 MB
MANY = 2 << 20  # numbers read or written: fewer are done before a second thread is awake


def flat(*arrays: Array) -> list[Array] | None:
    """Return each array as one row of numbers, in the order in which they lie in memory.

    The rows are views. There are none if the arrays have gaps, or differ in shape or order.

    >>> a = np.zeros((2, 4, 4, 3)).transpose(0, 3, 1, 2)
    >>> [row.shape for row in flat(a, np.zeros_like(a))]
    [(96,), (96,)]
    >>> flat(a, np.zeros(a.shape)) is None
    True
    """
    axes = memory_order(arrays[0])
    ordered = [array.transpose(axes) for array in arrays if array.shape == arrays[0].shape]
    if len(ordered) < len(arrays) or not all(array.flags.c_contiguous for array in ordered):
        return None
    return [array.reshape(-1) for array in ordered]


def memory_order(array: Array) -> list[int]:
    """Return the axes from the one with the largest step in memory to the one with the smallest.

    >>> memory_order(np.zeros((2, 4, 4, 3)).transpose(0, 3, 1, 2))
    [0, 2, 3, 1]
    """
    return sorted(range(array.ndim), key=lambda axis: -array.strides[axis])


def empty(shape: tuple[int, ...], like: Array) -> Array:
    """Return an array of any content, on the device and of the type of another.

    On the CPU it begins at a multiple of 64 bytes: what a processor writes at once then never lies
    across two lines of its cache. NumPy's own arrays begin anywhere, and fill a tenth more slowly.
    """
    return aligned(shape, like.dtype) if is_numpy(like) else xp_of(like).empty(shape, like.dtype)


def empty_like(array: Array) -> Array:
    """Return such an array that also has the other's shape and memory order."""
    axes = memory_order(array)
    result = empty(tuple(array.shape[axis] for axis in axes), array)
    return result.transpose(np.argsort(axes).tolist())


def share_out(count: int, body: Callable[[int], None], data: Array, numbers: int) -> None:
    """Call ``body(i)`` for i = 0 ... count - 1: `parallel_for`, if there is enough to do.

    ``numbers`` tells how many numbers are read or written in all.
    """
    if numbers >= MANY or not is_numpy(data):
        parallel_for(count, body, data)
        return
    with np.errstate(all="ignore"):  # as in parallel_for
        for i in range(count):
            body(i)


def where_positive(g: Array, y: Array) -> Array:
    """Return g · (1 where y is above 0, else 0), of one shape and type, in y's memory order."""
    if not is_numpy(y):
        return g * (y > 0)
    result = empty_like(y)
    rows = flat(g, y, result)
    if rows is None:
        with np.errstate(all="ignore"):
            return np.multiply(g, y > 0, out=result)
    gradient, output, product = rows
    parts = [slice(start, start + PART) for start in range(0, y.size, PART)]

    def multiply(i: int) -> None:
        # Turned into numbers first, what the comparison finds is multiplied in one fast loop.
        part = parts[i]
        positive = workspace("positive", output[part].shape, _TRUTH)
        np.greater(output[part], 0, out=positive)
        np.copyto(product[part], positive)
        np.multiply(gradient[part], product[part], out=product[part])

    share_out(len(parts), multiply, y, 3 * y.size)
    return result


_TRUTH = np.zeros(0, bool)
