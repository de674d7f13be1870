"""Starting values of parameters.

A name that ends in ``_`` fills a parameter in place and returns it. Random ones take the generator
to draw from. They always draw on the CPU, so that one seed gives the same net on every device.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..autograd import Tensor
from ..backend import Array, Error, overwrite
from ..process_memory import free_memory
from ..shapes import shape_error

SMALL = 64 << 20  # bytes of a weight for which nobody asks whether there is room


class RoomError(Error, MemoryError):
    """A parameter that is larger than the memory that is free."""


def check_room(what: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Raise if a parameter would not fit into the memory that is free, before it is asked for.

    The system may grant more memory than there is, and end the program when it is used.

    >>> check_room("Linear", (10, 10), np.float32)

    Raises
    ------
    RoomError
        With both sizes.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < SMALL or (free := free_memory()) is None or 2 * size <= free:
        return  # twice: its random numbers are drawn beside it
    raise RoomError(
        f"{what}: a weight of shape {shape} takes {2 * size / 1e9:,.0f} GB to make, and "
        f"{free / 1e9:,.1f} GB of memory are free: choose fewer channels or classes"
    )


def _fill(parameter: Tensor, values: Array) -> Tensor:
    overwrite(parameter.data, values)
    return parameter


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (fan in, fan out) of a weight (O, I) or (O, I/groups, kh, kw).

    Fan in is how many products make one output value: I/groups · kh · kw. Fan out is the same with
    O in place of I/groups (as PyTorch counts it).

    Raises
    ------
    ShapeError
        For fewer than two dimensions, such as a bias.

    Examples
    --------
    >>> fans((64, 3, 3, 3))
    (27, 576)
    """
    if len(shape) < 2:
        raise shape_error(
            "fans", "a weight has at least 2 dimensions", "a constant for a bias", weight=shape
        )
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def normal_(parameter: Tensor, std: float, rng: np.random.Generator) -> Tensor:
    """Fill with normally distributed numbers of mean 0 and standard deviation ``std``.

    >>> normal_(Tensor(np.zeros((2, 2))), 0.01, np.random.default_rng(0)).shape
    (2, 2)
    """
    # float32 drawn directly: half the memory and half the time. Other types are rounded to.
    kind = np.float64 if parameter.dtype == np.float64 else np.float32
    values = rng.standard_normal(parameter.shape, dtype=kind)
    values *= std
    return _fill(parameter, values)


def he_normal_(parameter: Tensor, rng: np.random.Generator) -> Tensor:
    """Fill with normal numbers of standard deviation √(2 / fan in): He's start for ReLU nets.

    A sum of ``fan in`` products then has the variance 2 · mean(x²); ReLU halves the mean square, so
    the signal neither grows nor fades from layer to layer (He et al. 2015, equation 10).

    >>> weight = he_normal_(Tensor(np.zeros((50, 2, 10, 10))), np.random.default_rng(0))
    >>> bool(abs(weight.numpy().std() - 0.1) < 0.005)
    True
    """
    return normal_(parameter, math.sqrt(2 / fans(parameter.shape)[0]), rng)


def xavier_uniform_(
    parameter: Tensor, rng: np.random.Generator, fan: Literal["in", "average"] = "in"
) -> Tensor:
    """Fill with uniform numbers in ±√(3 / n), whose variance is 1 / n.

    Parameters
    ----------
    parameter
        A weight (O, I) or (O, I/groups, kh, kw).
    rng
        The generator to draw from.
    fan
        ``"in"``: n is the fan in, Caffe's ``xavier`` filler (GoogLeNet's). ``"average"``: n is the
        mean of fan in and fan out, the formula of Glorot and Bengio (2010), which is also
        PyTorch's ``xavier_uniform_``.

    Examples
    --------
    >>> weight = xavier_uniform_(Tensor(np.zeros((8, 3))), np.random.default_rng(0))
    >>> bool(abs(weight.numpy()).max() <= 1)
    True
    """
    fan_in, fan_out = fans(parameter.shape)
    bound = math.sqrt(3 / {"in": fan_in, "average": (fan_in + fan_out) / 2}[fan])
    return _fill(parameter, rng.uniform(-bound, bound, parameter.shape))


def constant_(parameter: Tensor, value: float) -> Tensor:
    """Fill with one number.

    >>> constant_(Tensor(np.zeros(2)), 0.2).numpy().tolist()
    [0.2, 0.2]
    """
    overwrite(parameter.data, value)
    return parameter


def zeros_(parameter: Tensor) -> Tensor:
    """Fill with zeros, the start of FCN's scoring layers and of biases.

    >>> zeros_(Tensor(np.ones(2))).numpy().tolist()
    [0.0, 0.0]
    """
    return constant_(parameter, 0.0)


def bilinear_kernel(size: int) -> np.ndarray:
    """Return the (size, size) float64 weights with which a transposed convolution interpolates.

    With f = ⌈size / 2⌉ and centre c = f - 1 (odd size) or f - 1/2 (even size), the weight at
    (y, x) is (1 - |y - c| / f) (1 - |x - c| / f): a tent whose slopes meet those of its neighbours
    f pixels away. With stride f, the kernels that overlap at a pixel sum to 1, so all weights sum
    to f². This is the filter of the published FCNs (``upsample_filt``).

    >>> bilinear_kernel(4)[0].tolist()
    [0.0625, 0.1875, 0.1875, 0.0625]
    """
    if size < 1:
        raise shape_error("bilinear_kernel", f"the size must be 1 or more, not {size}")
    reach = (size + 1) // 2
    centre = reach - 1 if size % 2 else reach - 0.5
    tent = 1 - abs(np.arange(size) - centre) / reach
    return np.outer(tent, tent)


def bilinear_(parameter: Tensor) -> Tensor:
    """Make a transposed convolution enlarge each channel by bilinear interpolation.

    Channel i is written to output i only: the kernels on the diagonal are `bilinear_kernel`, all
    others are zero. (Kernels for all pairs of channels would add the classes' scores up.)

    Parameters
    ----------
    parameter
        The weight (in, out/groups, k, k) of a `ConvTranspose2d`, with as many outputs as inputs:
        (C, C, k, k), or (C, 1, k, k) for one group per channel.

    Raises
    ------
    ShapeError
        For other shapes.

    Examples
    --------
    >>> weight = bilinear_(Tensor(np.zeros((2, 2, 3, 3))))
    >>> weight.numpy()[0, 0].tolist()
    [[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]]
    >>> float(abs(weight.numpy()[0, 1]).max())
    0.0
    """
    shape = parameter.shape
    if len(shape) != 4 or shape[1] not in (1, shape[0]) or shape[2] != shape[3]:
        rule = "bilinear upsampling keeps the channels apart: (C, C, k, k), or (C, 1, k, k) grouped"
        raise shape_error("bilinear_", rule, "as many outputs as inputs", weight=shape)
    values = np.zeros(shape, parameter.dtype)
    channel = np.arange(shape[0])
    values[channel, channel % shape[1]] = bilinear_kernel(shape[2])
    return _fill(parameter, values)
