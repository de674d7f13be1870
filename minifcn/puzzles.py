"""Eight operations whose gradient rules a reader writes, and the judge of these rules.

The tutorial's notebook P1 uses this. A rule is a plain function named after the operation and the
input, such as ``div_x``. It gets ``g``, the gradient of the final quantity in the operation's
output, then the inputs, then the output, and returns the gradient in that input:

>>> def div_x(g, x, y, z):
...     return g / y
>>> def div_y(g, x, y, z):
...     return g * z / y
>>> check(div_x, div_y)
div_x  right
div_y  wrong  it is -1 times the right gradient
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backend import Error
from .display.page import Html, block, heading, plural, table
from .gradcheck import EPS, GRADIENT_LIMIT, relative_error

RIGHT, WRONG, OPEN = "right", "wrong", "to do"
_LOOKS = {  # seen on white and on black; the words say the same without colours
    RIGHT: "background: #1a7f37; color: white",
    WRONG: "background: #c62828; color: white",
    OPEN: "background: #767676; color: white",
}


class PuzzleError(Error, ValueError):
    """Something that is not a rule of one of the operations."""


def div(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return x / y, element by element; both have the same shape."""
    return x / y


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^-x): any number becomes one between 0 and 1."""
    return 1 / (1 + np.exp(-x))


def shift(x: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return x (n, m) + b (m,): the same b is added to every row."""
    return x + b


def mean(x: np.ndarray) -> np.ndarray:
    """Return the mean of each row: (n, m) -> (n,)."""
    return x.mean(axis=1)


def largest(x: np.ndarray) -> np.ndarray:
    """Return the largest number of each row: (n, m) -> (n,)."""
    return x.max(axis=1)


def softmax(x: np.ndarray) -> np.ndarray:
    """Return e^x, divided by its sum over the row: (n, m) -> (n, m)."""
    e = np.exp(x)
    return e / e.sum(axis=1, keepdims=True)


def loss(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the mean of -log softmax(x)[label] over the rows whose label is not 255.

    x is (n, classes), label (n,). The result is one number.
    """
    rows = np.flatnonzero(label != 255)
    return -np.log(softmax(x)[rows, label[rows]]).mean()


def slide(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return y[p] = x[p] w[0] + x[p + 1] w[1] + ...: a convolution of lines, (n,) with (k,)."""
    return np.array([x[p : p + len(w)] @ w for p in range(len(x) - len(w) + 1)])


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    f.__name__: f for f in (div, sigmoid, shift, mean, largest, softmax, loss, slide)
}
_SHAPES: dict[str, list[tuple[tuple[int, ...], ...]]] = {
    "shift": [((3, 4), (4,)), ((1, 2), (2,)), ((3, 3), (3,))],
    "slide": [((7,), (3,)), ((4,), (4,)), ((5,), (1,))],
    "div": [((3, 4), (3, 4)), ((5,), (5,))],
}


def samples(operation: str) -> list[tuple[np.ndarray, ...]]:
    """Return the inputs that the rules of an operation are tried on, the same ones each time.

    >>> [x.shape for (x,) in samples("softmax")]
    [(3, 4), (2, 5)]
    """
    rng = np.random.default_rng(0)
    shapes = _SHAPES.get(operation, [((3, 4),), ((2, 5),)])
    drawn = [tuple(rng.normal(size=shape) for shape in each) for each in shapes]
    if operation == "div":  # away from zero, by which nothing can be divided
        return [(x, np.sign(y) * (0.5 + abs(y))) for x, y in drawn]
    if operation == "largest":  # well apart: a tie is a kink, where the quotient means nothing
        return [(rng.permutation(np.linspace(-2, 2, x.size)).reshape(x.shape),) for (x,) in drawn]
    if operation == "loss":
        return [(x, np.array(y)) for (x,), y in zip(drawn, ([2, 255, 0], [4, 1]), strict=True)]
    return drawn


def quotient(
    operation: Callable[..., np.ndarray],
    inputs: tuple[np.ndarray, ...],
    position: int,
    g: np.ndarray,
) -> np.ndarray:
    """Return the gradient of (g · operation(...)).sum() in one input, by difference quotients.

    >>> quotient(np.multiply, (np.array([2.0]), np.array([5.0])), 0, np.array([1.0])).round(6)
    array([5.])
    """
    result = np.zeros(inputs[position].shape)
    for place in np.ndindex(result.shape):
        ends = []
        for step in (EPS, -EPS):
            moved = [array.copy() for array in inputs]
            moved[position][place] += step
            ends.append(operation(*moved))
        result[place] = (g * (ends[0] - ends[1])).sum() / (2 * EPS)
    return result


@dataclass(frozen=True)
class Verdict:
    """What was found of one rule: ``"right"``, ``"wrong"`` or ``"to do"``, and why."""

    rule: str
    verdict: str
    why: str = ""


@dataclass(frozen=True)
class Report:
    """The verdicts on some rules; a notebook shows them as a coloured table."""

    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Tell whether there are rules, and all are right."""
        return bool(self.verdicts) and all(v.verdict == RIGHT for v in self.verdicts)

    def __repr__(self) -> str:
        width = max((len(v.rule) for v in self.verdicts), default=0)
        lines = [f"{v.rule:{width}}  {v.verdict:5}  {v.why}".rstrip() for v in self.verdicts]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        right = sum(v.verdict == RIGHT for v in self.verdicts)
        rows = [(_code(v.rule), _lamp(v.verdict), v.why) for v in self.verdicts]
        title = heading(f"{right} of {plural(len(rows), 'rule')} right")
        return block(title, table(["rule", "verdict", "why"], rows))


def _code(name: str) -> Html:
    return Html(f"<code>{name}</code>")


def _lamp(verdict: str) -> Html:
    style = f"{_LOOKS[verdict]}; padding: 0.1em 0.6em; border-radius: 0.6em"
    return Html(f'<span style="{style}">{verdict}</span>')


def check(*rules: Callable[..., Any]) -> Report:
    """Compare rules with difference quotients, and say of each what is wrong with it.

    Parameters
    ----------
    rules
        Functions named after an operation and one of its inputs, such as ``div_x``, which take
        (g, the inputs, the output). One that returns ``...`` is still to be written.

    Raises
    ------
    PuzzleError
        If a function is named after no operation, or no input of it.

    Examples
    --------
    >>> def mean_x(g, x, z):
    ...     return ...
    >>> check(mean_x)
    mean_x  to do  it still returns ...
    """
    return Report(tuple(Verdict(rule.__name__, *_judge(rule)) for rule in rules))


def _judge(rule: Callable[..., Any]) -> tuple[str, str]:
    """Return the verdict on a rule, and why."""
    name, _, argument = rule.__name__.rpartition("_")
    if name not in OPERATIONS or argument not in _differentiable(name):
        known = ", ".join(f"{n}_{a}" for n in OPERATIONS for a in _differentiable(n))
        raise PuzzleError(f"{rule.__name__}: a rule must have one of the names {known}")
    operation, position = OPERATIONS[name], _differentiable(name).index(argument)
    rng = np.random.default_rng(1)
    for inputs in samples(name):
        g = rng.normal(size=np.shape(operation(*inputs)))
        verdict, why = _try(rule, operation, argument, position, inputs, g)
        if verdict != RIGHT:
            return verdict, why
    return RIGHT, ""


def _differentiable(name: str) -> list[str]:
    """Return the names of the inputs that have a gradient; a label, a whole number, has none."""
    return [n for n in inspect.signature(OPERATIONS[name]).parameters if n != "label"]


def _try(
    rule: Callable[..., Any],
    operation: Callable[..., np.ndarray],
    argument: str,
    position: int,
    inputs: tuple[np.ndarray, ...],
    g: np.ndarray,
) -> tuple[str, str]:
    """Return the verdict on a rule for some inputs, and why."""
    given = [g.copy(), *(array.copy() for array in inputs), operation(*inputs)]
    before = [np.copy(array) for array in given]
    try:
        found = rule(*given)
        twice = rule(2 * g, *inputs, operation(*inputs))
    except Exception as error:  # whatever a reader's first attempt raises belongs into the table
        return WRONG, f"it raised {type(error).__name__}: {error}"
    if found is ...:
        return OPEN, "it still returns ..."
    if found is None:
        return WRONG, "it returned nothing: is there a return?"
    if np.asarray(found).dtype.kind not in "fiub":
        return WRONG, f"it returned a {type(found).__name__}, not an array of numbers"
    if not all(np.array_equal(a, b) for a, b in zip(given, before, strict=True)):
        return WRONG, "it changed what it was given: work on a copy"
    found, shape = np.asarray(found, float), inputs[position].shape
    if found.shape != shape:
        many = "add up what was repeated" if found.size > np.prod(shape) else "something is missing"
        return WRONG, f"it has the shape {found.shape}, but {argument} has {shape}: {many}"
    if not np.isfinite(found).all():
        return WRONG, "it holds inf or nan"
    if relative_error(twice, 2 * found) > GRADIENT_LIMIT:
        return WRONG, "it must be proportional to g: twice the g, twice the gradient"
    return _compare(found, quotient(operation, inputs, position, g))


def _compare(found: np.ndarray, right: np.ndarray) -> tuple[str, str]:
    """Return the verdict on a gradient, and why."""
    if relative_error(found, right) <= GRADIENT_LIMIT:
        return RIGHT, ""
    if not found.any():
        return WRONG, "it is zero everywhere"
    factor = float((found * right).sum() / (right * right).sum())
    if relative_error(found, factor * right) <= GRADIENT_LIMIT:
        return WRONG, f"it is {factor:.4g} times the right gradient"
    difference = abs(found - right)
    place = np.unravel_index(difference.argmax(), found.shape)
    where = ", ".join(str(int(i)) for i in place)
    return WRONG, (
        f"at [{where}] it is {found[place]:.4g}, but the difference quotient is {right[place]:.4g}"
    )
