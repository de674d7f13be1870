"""Local response normalisation, of AlexNet and GoogLeNet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autograd import Tensor, array_of, primitive
from ..backend import Array
from ..kernels import cuda
from ..shapes import ShapeError, shape_error
from .arithmetic import div, mul, pow


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
    if cuda.on(array_of(x)):
        return normalised(x, size, alpha, beta, k)
    return mul(x, pow(_energy(x, size, alpha, k), -beta))


def _energy(x: Any, size: int, alpha: float, k: float) -> Any:
    """Return k + alpha / size · the sum of x² over the channels around each one."""
    return channel_window_sum(mul(x, x), size // 2, (size - 1) // 2) * (alpha / size) + k


@primitive
def normalised(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Return `local_response_norm` of x in one step, of which only x is kept for the gradient.

    A GPU computes powers faster than it reads them from memory. A CPU does not.
    """
    if cuda.on(x):
        return cuda.lrn.normalise(x, size, alpha, beta, k)
    return x * _energy(x, size, alpha, k) ** -beta


@normalised.gradient("x", saves=("x",))
def _(g: Any, s: Any) -> Any:
    # With e what is raised to the power -β: d y[c] / d x[c'] is e[c]^-β where c = c', minus
    # 2·α/size·β · x[c] e[c]^(-β-1) · x[c'] where c' is in the window of c. So x[c'] gets a sum over
    # all c whose window it is in: the window turned round.
    if not isinstance(g, Tensor) and cuda.on(g):
        return cuda.lrn.gradient(g, s.x, s.size, s.alpha, s.beta, s.k)
    scale = _energy(s.x, s.size, s.alpha, s.k)
    own = mul(g, pow(scale, -s.beta))
    others = channel_window_sum(div(mul(own, s.x), scale), (s.size - 1) // 2, s.size // 2)
    return own - 2 * (s.alpha / s.size) * s.beta * mul(s.x, others)


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


@normalised.reference
def _(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    y = np.empty_like(x)
    for position in np.ndindex(x.shape):
        n, c, *rest = position
        window = range(max(0, c - size // 2), min(x.shape[1], c + (size - 1) // 2 + 1))
        energy = sum(x[(n, other, *rest)] ** 2 for other in window)
        y[position] = x[position] / (k + alpha / size * energy) ** beta
    return y


@normalised.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    for label, size, shape in [
        ("five of six", 5, (2, 6, 2, 3)),
        ("an even number", 4, (1, 5, 2)),
        ("window wider than channels", 7, (1, 2, 3, 1)),
        ("no image at all", 5, (0, 3, 2, 2)),
    ]:
        x = rng.normal(size=shape)
        yield label, {"x": x, "size": size, "alpha": 2.0, "beta": 0.75, "k": 1.5}


@channel_window_sum.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "five of six", {"x": rng.normal(size=(2, 6, 2, 3)), "before": 2, "after": 2}
    yield "one-sided", {"x": rng.normal(size=(1, 4, 2)), "before": 2, "after": 1}
    yield "window wider than channels", {"x": rng.normal(size=(1, 2, 3)), "before": 4, "after": 3}
