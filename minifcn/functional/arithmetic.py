"""Arithmetic on arrays of any shape, with NumPy's broadcasting.

Each operation stands here with its formula, its array function, one rule per input, the same
formula as a loop over single numbers, and samples for the tests. In the rules, ``g`` is the
gradient of the final quantity in the operation's output: the chain rule's left factor. When an
input was broadcast, the engine sums its gradient back to its own shape. A rule ends in `mul(g, y)`,
not in g · y: then the gradient has g's memory order on a GPU too (see `keeps_order`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..autograd import array_of, primitive
from ..backend import Array, xp_of
from ..kernels.elementwise import keeps_order


def elementwise_reference(formula: Callable[..., float]) -> Callable[..., np.ndarray]:
    """Return the loop version of an elementwise operation, from its formula for single numbers."""

    def loop(*arrays: Any, **named: Any) -> np.ndarray:
        operands = np.broadcast_arrays(*arrays, *named.values())
        result = np.empty(operands[0].shape, np.result_type(*operands))
        for position in np.ndindex(result.shape):
            result[position] = formula(*(operand[position] for operand in operands))
        return result

    return loop


def pair_samples(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield pairs of arrays x and y that broadcast in all ways; y is away from zero."""
    for label, x_shape, y_shape in [
        ("same shape", (2, 3), (2, 3)),
        ("y broadcast over rows", (2, 3), (3,)),
        ("both broadcast", (2, 1, 3), (4, 1)),
        ("single numbers", (), ()),
        ("nothing at all", (0, 3), (3,)),
    ]:
        yield label, {"x": rng.normal(size=x_shape), "y": rng.uniform(0.5, 2.0, y_shape)}
    yield "y a Python number", {"x": rng.normal(size=(2, 3)), "y": 1.5}


@primitive(linear=("x", "y"))
@keeps_order
def add(x: Array, y: Array) -> Array:
    """Return x + y."""
    return x + y


@add.gradient("x")
@add.gradient("y")
def _(g: Any, s: Any) -> Any:
    return g


add.reference(elementwise_reference(lambda x, y: x + y))
add.samples(pair_samples)


@primitive(linear=("x", "y"))
@keeps_order
def sub(x: Array, y: Array) -> Array:
    """Return x - y."""
    return x - y


@sub.gradient("x")
def _(g: Any, s: Any) -> Any:
    return g


@sub.gradient("y")
def _(g: Any, s: Any) -> Any:
    return neg(g)


sub.reference(elementwise_reference(lambda x, y: x - y))
sub.samples(pair_samples)


@primitive(linear=("x", "y"))
@keeps_order
def mul(x: Array, y: Array) -> Array:
    """Return x * y, element by element."""
    return x * y


@mul.gradient("x", saves=("y",))
def _(g: Any, s: Any) -> Any:
    return mul(g, s.y)


@mul.gradient("y", saves=("x",))
def _(g: Any, s: Any) -> Any:
    return mul(g, s.x)


mul.reference(elementwise_reference(lambda x, y: x * y))
mul.samples(pair_samples)


@primitive(linear=("x",))
@keeps_order
def div(x: Array, y: Array) -> Array:
    """Return x / y."""
    return x / y


@div.gradient("x", saves=("y",))
def _(g: Any, s: Any) -> Any:
    return div(g, s.y)


@div.gradient("y", saves=("y", "output"))
def _(g: Any, s: Any) -> Any:
    return neg(div(mul(g, s.output), s.y))  # d(x/y)/dy = -x/y²


div.reference(elementwise_reference(lambda x, y: x / y))
div.samples(pair_samples)


@primitive(linear=("x",))
@keeps_order
def neg(x: Array) -> Array:
    """Return -x."""
    return -x


@neg.gradient("x")
def _(g: Any, s: Any) -> Any:
    return neg(g)


neg.reference(elementwise_reference(lambda x: -x))


@primitive
@keeps_order
def pow(x: Array, exponent: float) -> Array:
    """Return x to a constant power (a Python number)."""
    return x**exponent


@pow.gradient("x", saves=("x",))
def _(g: Any, s: Any) -> Any:
    return mul(g, s.exponent * s.x ** (s.exponent - 1))


pow.reference(elementwise_reference(lambda x, exponent: x**exponent))


@pow.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for exponent in (2, -0.75, 1):
        yield f"x to the power {exponent}", {"x": rng.uniform(0.5, 2, (2, 3)), "exponent": exponent}


@primitive
@keeps_order
def maximum(x: Array, y: Array) -> Array:
    """Return the larger of x and y, element by element; NaN if one is NaN.

    >>> maximum(np.array([1.0, 5.0]), np.array([3.0, 4.0]))
    array([3., 5.])
    """
    return xp_of(x).maximum(x, y)


@maximum.gradient("x", saves=("x", "y"))
def _(g: Any, s: Any) -> Any:
    return mul(g, _share_above(s.x, s.y))


@maximum.gradient("y", saves=("x", "y"))
def _(g: Any, s: Any) -> Any:
    return mul(g, _share_above(s.y, s.x))


def _share_above(x: Any, y: Any) -> Any:
    """Return 1 where x is the larger, 0 where y is, and a half where they are equal (PyTorch's)."""
    x, y = array_of(x), array_of(y)
    return ((x > y) + 0.5 * (x == y)).astype(x.dtype)


maximum.reference(elementwise_reference(lambda x, y: x if x > y else y))
maximum.samples(pair_samples)


@primitive
@keeps_order
def exp(x: Array) -> Array:
    """Return e to the power x."""
    return xp_of(x).exp(x)


@exp.gradient("x", saves=("output",))
def _(g: Any, s: Any) -> Any:
    return mul(g, s.output)


exp.reference(elementwise_reference(math.exp))


@primitive
@keeps_order
def log(x: Array) -> Array:
    """Return the natural logarithm of x."""
    return xp_of(x).log(x)


@log.gradient("x", saves=("x",))
def _(g: Any, s: Any) -> Any:
    return div(g, s.x)


log.reference(elementwise_reference(math.log))


@primitive
@keeps_order
def sqrt(x: Array) -> Array:
    """Return the square root of x."""
    return xp_of(x).sqrt(x)


@sqrt.gradient("x", saves=("output",))
def _(g: Any, s: Any) -> Any:
    return div(g, 2 * s.output)


sqrt.reference(elementwise_reference(math.sqrt))


def _positive_samples(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "2-D", {"x": rng.uniform(0.5, 2.0, (3, 4))}
    yield "transposed view", {"x": rng.uniform(0.5, 2.0, (3, 4)).T}
    yield "single number", {"x": rng.uniform(0.5, 2.0, ())}


for _primitive in (neg, exp, log, sqrt):
    _primitive.samples(_positive_samples)
