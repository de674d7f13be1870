"""Matrix products and the fully connected layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autograd import primitive
from ..backend import Array
from ..kernels import gemm
from ..shapes import shape_error
from .shaping import reshape, transpose


@primitive(linear=("x", "y"))
def matmul(x: Array, y: Array) -> Array:
    """Return the matrix product over the last two axes; the axes before them are broadcast.

    Parameters
    ----------
    x : (..., n, k)
    y : (..., k, m)

    Returns
    -------
    (..., n, m)

    Raises
    ------
    ShapeError
        If the sizes do not fit, or an array has fewer than two axes.

    Examples
    --------
    >>> matmul(np.array([[1, 2]]), np.array([[3], [4]]))
    array([[11]])
    """
    if x.ndim < 2 or y.ndim < 2:
        fix = "x.reshape(1, -1) for a row, y.reshape(-1, 1) for a column"
        raise shape_error("matmul", "both x and y must have two axes or more", fix, x=x, y=y)
    if x.shape[-1] != y.shape[-2]:
        rule = f"the columns of x ({x.shape[-1]}) must be as many as the rows of y ({y.shape[-2]})"
        raise shape_error("matmul", rule, x=x, y=y)
    try:
        return gemm.product(x, y)
    except ValueError:
        raise shape_error("matmul", "the axes before the last two differ", x=x, y=y) from None


@matmul.gradient("x", saves=("y",))
def _(g: Any, s: Any) -> Any:
    return matmul(g, transpose(s.y, -1, -2))


@matmul.gradient("y", saves=("x",))
def _(g: Any, s: Any) -> Any:
    return matmul(transpose(s.x, -1, -2), g)


@primitive(linear=("x", "weight"))
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return x · weightᵀ + bias: each output is a weighted sum of all inputs.

    Parameters
    ----------
    x : (..., I)
    weight : (O, I)
        One row of weights per output.
    bias : (O,), optional

    Returns
    -------
    (..., O)

    Raises
    ------
    ShapeError
        If the sizes do not fit.

    Examples
    --------
    >>> linear(np.array([1.0, 2.0]), np.array([[3.0, 4.0]]), np.array([0.5]))
    array([11.5])
    """
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        rule = "the last size of x must be I of a weight (O, I)"
        raise shape_error("linear", rule, "flattening x with reshape", x=x, weight=weight)
    if bias is not None and bias.shape != weight.shape[:1]:
        rule = f"the bias must have {weight.shape[0]} numbers, one per row of weight"
        raise shape_error("linear", rule, weight=weight, bias=bias)
    y = gemm.product(_rows(x), weight.T)
    y = y.reshape(*x.shape[:-1], len(weight))  # (rows, O) -> (..., O)
    return y if bias is None else y + bias


@linear.gradient("x", saves=("weight",))
def _(g: Any, s: Any) -> Any:
    return reshape(matmul(_rows(g), s.weight), s.shape["x"])


@linear.gradient("weight", saves=("x",))
def _(g: Any, s: Any) -> Any:
    return matmul(transpose(_rows(g), 0, 1), _rows(s.x))


@linear.gradient("bias")
def _(g: Any, s: Any) -> Any:
    return g  # the engine sums it over all axes but the last


def _rows(x: Any) -> Any:
    """Return all vectors along the last axis as the rows of one matrix: (..., I) -> (N, I)."""
    return reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


# The same in loops over single numbers.


@matmul.reference
def _(x: Array, y: Array) -> Array:
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    xs = np.broadcast_to(x, batch + x.shape[-2:])
    ys = np.broadcast_to(y, batch + y.shape[-2:])
    result = np.zeros((*batch, x.shape[-2], y.shape[-1]), x.dtype)
    for *b, i, j in np.ndindex(result.shape):
        for k in range(x.shape[-1]):
            result[(*b, i, j)] += xs[(*b, i, k)] * ys[(*b, k, j)]
    return result


@linear.reference
def _(x: Array, weight: Array, bias: Any = None) -> Array:
    result = np.zeros((*x.shape[:-1], len(weight)), x.dtype)
    for *n, o in np.ndindex(result.shape):
        result[(*n, o)] = 0 if bias is None else bias[o]
        for i in range(x.shape[-1]):
            result[(*n, o)] += x[(*n, i)] * weight[o, i]
    return result


@matmul.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, x_shape, y_shape in [
        ("matrices", (2, 3), (3, 4)),
        ("row times column", (1, 3), (3, 1)),
        ("batch", (2, 2, 3), (2, 3, 4)),
        ("batch times one matrix", (2, 2, 3), (3, 4)),
        ("batches that broadcast", (2, 1, 2, 3), (4, 3, 2)),
        ("sums of nothing", (2, 0), (0, 3)),
        ("nothing at all", (0, 2), (2, 3)),
    ]:
        yield label, {"x": rng.normal(size=x_shape), "y": rng.normal(size=y_shape)}
    yield "transposed views", {"x": rng.normal(size=(3, 2)).T, "y": rng.normal(size=(4, 3)).T}


@linear.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, x_shape, outputs, biased in [
        ("with bias", (2, 3), 4, True),
        ("without bias", (2, 3), 4, False),
        ("one vector", (3,), 2, True),
        ("more axes", (2, 2, 3), 2, True),
        ("nothing at all", (0, 3), 2, True),
    ]:
        x, weight = rng.normal(size=x_shape), rng.normal(size=(outputs, x_shape[-1]))
        yield (
            label,
            {"x": x, "weight": weight, "bias": rng.normal(size=outputs) if biased else None},
        )
