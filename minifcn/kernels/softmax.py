"""Softmax and cross-entropy over many pixels with few classes each.

A sum over the 21 numbers of one pixel is too short for the processor's vector instructions. So a
chunk of pixels is turned to class-major order, (classes, pixels): then every step runs along the
pixels, and the sum over classes adds whole rows.
"""

from __future__ import annotations

from collections.abc import Callable

from ..backend import Array, is_numpy, xp_of
from .threads import parallel_for, workspace

CHUNK = 16384  # pixels: enough for each NumPy call to be worth a thread's while


def cross_entropy(logits: Array, target: Array) -> Array:
    """Return log(sum of exp(logits)) - logits[target] for each of P pixels.

    logits is (P, C); target (P,) holds classes 0 ... C - 1.
    """
    loss = xp_of(logits).empty(len(logits), logits.dtype)

    def compute(chunk: slice) -> None:
        rows = _class_major(logits[chunk])
        xp, pixels = xp_of(logits), slice(0, rows.shape[1])
        highest = rows.max(0)
        rows -= highest  # exp of the largest is then 1: nothing overflows
        loss[chunk] = -rows[target[chunk], xp.arange(pixels.stop)]
        loss[chunk] += xp.log(xp.exp(rows, out=rows).sum(0))

    _by_chunks(compute, logits)
    return loss


def softmax_error(logits: Array, target: Array) -> Array:
    """Return softmax(logits), (P, C), minus one at the target; a target of -1 is none."""
    xp = xp_of(logits)
    error = xp.empty_like(logits, order="C")

    def compute(chunk: slice) -> None:
        rows = _class_major(logits[chunk])
        rows -= rows.max(0)
        xp.exp(rows, out=rows)
        rows /= rows.sum(0)
        labelled = xp.flatnonzero(target[chunk] >= 0)
        rows[target[chunk][labelled], labelled] -= 1
        error[chunk] = rows.T  # (C, pixels) -> (pixels, C)

    _by_chunks(compute, logits)
    return error


def _class_major(logits: Array) -> Array:
    rows = workspace("class-major", logits.shape[::-1], logits)
    rows[...] = logits.T  # (pixels, C) -> (C, pixels)
    return rows


def _by_chunks(compute: Callable[[slice], None], logits: Array) -> None:
    size = CHUNK if is_numpy(logits) else max(1, len(logits))
    count = -(-len(logits) // size)
    parallel_for(count, lambda i: compute(slice(i * size, (i + 1) * size)), logits)
