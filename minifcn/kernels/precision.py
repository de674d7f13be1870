"""To how many digits convolutions on a GPU round the numbers that they multiply.

A tensor core multiplies matrices of rounded numbers many times faster than the GPU's other parts
multiply float32:

| precision | bits of a number: exponent, fraction | largest, and relative error       |
|-----------|--------------------------------------|-----------------------------------|
| fp32      | 8, 23                                | 3e38, 6e-8 (no tensor cores)      |
| tf32      | 8, 10                                | 3e38, 5e-4                        |
| bf16      | 8, 7                                 | 3e38, 4e-3                        |
| fp16      | 5, 10                                | 65504, 5e-4; below 6e-5 it grows  |

Only the factors of a product are rounded, inside the convolution. Sums are float32, and so are
activations, gradients and weights in memory. A small update of a weight is never lost, as it would
be if weights were kept in 16 bits. With fp16, small gradients come out as 0: multiply the loss by a
large number before ``backward``, and divide the gradients by it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..backend import Array, Error, for_a_while, is_numpy

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


class PrecisionError(Error, ValueError):
    """A precision that does not exist, or that the CPU cannot compute in."""


class _Setting(threading.local):
    precision = os.environ.get("MINIFCN_PRECISION", "") or "fp32"


_setting = _Setting()


@contextmanager
def use_precision(name: str) -> Iterator[None]:
    """Multiply in another precision in convolutions on a GPU, in this thread.

    Parameters
    ----------
    name
        ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``. Without this, the environment variable
        MINIFCN_PRECISION tells, and else it is ``"fp32"``. Gradients are computed in the precision
        that is set when `backward` is called.

    Raises
    ------
    PrecisionError
        If there is no such precision; and from a convolution on the CPU, unless it is ``"fp32"``.

    Notes
    -----
    Tensor cores are used where a GPU has them (compute capability 8.0 and above), for float32,
    without groups, and if the numbers of channels are multiples of 4. All other convolutions, such
    as that of 3 colours or that to 21 classes, are as exact as ever. So is the gradient in the
    image at other strides than 1, and a transposed convolution at such strides: these are products
    by cuBLAS in fp32, whose numbers col2im then adds up.

    Examples
    --------
    >>> with use_precision("tf32"):
    ...     current()
    'tf32'
    >>> current()
    'fp32'
    """
    with for_a_while(_setting, precision=name):
        current()  # checks the name
        yield


def current() -> str:
    """Return the precision that is set in this thread.

    Raises
    ------
    PrecisionError
        If it does not exist.
    """
    if _setting.precision not in PRECISIONS:
        raise PrecisionError(
            f"precision {_setting.precision!r} (MINIFCN_PRECISION, or use_precision) must be one "
            f"of {', '.join(PRECISIONS)}"
        )
    return _setting.precision


def check(x: Array) -> None:
    """Raise a PrecisionError if x is an array on the CPU and the precision is not its own."""
    if current() != "fp32" and is_numpy(x):
        raise PrecisionError(
            f"precision {current()!r} is for convolutions on a GPU, and this one got arrays on the "
            "CPU: move net and images with .to('cuda'), or use_precision('fp32')"
        )
