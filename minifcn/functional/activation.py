"""Functions between the layers: ReLU, sigmoid, tanh, softmax and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..autograd import array_of, primitive
from ..backend import Array, Error, on_device, xp_of
from ..kernels import elementwise as kernels
from .arithmetic import elementwise_reference, exp, maximum, mul, sub
from .reduction import sum
from .shaping import axes_of


class DropoutError(Error, ValueError):
    """A probability outside of 0 ... 1, or no random generator to draw from."""


@primitive
def relu(x: Array, done: bool = False) -> Array:
    """Return max(x, 0): the rectified linear unit. NaN stays NaN; the gradient at 0 is 0.

    Parameters
    ----------
    x
        Numbers, in an array of any shape.
    done
        Whether nothing in x is below zero, since the operation that made x has done this one's
        work (see `conv2d_relu`). Then the result is x itself, and only the gradient is left to do.

    Examples
    --------
    >>> relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return x if done else maximum(x, 0)


@relu.gradient("x", saves=("output",))
def _(g: Any, s: Any) -> Any:
    return where_positive(g, array_of(s.output))


@primitive(linear=("g",))
def where_positive(g: Array, y: Array) -> Array:
    """Return g where y is above zero, and zero elsewhere: relu's rule. Not above zero: NaN."""
    return kernels.where_positive(g, y)


@where_positive.gradient("g", saves=("y",))
def _(v: Any, s: Any) -> Any:
    return where_positive(v, array_of(s.y))


@primitive
@kernels.keeps_order
def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^-x), in a form in which no exponential grows too large.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    xp = xp_of(x)
    return xp.exp(xp.minimum(x, 0)) / (1 + xp.exp(-abs(x)))  # for x < 0: e^x / (1 + e^x)


@sigmoid.gradient("x", saves=("output",))
def _(g: Any, s: Any) -> Any:
    return mul(g, s.output * (1 - s.output))


@primitive
@kernels.keeps_order
def tanh(x: Array) -> Array:
    """Return the hyperbolic tangent, (e^x - e^-x) / (e^x + e^-x)."""
    return xp_of(x).tanh(x)


@tanh.gradient("x", saves=("output",))
def _(g: Any, s: Any) -> Any:
    return mul(g, 1 - s.output * s.output)


@primitive
def softmax(x: Array, dim: int) -> Array:
    """Return e^x / sum of e^x along one axis: numbers from 0 to 1 that add up to 1.

    The largest x is subtracted first, so that no exponential grows too large.

    Parameters
    ----------
    x
        Scores, of any shape.
    dim
        The axis of the classes: 1 for (N, C) and (N, C, H, W).

    Returns
    -------
    An array of x's shape and type.

    Examples
    --------
    >>> softmax(np.array([[1000.0, 1000.0]]), dim=1)
    array([[0.5, 0.5]])
    """
    y, (axis,) = _minus_largest("softmax", x, dim)
    xp_of(y).exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


@softmax.gradient("x", saves=("output",))
def _(g: Any, s: Any) -> Any:
    return mul(s.output, g - sum(g * s.output, s.dim, keepdim=True))


@primitive
def log_softmax(x: Array, dim: int) -> Array:
    """Return log(softmax(x)) along one axis, exact also where the probability rounds to 0.

    log(e^x / sum e^x) = x - log(sum e^x). As in `softmax`, the largest x is subtracted first.

    >>> log_softmax(np.array([[0.0, 1000.0]]), dim=1).tolist()
    [[-1000.0, 0.0]]
    """
    y, (axis,) = _minus_largest("log_softmax", x, dim)
    xp = xp_of(y)
    if y.size:
        y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
    return y


@log_softmax.gradient("x", saves=("output",))
def _(g: Any, s: Any) -> Any:
    return sub(g, exp(s.output) * sum(g, s.dim, keepdim=True))


def _minus_largest(operation: str, x: Array, dim: int) -> tuple[Array, tuple[int, ...]]:
    """Return x minus its largest number along the axis, and the axis."""
    (axis,) = axes = axes_of(operation, dim, x.shape)
    if x.size == 0:
        return xp_of(x).empty_like(x), axes  # there is no largest number of none
    return sub(x, x.max(axis=axis, keepdims=True)), axes


def dropout(
    x: Any, p: float = 0.5, training: bool = True, rng: np.random.Generator | None = None
) -> Any:
    """Set each element to zero with probability p, and multiply the others by 1 / (1 - p).

    So the expected value stays the same, and nothing has to be scaled when the net is used: with
    ``training=False`` the result is x itself.

    Parameters
    ----------
    x
        An array or Tensor of any shape.
    p
        From 0 to 1.
    training
        Whether to drop at all.
    rng
        The generator to draw from; a seed gives the same elements on every device.

    Raises
    ------
    DropoutError
        If p is not a probability, or numbers must be drawn and there is no generator.

    Examples
    --------
    >>> dropout(np.ones(6), p=0.5, rng=np.random.default_rng(1)).tolist()
    [0.0, 2.0, 2.0, 2.0, 0.0, 0.0]
    """
    if not 0 <= p <= 1:
        raise DropoutError(f"dropout: p={p} must be a probability, from 0 to 1")
    if not training or p == 0:
        return x
    if rng is None:
        raise DropoutError("dropout in training needs rng=, for example np.random.default_rng(0)")
    with on_device(array_of(x)):
        mask = kernels.dropout_mask(rng, p, array_of(x))
    return mul(x, mask)


# The same in loops over single numbers.

_relu_loop = elementwise_reference(lambda x: x if x > 0 else 0.0)
relu.reference(lambda x, done=False: _relu_loop(x))
where_positive.reference(elementwise_reference(lambda g, y: g if y > 0 else 0.0))
sigmoid.reference(elementwise_reference(lambda x: 1 / (1 + math.exp(-x))))
tanh.reference(elementwise_reference(math.tanh))


def _loops(formula: Callable[[float, list[float]], float]) -> Callable[..., np.ndarray]:
    """Return the loop version of softmax, from its formula for one number of a list."""

    def loop(x: Array, dim: int) -> np.ndarray:
        rows, result = np.moveaxis(x, dim, -1), np.empty_like(x)
        for *row, i in np.ndindex(rows.shape):
            numbers = rows[tuple(row)].tolist()
            np.moveaxis(result, dim, -1)[(*row, i)] = formula(numbers[i], numbers)
        return result

    return loop


softmax.reference(_loops(lambda x, xs: math.exp(x) / math.fsum(map(math.exp, xs))))
log_softmax.reference(_loops(lambda x, xs: x - math.log(math.fsum(map(math.exp, xs)))))


def _scores(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "one row", {"x": rng.normal(size=(1, 4)), "dim": 1}
    yield "first axis", {"x": rng.normal(size=(3, 2)), "dim": 0}
    yield "negative dim", {"x": rng.normal(size=(2, 3, 2)), "dim": -2}
    yield "channels-last", {"x": rng.normal(size=(2, 2, 1, 3)).transpose(0, 3, 1, 2), "dim": 1}
    yield "one class", {"x": rng.normal(size=(3, 1)), "dim": 1}
    yield "nothing at all", {"x": rng.normal(size=(2, 0)), "dim": 1}


softmax.samples(_scores)
log_softmax.samples(_scores)


def _away_from_zero(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    # At 0 relu has a kink, where a difference quotient is not the gradient.
    for label, shape in [("2-D", (3, 4)), ("single number", ()), ("nothing at all", (0, 3))]:
        yield label, {"x": rng.uniform(0.2, 2.0, shape) * rng.choice([-1.0, 1.0], shape)}
    x = rng.uniform(0.2, 2.0, (2, 3, 2, 3)) * rng.choice([-1.0, 1.0], (2, 3, 2, 3))
    yield "channels-last images", {"x": x.transpose(0, 3, 1, 2)}


sigmoid.samples(_away_from_zero)
tanh.samples(_away_from_zero)


@relu.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from _away_from_zero(rng)
    yield "done already", {"x": rng.uniform(0.2, 2.0, (3, 4)), "done": True}


@where_positive.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, given in _away_from_zero(rng):
        yield label, {"g": rng.normal(size=given["x"].shape), "y": given["x"]}
    yield "zeros of both signs", {"g": rng.normal(size=3), "y": np.array([0.0, -0.0, 1.0])}
