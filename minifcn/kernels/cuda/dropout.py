"""Dropout on a GPU: what dropout.cu does, called as in `minifcn.kernels.elementwise`."""

from __future__ import annotations

import numpy as np

from ...backend import Array, xp_of
from .elementwise import in_order
from .graph import from_cpu
from .launch import blocks_for, run

MOST_THREADS = 1 << 16  # each has to jump to its first number, which takes as long as 30 numbers
HALF = (1 << 64) - 1  # the lower half of 128 bits


def can_draw(rng: np.random.Generator) -> bool:
    """Tell whether the GPU knows this kind of generator: that of ``np.random.default_rng``.

    >>> can_draw(np.random.default_rng(0)), can_draw(np.random.Generator(np.random.MT19937(0)))
    (True, False)
    """
    return type(rng.bit_generator) is np.random.PCG64


def dropout_mask(rng: np.random.Generator, p: float, like: Array) -> Array:
    """Return an array like another: 0 with probability p, else 1 / (1 - p).

    It holds what the CPU would draw from this generator, which then is where it would be, too.
    """
    xp, count, scale = xp_of(like), like.size, 1 / (1 - p) if p < 1 else 0.0
    drawn = xp.empty(like.shape, like.dtype)
    words = from_cpu(xp, lambda: _taken(rng, count), np.empty(6, np.uint64))
    threads = min(-(-count // 2), MOST_THREADS)
    run("dropout.dropout_mask", blocks_for(threads), drawn, words, p, scale, count, threads)
    return drawn if drawn.strides == like.strides else in_order(drawn, like)


def _taken(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return where a generator is, as the kernel reads it; leave it where it is so much later."""
    saved = rng.bit_generator.state
    numbers = saved["state"]["state"], saved["state"]["inc"]
    words = [word for number in numbers for word in (number >> 64, number & HALF)]
    left = min(count, saved["has_uint32"])  # the second half of 64 bits may be left over
    if left:
        rng.random(dtype=np.float32)
    if count > left:
        skip(rng, count - left)
    return np.array([*words, left, saved["uinteger"]], np.uint64)


def skip(rng: np.random.Generator, count: int) -> None:
    """Leave a generator as if float32 numbers had been drawn; no half may be left over before.

    >>> drawn, skipped = np.random.default_rng(0), np.random.default_rng(0)
    >>> numbers = drawn.random(7, np.float32)
    >>> skip(skipped, 7)
    >>> drawn.bit_generator.state == skipped.bit_generator.state
    True
    """
    pairs = max(0, (count - 1) // 2)
    rng.bit_generator.advance(pairs)  # type: ignore[attr-defined]
    rng.random(count - 2 * pairs, np.float32)  # the last one or two, in the ordinary way
