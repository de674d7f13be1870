"""The same numbers in another shape, another order of axes, another type or on another device.

None of these computes anything, so each gradient is the way back: reshape undoes reshape, permute
undoes permute. Repeating numbers (`broadcast_to`) and adding the repetitions up (`sum_to`) are each
other's gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..autograd import primitive
from ..backend import Array, DTypeError, to_device, xp_of
from ..shapes import shape_error


def axes_of(operation: str, dim: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """Return ``dim`` (None: all axes; one number or several) as a tuple of axes from 0 up.

    >>> axes_of("sum", (0, -1), (5, 6, 7))
    (0, 2)
    """
    ndim = len(shape)
    dims = range(ndim) if dim is None else dim if isinstance(dim, tuple | list) else (dim,)
    axes = tuple(d + ndim if d < 0 else d for d in dims)
    if any(not 0 <= axis < ndim for axis in axes) or len(set(axes)) < len(axes):
        rule = f"dim={dim} must be different whole numbers from {-ndim} to {ndim - 1}"
        raise shape_error(operation, rule, x=shape)
    return axes


@primitive(linear=("x",))
def reshape(x: Array, shape: int | Sequence[int]) -> Array:
    """Return the same numbers, counted row by row, in another shape; one size may be -1.

    >>> reshape(np.arange(6), (-1, 3))
    array([[0, 1, 2],
           [3, 4, 5]])
    """
    try:
        return x.reshape(shape)
    except ValueError:
        rule = f"{x.size} numbers do not fill the shape {shape}"
        raise shape_error("reshape", rule, "-1 for one of the sizes", x=x) from None


@reshape.gradient("x")
def _(g: Any, s: Any) -> Any:
    return reshape(g, s.shape["x"])


@primitive(linear=("x",))
def permute(x: Array, dims: Sequence[int]) -> Array:
    """Return a view with the axes in another order: axis i of the result is axis dims[i] of x.

    >>> permute(np.zeros((1, 5, 6, 3)), (0, 3, 1, 2)).shape
    (1, 3, 5, 6)
    """
    axes = axes_of("permute", dims, x.shape)
    if len(axes) != x.ndim:
        raise shape_error("permute", f"dims={dims} must name each of the {x.ndim} axes once", x=x)
    return x.transpose(axes)


@permute.gradient("x")
def _(g: Any, s: Any) -> Any:
    axes = axes_of("permute", s.dims, s.shape["x"])
    return permute(g, [axes.index(i) for i in range(len(axes))])  # the inverse order


def transpose(x: Any, dim0: int, dim1: int) -> Any:
    """Return a view with two axes exchanged.

    >>> transpose(np.zeros((2, 3, 4)), 0, -1).shape
    (4, 3, 2)
    """
    (a, b), order = axes_of("transpose", (dim0, dim1), x.shape), list(range(x.ndim))
    order[a], order[b] = b, a
    return permute(x, order)


@primitive(linear=("x",))
def broadcast_to(x: Array, shape: Sequence[int]) -> Array:
    """Repeat x along new leading axes and along axes of size 1, without using memory.

    >>> broadcast_to(np.array([1, 2]), (3, 2)).tolist()
    [[1, 2], [1, 2], [1, 2]]
    """
    try:
        return xp_of(x).broadcast_to(x, shape)
    except ValueError:
        rule = f"sizes other than 1 must equal the last sizes of {tuple(shape)}"
        raise shape_error("broadcast_to", rule, x=x) from None


@broadcast_to.gradient("x")
def _(g: Any, s: Any) -> Any:
    return sum_to(g, s.shape["x"])


@primitive(linear=("x",))
def sum_to(x: Array, shape: Sequence[int]) -> Array:
    """Add up the repetitions that `broadcast_to` made of an array of this shape.

    The engine calls this for every input that was broadcast: a number that was used many times
    receives the sum of what all its uses receive.

    >>> sum_to(np.ones((3, 2)), (2,)).tolist()
    [3.0, 3.0]
    """
    padded = (1,) * (x.ndim - len(shape)) + tuple(shape)  # as broadcasting aligns them
    if len(padded) > x.ndim or any(n not in (1, m) for n, m in zip(padded, x.shape, strict=True)):
        raise shape_error("sum_to", f"{tuple(shape)} does not broadcast to the shape of x", x=x)
    axes = tuple(i for i, n in enumerate(padded) if n != x.shape[i])
    return x.sum(axis=axes, keepdims=True).reshape(shape)


@sum_to.gradient("x")
def _(g: Any, s: Any) -> Any:
    return broadcast_to(g, s.shape["x"])


@primitive(linear=("x",))
def to(x: Array, target: Any) -> Array:
    """Return x on a device ("cpu", "cuda", "cuda:1") or of an element type ("float64", np.float32).

    It is x itself where nothing has to change. The gradient goes back to where x is. Of a tensor
    converted to whole numbers there is no gradient.

    Raises
    ------
    DeviceError, DTypeError
        If the device cannot be used, or the target is neither a device nor a type.

    Examples
    --------
    >>> to(np.ones(2, "float32"), "float64").dtype
    dtype('float64')
    """
    if isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda"):
        return to_device(x, target)
    try:
        dtype = np.dtype(target)
    except TypeError:
        dtype = np.dtype(object)
    if target is None or dtype.kind not in "fiub":
        need = "a device ('cpu', 'cuda', 'cuda:1') or a type of numbers ('float32')"
        raise DTypeError(f"to({target!r}): the target must be {need}")
    return x.astype(dtype, copy=False)


@to.gradient("x")
def _(g: Any, s: Any) -> Any:
    return to(to(g, s.device["x"]), s.dtype["x"])


# The same in loops over single numbers.


@reshape.reference
def _(x: Array, shape: Any) -> Array:
    result = np.empty(x.size, x.dtype).reshape(shape)
    for source, position in zip(np.ndindex(x.shape), np.ndindex(result.shape), strict=True):
        result[position] = x[source]
    return result


@permute.reference
def _(x: Array, dims: Any) -> Array:
    result = np.empty([x.shape[d] for d in dims], x.dtype)
    for position in np.ndindex(result.shape):
        source = [0] * x.ndim
        for i, d in zip(position, dims, strict=True):
            source[d] = i
        result[position] = x[tuple(source)]
    return result


def _before_broadcasting(position: tuple[int, ...], shape: Any) -> tuple[int, ...]:
    """Return where the number at a position of the broadcast array came from."""
    last = position[len(position) - len(shape) :]
    return tuple(0 if n == 1 else i for i, n in zip(last, shape, strict=True))


@broadcast_to.reference
def _(x: Array, shape: Any) -> Array:
    result = np.empty(shape, x.dtype)
    for position in np.ndindex(result.shape):
        result[position] = x[_before_broadcasting(position, x.shape)]
    return result


@sum_to.reference
def _(x: Array, shape: Any) -> Array:
    result = np.zeros(shape, x.dtype)
    for position in np.ndindex(x.shape):
        result[_before_broadcasting(position, shape)] += x[position]
    return result


to.reference(lambda x, target: np.array(x))


@reshape.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "to a tuple", {"x": rng.normal(size=(2, 3, 2)), "shape": (4, 3)}
    yield "one size left open", {"x": rng.normal(size=(2, 3, 2)), "shape": (3, -1)}
    yield "one number, flat", {"x": rng.normal(size=(2, 3)), "shape": -1}
    yield "not contiguous", {"x": rng.normal(size=(2, 6))[:, ::2].T, "shape": (2, 3)}
    yield "to a single number", {"x": rng.normal(size=(1, 1)), "shape": ()}
    yield "nothing at all", {"x": rng.normal(size=(0, 3)), "shape": (3, 0, 2)}


@permute.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "a cycle of three", {"x": rng.normal(size=(2, 3, 4)), "dims": (2, 0, 1)}
    yield "channels last to first", {"x": rng.normal(size=(2, 3, 2, 4)), "dims": (0, 3, 1, 2)}
    yield "negative dims", {"x": rng.normal(size=(2, 3, 4)), "dims": (-2, -1, 0)}
    yield "single number", {"x": rng.normal(size=()), "dims": ()}
    yield "nothing at all", {"x": rng.normal(size=(2, 0, 3)), "dims": (1, 2, 0)}


BROADCASTS: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
    ("new leading axis", (3,), (2, 3)),
    ("axis of size 1 in the middle", (2, 1, 3), (2, 4, 3)),
    ("both", (3, 1), (2, 3, 4)),
    ("single number", (), (2, 2)),
    ("nothing to do", (2, 3), (2, 3)),
    ("axis that stays 1", (1, 3), (1, 3)),
    ("repeated no times", (1, 3), (0, 3)),
]


@broadcast_to.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, small, large in BROADCASTS:
        yield label, {"x": rng.normal(size=small), "shape": large}


@sum_to.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, small, large in BROADCASTS:
        yield label, {"x": rng.normal(size=large), "shape": small}


@to.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "to the CPU", {"x": rng.normal(size=(2, 3)), "target": "cpu"}
