"""Sum, mean and maximum over some or all axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from ..autograd import array_of, primitive
from ..backend import Array, xp_of
from ..kernels import cuda
from ..kernels.threads import parallel_for
from ..shapes import shape_error
from .shaping import axes_of, broadcast_to, reshape

Dim: TypeAlias = int | tuple[int, ...] | None  # one axis, several, or all of them
WIDTH = 1024  # numbers in a long row of `_sum_rows`
SHARE = 1 << 20  # numbers that are worth a thread's while there


@primitive(linear=("x",))
def sum(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    """Return the sum over the axes ``dim`` (all, if None); ``keepdim`` keeps them with size 1.

    >>> sum(np.array([[1, 2], [3, 4]]), dim=1)
    array([3, 7])
    """
    axes = axes_of("sum", dim, x.shape)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    if len(kept) == 1 and not keepdim and x.size and x.dtype.kind == "f":
        rows = x.transpose(*sorted(axes), *kept)  # (N, C, H, W) -> (N, H, W, C)
        if rows.flags.c_contiguous:
            return _sum_rows(rows.reshape(-1, x.shape[kept[0]]))  # (N, H, W, C) -> (N*H*W, C)
    return x.sum(axis=axes, keepdims=keepdim)


def _sum_rows(rows: Array) -> Array:
    """Add up the rows of a matrix: the bias gradient of a convolution, in channels-last memory.

    Several short rows are seen as one long one first, and their sums are added up in the end: a
    processor works on 16 and more numbers at a time. As a product with a row of ones that takes a
    tenth of the time of ``rows.sum(0)``. It goes through the pool because BLAS has one thread
    there; so many partial sums as there are make the same bits on any number of threads.
    """
    if cuda.on(rows):
        return cuda.reduction.sum_rows(rows)
    xp, (count, C) = xp_of(rows), rows.shape
    together = WIDTH // C or 1
    wide = rows[: count - count % together].reshape(-1, together * C)
    shares = wide.size // SHARE or 1
    each = -(-len(wide) // shares)
    ones, sums = xp.ones(each, rows.dtype), xp.empty((shares, together * C), rows.dtype)

    def add_up(i: int) -> None:
        part = wide[i * each : (i + 1) * each]
        xp.matmul(ones[: len(part)], part, out=sums[i])

    parallel_for(shares, add_up, rows)
    return sums.reshape(-1, C).sum(0) + rows[count - count % together :].sum(0)


@sum.gradient("x")
def _(g: Any, s: Any) -> Any:
    return broadcast_to(_keep(g, s.dim, s.shape["x"]), s.shape["x"])


@primitive(linear=("x",))
def mean(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    """Return the mean over the axes ``dim`` (all, if None); ``keepdim`` keeps them with size 1.

    Raises
    ------
    ShapeError
        If there is nothing to take the mean of.

    Examples
    --------
    >>> mean(np.array([[1.0, 2.0], [3.0, 4.0]]), dim=0)
    array([2., 3.])
    """
    axes = axes_of("mean", dim, x.shape)
    _count("mean", x.shape, axes)
    return x.mean(axis=axes, keepdims=keepdim)


@mean.gradient("x")
def _(g: Any, s: Any) -> Any:
    count = _count("mean", s.shape["x"], axes_of("mean", s.dim, s.shape["x"]))
    return broadcast_to(_keep(g / count, s.dim, s.shape["x"]), s.shape["x"])


@primitive
def max(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    """Return the largest value over the axes ``dim`` (all, if None), as PyTorch's ``amax`` does.

    Where several values are largest, they share the gradient equally. A NaN is the largest.

    Raises
    ------
    ShapeError
        If there is nothing to take the maximum of.

    Examples
    --------
    >>> max(np.array([[1, 2], [4, 3]]), dim=1, keepdim=True)
    array([[2],
           [4]])
    """
    axes = axes_of("max", dim, x.shape)
    _count("max", x.shape, axes)
    return x.max(axis=axes, keepdims=keepdim)


@max.gradient("x", saves=("x", "output"))
def _(g: Any, s: Any) -> Any:
    x, largest = array_of(s.x), _keep(array_of(s.output), s.dim, s.shape["x"])
    chosen = x == largest
    ties = chosen.sum(axis=axes_of("max", s.dim, x.shape), keepdims=True)
    return _keep(g, s.dim, x.shape) * (chosen / ties).astype(x.dtype)


def _keep(g: Any, dim: Dim, shape: tuple[int, ...]) -> Any:
    """Return g with the axes that a reduction took away, with size 1: ready to be broadcast."""
    axes = axes_of("reshape", dim, shape)
    return reshape(g, tuple(1 if i in axes else n for i, n in enumerate(shape)))


def _count(operation: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Return how many numbers make one result; none is an error."""
    count = math.prod(shape[axis] for axis in axes)
    if not count:
        raise shape_error(operation, f"no numbers to reduce along dim={axes}", x=shape)
    return count


def _loops(formula: Callable[[list[float]], float]) -> Callable[..., np.ndarray]:
    """Return the loop version of a reduction, from its formula for a list of numbers."""

    def loop(x: Array, dim: Dim = None, keepdim: bool = False) -> np.ndarray:
        axes = axes_of("loop", dim, x.shape)
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        lists: dict[Any, list[float]] = {position: [] for position in np.ndindex(shape)}
        for position in np.ndindex(x.shape):
            target = tuple(0 if i in axes else p for i, p in enumerate(position))
            lists[target].append(float(x[position]))
        result = np.empty(shape, x.dtype)
        for position, numbers in lists.items():
            result[position] = formula(numbers)
        return result if keepdim else result.squeeze(axes)

    return loop


sum.reference(_loops(math.fsum))
mean.reference(_loops(lambda numbers: math.fsum(numbers) / len(numbers)))
max.reference(_loops(lambda numbers: sorted(numbers)[-1]))


def _samples(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, shape, dim, keepdim in [
        ("all", (2, 3), None, False),
        ("all, kept", (2, 3), None, True),
        ("negative dim", (2, 3, 2), -2, False),
        ("two dims", (2, 3, 2), (0, 2), False),
        ("two dims, kept", (2, 3, 2), (-1, 0), True),
        ("no dims", (2, 3), (), False),
        ("single number", (), None, False),
        ("nothing left over", (3, 0), 0, False),
    ]:
        # Different numbers, at least 0.1 apart: at a tie the maximum has no derivative.
        numbers = rng.permutation(math.prod(shape)) * 0.1 + rng.uniform(-0.5, 0)
        yield label, {"x": numbers.reshape(shape), "dim": dim, "keepdim": keepdim}
    x = rng.permutation(24).reshape(2, 3, 4) * 0.1
    yield "channels-last images", {"x": x[:, :, :, None].transpose(0, 2, 3, 1), "dim": (0, 3)}


for _primitive in (sum, mean, max):
    _primitive.samples(_samples)


@sum.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _samples(rng)
    yield "sum of nothing", {"x": rng.normal(size=(2, 0)), "dim": 1}
