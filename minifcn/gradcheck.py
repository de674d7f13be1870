"""Are the gradients right? Compare them with difference quotients, which need no calculus.

The derivative of f is the limit of (f(x + eps) - f(x - eps)) / (2 eps). With eps = 1e-6 and float64
numbers, the error of this quotient is about 1e-10 for functions and numbers near 1: its own error
is of the order eps², and rounding adds 1e-16 / eps. In float32 rounding alone would be 0.1, so
everything here is computed in float64.

A function of many outputs is turned into one number first, by multiplying each output with a fixed
random factor u and adding up. All derivatives count then: with u = 1 a wrong sign here could hide
behind a wrong sign there.

`gradcheck` checks any function of tensors. `check_primitive` checks one operation of this library
against its own reference loops and in all gradients; ``minifcn gradcheck`` runs it on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from . import functional
from .autograd import PRIMITIVES, Primitive, Tensor, array_of, grad
from .backend import Array, DTypeError, Error, is_array, on_device, to_numpy, xp_of

EPS = 1e-6  # the step
SCANNED = 40  # of a larger input, this many single numbers are moved, drawn at random
EXACT_LIMIT = 1e-12  # the largest relative error that can be rounding, in float64
GRADIENT_LIMIT = 1e-6  # the same for a difference quotient: typical are 1e-10 to 1e-8


class GradientError(Error, AssertionError):
    """A gradient that differs from the difference quotient."""


class _Comparison(NamedTuple):
    """One derivative, computed in two ways."""

    name: str  # of the input
    place: str  # "position (0, 2)", or "a random direction"
    analytic: float
    numeric: float


def relative_error(a: Any, b: Any) -> float:
    """Return the largest |a - b|, divided by the largest number in a or b, or by 1.

    Divided by the largest, because sums of large numbers are rounded like large numbers, also where
    they happen to be small. By 1 at least, because zero may well come out as 1e-17.

    >>> relative_error([100.0, 1e-9], [101.0, 0.0])
    0.009900990099009901
    """
    a, b = (np.asarray(to_numpy(n) if is_array(n) else n, np.float64) for n in (a, b))
    if a.shape != b.shape:
        return float("inf")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0 if (a == b).all() else float("inf")  # NaN equals nothing: it always fails
    scale = max(1.0, np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return float(np.abs(a - b).max(initial=0) / scale)


def gradcheck(
    fn: Callable[..., Tensor],
    inputs: Any,
    eps: float = EPS,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    seed: int = 0,
) -> bool:
    """Return True if the gradients of ``fn`` are right, or raise a GradientError that says where.

    Each floating-point input is moved along one random direction, and one number at a time (at most
    40 of them, drawn at random).

    Parameters
    ----------
    fn
        A function of tensors that returns one tensor of any shape, and the same one each time. It
        must be smooth near the inputs: keep them away from the kinks of relu and max.
    inputs
        An array or Tensor, or several in a list or tuple. They are converted to float64; tensors
        that ``fn`` gets from elsewhere (the parameters of a layer) must be float64 already.
    eps
        The step of the difference quotient.
    rtol, atol
        Allowed is |analytic - numeric| <= atol + rtol · the larger of the two.
    seed
        Of the random directions and factors.

    Raises
    ------
    GradientError
        If a gradient is wrong; names the input, the position and both values.
    DTypeError
        If no input is floating-point.

    Examples
    --------
    >>> gradcheck(lambda x, y: (x * y).exp(), [np.ones(3), np.zeros(3)])
    True
    """
    listed = inputs if isinstance(inputs, list | tuple) else [inputs]
    arguments = {f"input {i}": array_of(value) for i, value in enumerate(listed)}
    floating = [a for a in arguments.values() if is_array(a) and a.dtype.kind == "f"]
    if not floating:
        raise DTypeError("gradcheck: no input is a floating-point array or tensor")
    rng = np.random.default_rng(seed)
    with on_device(floating[0]):
        found = list(_compare(lambda t: fn(*t.values()), arguments, eps, rng))
    for name, place, analytic, numeric in found:
        allowed = atol + rtol * max(abs(analytic), abs(numeric))
        if not abs(analytic - numeric) <= allowed:  # not `>`: a NaN must fail
            raise GradientError(
                f"the gradient in {name} at {place} is {analytic:.9g}, but the difference quotient "
                f"is {numeric:.9g}: the gradient rule is wrong, or fn has a kink there"
            )
    return True


def _compare(
    fn: Callable[[dict], Tensor], arguments: dict[str, Any], eps: float, rng: np.random.Generator
) -> Iterator[_Comparison]:
    """Yield the derivatives of ``fn`` (of a dictionary) in each floating-point array, both ways."""
    floating = [n for n, a in arguments.items() if is_array(a) and a.dtype.kind == "f"]
    if not floating:
        return
    arrays = {n: a.astype(np.float64) if n in floating else a for n, a in arguments.items()}
    tensors = {n: Tensor(a, n in floating) if is_array(a) else a for n, a in arrays.items()}
    output = fn(tensors)
    u = _normal(rng, output.data)
    gradients = grad(output, [tensors[n] for n in floating], seed=Tensor(u))

    def difference(name: str, step: Array) -> float:
        """Return <u, f(x + step) - f(x - step)> / (2 eps)."""
        x = arrays[name]
        ahead, behind = (
            fn(tensors | {name: Tensor(moved, True)}) for moved in (x + step, x - step)
        )
        return float((u * (ahead.data - behind.data)).sum()) / (2 * eps)

    for name, gradient in zip(floating, gradients, strict=True):
        x = arrays[name]
        g = np.zeros(x.shape) if gradient is None else gradient.numpy()
        for number in sorted(rng.permutation(x.size)[:SCANNED]):
            position = tuple(int(i) for i in np.unravel_index(number, x.shape))
            step = xp_of(x).zeros_like(x)
            step[position] = eps
            place = f"position {position}"
            yield _Comparison(name, place, float(g[position]), difference(name, step))
        # Every number of the direction is at least 0.1: no input can be forgotten unnoticed.
        v = rng.uniform(0.1, 1, x.shape) * rng.choice([-1, 1], x.shape) / max(1, x.size) ** 0.5
        step = xp_of(x).asarray(v * eps)
        yield _Comparison(name, "a random direction", float((g * v).sum()), difference(name, step))


def _normal(rng: np.random.Generator, like: Array) -> Array:
    """Return random numbers in the shape of an array, on its device and of its type."""
    return xp_of(like).asarray(rng.normal(size=like.shape), dtype=like.dtype)


def check_gradient(
    primitive: Primitive, arguments: dict[str, Any], rng: np.random.Generator
) -> float | None:
    """Return the largest relative error of the gradients; None if there is nothing to check."""
    wanted, rest = _split(primitive, arguments)
    return _worst(_compare(lambda tensors: primitive(**rest | tensors), wanted, EPS, rng))


def check_second_order(
    primitive: Primitive, arguments: dict[str, Any], rng: np.random.Generator
) -> float | None:
    """Return the largest relative error of the gradients' gradients; None if there are none."""
    wanted, rest = _split(primitive, arguments)
    g = "g, the upstream gradient"  # the gradient depends on it too

    def gradient_in(argument: str, tensors: dict[str, Tensor]) -> Tensor:
        y = primitive(**rest | {n: tensor for n, tensor in tensors.items() if n != g})
        return grad(y, [tensors[argument]], seed=tensors[g], create_graph=True)[0]

    both = wanted | {g: _normal(rng, primitive(**arguments))}
    return _worst(c for n in wanted for c in _compare(partial(gradient_in, n), both, EPS, rng))


def check_adjoint(
    primitive: Primitive, argument: str, arguments: dict[str, Any], seed: int = 0
) -> float:
    """Return the relative error of <f(a), g> = <a, rule(g)> for an argument that f is linear in.

    <p, q> is the sum of all products. This is what "the gradient of a linear map is its transpose"
    means. It needs no small step, so it is exact up to rounding, and quick on large arrays. Of an
    affine map (a convolution with a bias) its value at 0 is subtracted first.
    """
    a = arguments[argument]
    leaf = Tensor(a, requires_grad=True)
    y = primitive(**arguments | {argument: leaf})
    f = y.data - primitive(**arguments | {argument: xp_of(a).zeros_like(a)})
    g = _normal(np.random.default_rng(seed), y.data)
    (back,) = grad(y, [leaf], seed=Tensor(g))
    left, right = f * g, a * back.data
    scale = float(abs(left).sum() + abs(right).sum())  # what the rounding is relative to
    return abs(float(left.sum()) - float(right.sum())) / scale if scale else 0.0


@dataclass(frozen=True)
class PrimitiveReport:
    """The largest relative errors of one operation over all of its samples; None: not applicable.

    ``reference`` is the error against the loops; ``gradient`` and ``second_order`` are those
    against difference quotients, ``adjoint`` is that of <f(a), g> = <a, rule(g)>.
    """

    name: str
    samples: int
    reference: float
    gradient: float | None
    second_order: float | None
    adjoint: float | None

    @property
    def passed(self) -> bool:
        """Tell whether all errors are no more than rounding."""
        exact, quotient = (self.reference, self.adjoint), (self.gradient, self.second_order)
        return all(e is None or e <= EXACT_LIMIT for e in exact) and all(
            e is None or e <= GRADIENT_LIMIT for e in quotient
        )


def check_primitive(primitive: Primitive, rng: np.random.Generator) -> PrimitiveReport:
    """Return the largest errors of an operation over all of its samples, in float64.

    >>> check_primitive(PRIMITIVES["mul"], np.random.default_rng(0)).passed
    True
    """
    if primitive.cases is None or primitive.loops is None:
        raise GradientError(f"{primitive.name} has no samples or no reference loops")
    fast, loops = primitive.function, primitive.loops
    samples = [arguments for _, arguments in primitive.cases(rng)]
    gradients = [check_gradient(primitive, sample, rng) for sample in samples]
    second = [check_second_order(primitive, sample, rng) for sample in samples]
    adjoint = [
        check_adjoint(primitive, argument, sample)
        for sample in samples
        for argument in _split(primitive, sample)[0].keys() & set(primitive.linear)
    ]
    return PrimitiveReport(
        primitive.name,
        len(samples),
        reference=max(relative_error(fast(**sample), loops(**sample)) for sample in samples),
        gradient=max((e for e in gradients if e is not None), default=None),
        second_order=max((e for e in second if e is not None), default=None),
        adjoint=max(adjoint, default=None),
    )


def check_all(seed: int = 0) -> list[PrimitiveReport]:
    """Return the reports on all operations in `minifcn.functional`, in the order of their names."""
    rng = np.random.default_rng(seed)
    ours = [p for p in PRIMITIVES.values() if p.__module__.startswith(functional.__name__)]
    return [check_primitive(p, rng) for p in sorted(ours, key=lambda p: p.name)]


def _split(primitive: Primitive, arguments: dict[str, Any]) -> tuple[dict, dict]:
    """Return the arguments that have gradients (floating-point, with a rule), and the others."""
    wanted = {
        name: value
        for name, value in arguments.items()
        if name in primitive.rules and is_array(value) and value.dtype.kind == "f"
    }
    return wanted, {name: value for name, value in arguments.items() if name not in wanted}


def _worst(comparisons: Iterable[_Comparison]) -> float | None:
    """Return the largest relative error; None if nothing was compared."""
    return max((relative_error(c.analytic, c.numeric) for c in comparisons), default=None)
