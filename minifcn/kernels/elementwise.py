"""Operations that treat each number by itself, at the speed of the memory.

Such an operation does so little with a number that reading and writing it takes most of the time.
So a large array is worked on in parts that stay in a processor's cache from the first step to the
last, and the result is written straight to where it belongs. How the axes lie in memory does not
matter, if it is the same in all arrays: `flat` turns each into one long row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import Array, device_of, is_array, is_numpy, memory_order, to_device, undo, xp_of
from . import cuda
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


def blocks(shape: tuple[int, ...], most: int) -> Iterator[tuple[Any, ...]]:
    """Yield indices that cut an array of any memory order into blocks of about so many numbers.

    >>> [index[0] for index in blocks((5, 3), most=6)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    inner = math.prod(shape[1:])
    if math.prod(shape) <= most:
        yield (...,)
    elif inner > most:
        yield from ((i, *rest) for i in range(shape[0]) for rest in blocks(shape[1:], most))
    else:
        rows = most // inner
        yield from ((slice(i, i + rows), ...) for i in range(0, shape[0], rows))


def keeps_order(function: Callable[..., Array]) -> Callable[..., Array]:
    """Let the result of an elementwise operation lie in memory as the largest operand does.

    NumPy does so by itself. CuPy's results lie row by row: each convolution would have to turn
    them round, to have the channels side by side again. So there the operation sees its operands
    through views, whose axes stand in memory order.

    >>> keeps_order(lambda x, y: x + y)(np.zeros((4, 2)).T, 1.0).strides  # as NumPy does
    (8, 16)
    """

    @functools.wraps(function)
    def ordered(*operands: Any, **named: Any) -> Array:
        arrays = [value for value in (*operands, *named.values()) if is_array(value)]
        if not arrays or is_numpy(arrays[0]):
            return function(*operands, **named)
        largest = max(arrays, key=lambda array: (array.size, array.ndim))
        axes = memory_order(largest)

        def view(value: Any) -> Any:
            if not is_array(value):
                return value
            leading = (None,) * (largest.ndim - value.ndim)  # as broadcasting adds them
            return value[(*leading, ...)].transpose(axes)

        if axes == sorted(axes) or any(array.ndim > largest.ndim for array in arrays):
            return function(*operands, **named)
        result = function(*map(view, operands), **{n: view(value) for n, value in named.items()})
        return result.transpose(undo(axes))

    return ordered


def empty(shape: tuple[int, ...], like: Array) -> Array:
    """Return an array of any content, on the device and of the type of another.

    On the CPU it begins at a multiple of 64 bytes: what a processor writes at once then never lies
    across two lines of its cache. NumPy's own arrays begin anywhere, and fill a tenth more slowly.
    """
    return aligned(shape, like.dtype) if is_numpy(like) else xp_of(like).empty(shape, like.dtype)


def empty_like(array: Array) -> Array:
    """Return such an array that also has the other's shape and memory order."""
    axes = memory_order(array)
    return empty(array.transpose(axes).shape, array).transpose(undo(axes))


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
    if cuda.on(y):
        return cuda.elementwise.where_positive(g, y)
    if not is_numpy(y):
        return _times_positive(y, g)
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


@keeps_order
def _times_positive(y: Array, g: Array) -> Array:
    return (y > 0) * g


def dropout_mask(rng: np.random.Generator, p: float, like: Array) -> Array:
    """Return an array like another: 0 with probability p, else 1 / (1 - p).

    The generator alone determines which: one number is drawn for each, on the CPU, in the order of
    the axes. (A GPU draws the same numbers itself, if the generator is of NumPy's usual kind.)
    """
    if cuda.on(like) and cuda.dropout.can_draw(rng):
        return cuda.dropout.dropout_mask(rng, p, like)
    kept = rng.random(like.shape, np.float32) >= p
    mask = xp_of(like).empty_like(like)  # in the other's memory order, on its device
    mask[...] = to_device(kept, device_of(like))
    mask *= 1 / (1 - p) if p < 1 else 0
    return mask


_TRUTH = np.zeros(0, bool)
