"""What elementwise.cu does: operations that treat each number by itself."""

from __future__ import annotations

from ...backend import Array
from ..elementwise import empty_like, flat
from .launch import at_once, blocks_for, check_shapes, run


def where_positive(g: Array, y: Array) -> Array:
    """Return g · (1 where y is above 0, else 0), of one shape and type, in y's memory order."""
    check_shapes("elementwise.where_positive", g=(g, y.shape))
    result = empty_like(y)
    rows = flat(g, y, result)
    if rows is None:  # gaps in memory, or another order: copy both to one without
        rows = flat(in_order(g, y), in_order(y, y), result)
    assert rows is not None
    together = at_once(y.size, *rows)
    count = y.size // together
    run("elementwise.where_positive", blocks_for(count), *rows, count, WIDE=together)
    return result


def add_bias(y: Array, bias: Array, relu: bool = False) -> None:
    """Add a bias (C,) to y (..., C), in place; with ``relu``, then set to 0 what is below it.

    y must be contiguous. A NaN stays NaN.
    """
    check_shapes("elementwise.add_bias", bias=(bias, y.shape[-1:]))
    together = at_once(len(bias), y, bias)
    count = y.size // together
    settings = len(bias) // together, int(relu), count
    run("elementwise.add_bias", blocks_for(count), y, bias, *settings, WIDE=together)


def in_order(array: Array, of: Array) -> Array:
    """Return a copy without gaps in another array's memory order."""
    result = empty_like(of)
    result[...] = array
    return result
