"""Local response normalisation, of AlexNet and GoogLeNet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autograd import primitive
from ..backend import Array
from ..shapes import ShapeError, shape_error
from .arithmetic import mul, pow


def local_response_norm(
    x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """Divide each activation by a power of the energy in the channels around it.

    y[c] = x[c] / (k + alpha / size · sum of x[c']² over the ``size`` channels around c) ^ beta

    Parameters
    ----------
    x : (N, C, ...)
        Activations; channels beyond the first and the last count as zero.
    size
        How many channels, the middle one c. Of an even number, one more lies before c than after.
    alpha, beta, k
        Note that alpha is divided by ``size`` (as in Caffe and PyTorch, and unlike the formula of
        Krizhevsky et al. 2012, section 3.3).

    Examples
    --------
    >>> local_response_norm(np.ones((1, 1, 1, 1)), size=1, alpha=3.0, beta=0.5)
    array([[[[0.5]]]])
    """
    if x.ndim < 2:
        raise shape_error("local_response_norm", "x must be (N, C, ...)", x=x)
    if size < 1:
        raise ShapeError(f"local_response_norm: size={size} must be at least 1 channel")
    energy = channel_window_sum(mul(x, x), size // 2, (size - 1) // 2)
    return mul(x, pow(energy * (alpha / size) + k, -beta))


@primitive(linear=("x",))
def channel_window_sum(x: Array, before: int, after: int) -> Array:
    """Return y[c] = x[c - before] + ... + x[c + after] along axis 1, with zeros beyond the ends."""
    y = x.copy(order="K")
    channels = x.shape[1]
    for shift in range(1, min(before, channels - 1) + 1):
        y[:, shift:] += x[:, :-shift]
    for shift in range(1, min(after, channels - 1) + 1):
        y[:, :-shift] += x[:, shift:]
    return y


@channel_window_sum.gradient("x")
def _(g: Any, s: Any) -> Any:
    return channel_window_sum(g, s.after, s.before)  # who summed me before, I sum after


@channel_window_sum.reference
def _(x: Array, before: int, after: int) -> Array:
    y = np.zeros_like(x)
    for position in np.ndindex(x.shape):
        n, c, *rest = position
        for other in range(max(0, c - before), min(x.shape[1], c + after + 1)):
            y[position] += x[(n, other, *rest)]
    return y


@channel_window_sum.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "five of six", {"x": rng.normal(size=(2, 6, 2, 3)), "before": 2, "after": 2}
    yield "one-sided", {"x": rng.normal(size=(1, 4, 2)), "before": 2, "after": 1}
    yield "window wider than channels", {"x": rng.normal(size=(1, 2, 3)), "before": 4, "after": 3}
