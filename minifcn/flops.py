"""How many products an operation adds up, from the shapes of its arrays: its work, by definition.

An algorithm may need fewer (Winograd's, or two small matrices in place of a bilinear kernel).
Products with the zeros of a padding or of a bilinear kernel count like all others. Biases, ReLU,
pooling, normalisation, sums and the loss do not count: they move numbers far more than they
multiply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TypeAlias

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]  # by argument; "output" is the result's

# For convolutions, prod(weight's shape behind the first axis) inputs meet in an output pixel.
PRODUCTS: dict[str, Callable[[Shapes], int]] = {
    "conv2d": lambda s: prod(s["output"]) * prod(s["weight"][1:]),
    "conv_transpose2d": lambda s: prod(s["x"]) * prod(s["weight"][1:]),  # each input is spread
    "conv2d_weight": lambda s: prod(s["g"]) * prod(s["output"][1:]),
    "linear": lambda s: prod(s["x"][:-1]) * prod(s["weight"]),
    "matmul": lambda s: prod(s["output"]) * s["x"][-1],
}


def multiply_adds(operation: str, shapes: Shapes) -> int:
    """Return how many products an operation adds up; 0 for one that does something else.

    Parameters
    ----------
    operation
        The name of a primitive of `minifcn.functional`.
    shapes
        The shapes of its arrays by the names of its arguments, and of its ``"output"``.

    Examples
    --------
    >>> multiply_adds("linear", {"x": (8, 10), "weight": (5, 10), "output": (8, 5)})
    400
    >>> multiply_adds("relu", {"x": (8, 10), "output": (8, 10)})
    0
    """
    return PRODUCTS[operation](shapes) if operation in PRODUCTS else 0


def flops(operation: str, shapes: Shapes) -> int:
    """Return the floating-point operations: two for each product that is added up.

    >>> flops("matmul", {"x": (2, 3), "y": (3, 4), "output": (2, 4)})
    48
    """
    return 2 * multiply_adds(operation, shapes)
