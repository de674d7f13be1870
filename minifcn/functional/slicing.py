"""Parts of arrays: cutting them out, putting them into zeros, padding, cropping, concatenating.

Cutting a part out (`getitem`) and putting it back into zeros (`put_slice`) are each other's
gradient; so are padding with zeros and padding by negative amounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np

from ..autograd import primitive
from ..backend import Array, Error, xp_of
from ..kernels import cuda
from ..shapes import Pair, pair, shape_error
from .shaping import axes_of

Index: TypeAlias = Any  # a whole number, slice, None or ..., or a tuple of them
Pads: TypeAlias = list[tuple[int, int]]  # for each axis, how much to add before and after


class IndexingError(Error, IndexError):
    """An index that is out of range, or of a kind that is not supported."""


@primitive(linear=("x",))
def getitem(x: Array, index: Index) -> Array:
    """Return the view ``x[index]`` for numbers, slices, None and ``...`` as in NumPy.

    An array is no index here: it could name an element twice, and then `put_slice` would not be
    the gradient.

    Raises
    ------
    IndexingError
        If the index is an array, a list or a truth value, or out of range.

    Examples
    --------
    >>> getitem(np.arange(6).reshape(2, 3), (slice(None), -1))
    array([2, 5])
    """
    for part in index if isinstance(index, tuple) else (index,):
        number = isinstance(part, int | np.integer) and not isinstance(part, bool)
        if not number and not isinstance(part, slice | EllipsisType | None):
            kind = type(part).__name__
            rule = "use whole numbers, slices, None and ...; for arrays index x.numpy()"
            raise IndexingError(f"a tensor was indexed with a {kind}: {rule}")
    try:
        return x[index]
    except IndexError as error:
        raise IndexingError(f"a tensor of shape {x.shape}: {error}") from None


@getitem.gradient("x")
def _(g: Any, s: Any) -> Any:
    return put_slice(g, s.index, s.shape["x"])


@primitive(linear=("x",))
def put_slice(x: Array, index: Index, shape: Sequence[int]) -> Array:
    """Return zeros of the given shape, with x at ``index``.

    >>> put_slice(np.ones(2), slice(1, None), (3,)).tolist()
    [0.0, 1.0, 1.0]
    """
    place = np.broadcast_to(np.zeros(()), shape)[index]  # no memory is taken for it
    if place.shape != x.shape:
        rule = f"the place for x has the shape {place.shape}"
        raise shape_error("put_slice", rule, x=x, zeros=shape)
    first = _window(index, shape)
    if cuda.on(x) and first and x.size:
        # (N, C, H, W) -> (N, H, W, C), and back
        y = cuda.window.put(x.transpose(0, 2, 3, 1), (shape[2], shape[3]), first)
        return y.transpose(0, 3, 1, 2)
    y = xp_of(x).zeros_like(x, shape=shape)  # in x's memory order, if the axes are as many
    y[index] = x
    return y


def _window(index: Index, shape: Sequence[int]) -> Pair | None:
    """Return the first row and column if an index is that of a `crop` of images (N, C, H, W).

    >>> _window((..., slice(1, 3), slice(2, None)), (1, 3, 4, 5))
    (1, 2)
    """
    if len(shape) != 4 or not isinstance(index, tuple) or len(index) != 3:
        return None
    rest, rows, columns = index
    if rest is not ... or not (isinstance(rows, slice) and isinstance(columns, slice)):
        return None
    if rows.step not in (None, 1) or columns.step not in (None, 1):
        return None
    return rows.indices(shape[2])[0], columns.indices(shape[3])[0]


@put_slice.gradient("x")
def _(g: Any, s: Any) -> Any:
    return getitem(g, s.index)


@primitive(linear=("x",))
def pad(x: Array, pad: Sequence[int], value: float = 0.0) -> Array:
    """Surround x with a constant; the amounts are for the last axis first.

    Parameters
    ----------
    x
        An array of any shape.
    pad
        (before, after) for the last axis, then for the last but one, and so on: (left, right, top,
        bottom) for images. A negative amount cuts off.
    value
        The constant.

    Raises
    ------
    ShapeError
        If the amounts are not pairs, are for more axes than there are, or cut off too much.

    Examples
    --------
    >>> pad(np.ones((1, 2)), (0, 1, 1, 0)).tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    amounts = _amounts(pad, x.shape)
    shape = [n + before + after for n, (before, after) in zip(x.shape, amounts, strict=True)]
    y = xp_of(x).full_like(x, value, shape=shape)
    y[_inside(amounts, shape)] = x[_inside([(-b, -a) for b, a in amounts], x.shape)]
    return y


@pad.gradient("x")
def _(g: Any, s: Any) -> Any:
    return pad(g, [-amount for amount in s.pad])


def _amounts(pad: Sequence[int], shape: Sequence[int]) -> Pads:
    """Return the amounts for each axis, the first axis first."""
    if isinstance(pad, int):
        rule = f"pad={pad} must be pairs (before, after), the last axis first"
        raise shape_error("pad", rule, f"pad=({pad}, {pad}, {pad}, {pad}) for images", x=shape)
    pairs = list(zip(pad[::2], pad[1::2], strict=False))
    if len(pad) % 2 or len(pairs) > len(shape):
        rule = f"pad={tuple(pad)} must be pairs (before, after) for at most {len(shape)} axes"
        raise shape_error("pad", rule, x=shape)
    amounts = [(0, 0)] * (len(shape) - len(pairs)) + pairs[::-1]
    for n, (before, after) in zip(shape, amounts, strict=True):
        if n + min(before, 0) + min(after, 0) < 0:
            cut = f"{before} and {after} would cut more than there is off an axis of {n}"
            raise shape_error("pad", cut, x=shape)
    return amounts


def _inside(amounts: Pads, shape: Sequence[int]) -> tuple[slice, ...]:
    """Return what positive amounts leave of each axis; a negative one leaves all."""
    return tuple(
        slice(max(before, 0), n - max(after, 0))
        for n, (before, after) in zip(shape, amounts, strict=True)
    )


def crop(x: Any, size: int | tuple[int, int], offset: int | tuple[int, int]) -> Any:
    """Cut a window out of the last two axes: Caffe's Crop, which aligns the scores of an FCN.

    Parameters
    ----------
    x : (..., H, W)
    size
        The window's height and width, or one number for both.
    offset
        The first row and column to keep, or one number for both.

    Returns
    -------
    (..., size[0], size[1])
        Rows offset[0] to offset[0] + size[0] - 1, and columns likewise. A view of x.

    Raises
    ------
    ShapeError
        If the window is not inside x.

    Examples
    --------
    >>> crop(np.arange(20).reshape(4, 5), size=2, offset=(1, 3))
    array([[ 8,  9],
           [13, 14]])
    """
    (height, width), (top, left) = pair(size, "size", least=1), pair(offset, "offset", least=0)
    if x.ndim < 2 or top + height > x.shape[-2] or left + width > x.shape[-1]:
        ends = f"rows {top} to {top + height - 1} and columns {left} to {left + width - 1}"
        raise shape_error("crop", f"x does not have {ends}", "a smaller size or offset", x=x)
    return getitem(x, (..., slice(top, top + height), slice(left, left + width)))


@primitive(linear=("x", "y"))
def concatenate(x: Array, y: Array, dim: int = 0) -> Array:
    """Return y behind x along one axis (see `cat` for more than two arrays).

    >>> concatenate(np.zeros((1, 2)), np.ones((1, 1)), dim=1)
    array([[0., 0., 1.]])
    """
    (axis,) = axes_of("cat", dim, x.shape)
    if x.ndim != y.ndim or any(x.shape[i] != y.shape[i] for i in range(x.ndim) if i != axis):
        raise shape_error("cat", f"all sizes but that of dim={dim} must be equal", x=x, y=y)
    shape = [n + m * (i == axis) for i, (n, m) in enumerate(zip(x.shape, y.shape, strict=True))]
    both = xp_of(x).empty_like(x, shape=shape)  # in x's memory order
    both[_along(axis, 0, x.shape[axis])] = x
    both[_along(axis, x.shape[axis], None)] = y
    return both


@concatenate.gradient("x")
def _(g: Any, s: Any) -> Any:
    (axis,) = axes_of("cat", s.dim, g.shape)
    return getitem(g, _along(axis, 0, s.shape["x"][axis]))


@concatenate.gradient("y")
def _(g: Any, s: Any) -> Any:
    (axis,) = axes_of("cat", s.dim, g.shape)
    return getitem(g, _along(axis, s.shape["x"][axis], None))


def _along(axis: int, start: int, stop: int | None) -> tuple[slice, ...]:
    """Return the index of a range of one axis and all of the axes before it."""
    return (slice(None),) * axis + (slice(start, stop),)


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Return several arrays, one behind the other along an axis; all other sizes are equal.

    >>> cat([np.zeros((1, 2)), np.ones((2, 2))]).shape
    (3, 2)
    """
    if not tensors:
        raise shape_error("cat", "at least one array is needed, and the list is empty")
    if len(tensors) == 1:
        return tensors[0]
    half = len(tensors) // 2  # halves: each number is copied log2(n) times, not up to n times
    return concatenate(cat(tensors[:half], dim), cat(tensors[half:], dim), dim)


# The same in loops over single numbers.


def _picks(index: Index, shape: Any) -> tuple[list[int], list[tuple[Any, Any]]]:
    """Return the shape of x[index], and pairs (position in it, position in x)."""
    parts = index if isinstance(index, tuple) else (index,)
    missing = len(shape) - sum(part not in (None, ...) for part in parts)
    at = parts.index(...) if ... in parts else len(parts)
    sizes = iter(shape)
    rows: list[Any] = []  # for each axis of x, the row or the range of rows that is picked
    new: list[int] = []  # the places of new axes in the result
    for part in parts[:at] + (slice(None),) * missing + parts[at + 1 :]:
        if part is None:
            new.append(sum(isinstance(picked, range) for picked in rows) + len(new))
        else:  # a slice picks a range of rows, a number picks one row and drops the axis
            rows.append(range(next(sizes))[part])
    result, pairs = [len(picked) for picked in rows if isinstance(picked, range)], []
    for position in np.ndindex(*result):
        steps = iter(position)
        source = tuple(p[next(steps)] if isinstance(p, range) else p for p in rows)
        pairs.append((_with_ones(position, new, 0), source))
    return list(_with_ones(result, new, 1)), pairs


def _with_ones(sizes: Sequence[int], new: list[int], value: int) -> tuple[int, ...]:
    """Return the sizes (or a position) with a value for each new axis inserted."""
    sizes = list(sizes)
    for place in new:
        sizes.insert(place, value)
    return tuple(sizes)


@getitem.reference
def _(x: Array, index: Any) -> Array:
    shape, pairs = _picks(index, x.shape)
    result = np.empty(shape, x.dtype)
    for position, source in pairs:
        result[position] = x[source]
    return result


@put_slice.reference
def _(x: Array, index: Any, shape: Any) -> Array:
    result = np.zeros(shape, x.dtype)
    for position, target in _picks(index, shape)[1]:
        result[target] = x[position]
    return result


@pad.reference
def _(x: Array, pad: Any, value: float = 0.0) -> Array:
    amounts = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))[
        ::-1
    ]
    result = np.full([n + sum(both) for n, both in zip(x.shape, amounts, strict=True)], value)
    for position in np.ndindex(result.shape):
        source = tuple(i - before for i, (before, _) in zip(position, amounts, strict=True))
        if all(0 <= i < n for i, n in zip(source, x.shape, strict=True)):
            result[position] = x[source]
    return result.astype(x.dtype)


@concatenate.reference
def _(x: Array, y: Array, dim: int = 0) -> Array:
    first = x.shape[dim]
    result = np.empty([n + (i == dim % x.ndim) * y.shape[dim] for i, n in enumerate(x.shape)])
    for position in np.ndindex(result.shape):
        source = list(position)
        if position[dim] >= first:
            source[dim] -= first
        result[position] = (x if position[dim] < first else y)[tuple(source)]
    return result.astype(x.dtype)


INDICES: list[tuple[str, Index]] = [
    ("one number", 1),
    ("negative number", (slice(None), -2)),
    ("window", (slice(1, 3), slice(0, 2))),
    ("every other, backwards", (slice(None, None, -2), slice(3, None))),
    ("new axis", (None, slice(1, None))),
    ("ellipsis", (..., slice(-2, None))),
    ("ellipsis, number and new axis", (0, ..., None)),
    ("one element", (1, 2)),
    ("nothing at all", (slice(2, 2), slice(None))),
    ("everything", ...),
]


@getitem.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, index in INDICES:
        yield label, {"x": rng.normal(size=(3, 4)), "index": index}


@put_slice.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, index in INDICES:
        part = np.asarray(np.zeros((3, 4))[index])
        yield label, {"x": rng.normal(size=part.shape), "index": index, "shape": (3, 4)}


@pad.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, amounts, value in [
        ("all sides different", (1, 2, 3, 0), 0.0),
        ("last axis only", (1, 0), 0.0),
        ("with a value", (1, 1, 0, 2), 2.5),
        ("cut off", (-1, 0, 0, -2), 0.0),
        ("cut off and add", (-2, 1, 3, -1), 0.0),
        ("cut all off", (-4, 0), 0.0),
        ("nothing to do", (), 0.0),
    ]:
        yield label, {"x": rng.normal(size=(3, 4)), "pad": amounts, "value": value}
    yield (
        "channels-last images",
        {
            "x": rng.normal(size=(2, 3, 2, 2)).transpose(0, 3, 1, 2),
            "pad": (1, 0, 0, 2),
        },
    )


@concatenate.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, x_shape, y_shape, dim in [
        ("rows", (2, 3), (1, 3), 0),
        ("channels", (2, 1, 2, 2), (2, 3, 2, 2), 1),
        ("negative dim", (2, 3), (2, 2), -1),
        ("nothing in front", (0, 3), (2, 3), 0),
    ]:
        yield label, {"x": rng.normal(size=x_shape), "y": rng.normal(size=y_shape), "dim": dim}
