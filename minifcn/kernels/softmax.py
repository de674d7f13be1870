"""Softmax and cross-entropy over many pixels with few classes each.

A sum over the 21 numbers of one pixel is too short for the processor's vector instructions. So a
tile of the image is turned to class-major order, (classes, pixels): then every step runs along the
pixels, and the sum over classes adds whole rows.
"""

from __future__ import annotations

from collections.abc import Callable

from ..backend import Array, is_numpy, xp_of
from . import cuda
from .elementwise import empty, share_out
from .threads import workspace
from .tiles import Tile, cut

TILE = 1 << 17  # numbers that are worked on at a time: they stay in the cache


def cross_entropy(logits: Array, target: Array, ignore_index: int) -> Array:
    """Return log(sum of exp(logits)) - logits[target] for each pixel; 0 if it is ignored.

    logits is (N, H, W, C); target (N, H, W) holds classes 0 ... C - 1, or ``ignore_index``.
    """
    if cuda.on(logits):
        return cuda.softmax.cross_entropy(logits, target, ignore_index)
    xp = xp_of(logits)
    loss = empty(target.shape, logits)

    def compute(tile: Tile) -> None:
        rows = _class_major(logits[tile])
        labels = target[tile].reshape(-1)  # (n, rows, W) -> (pixels,)
        counted = labels != ignore_index
        rows -= rows.max(0)  # exp of the largest is then 1: nothing overflows
        at_target = rows.reshape(-1)[_positions(labels, counted)]
        xp.exp(rows, out=rows)
        found = xp.log(rows.sum(0))
        found -= at_target
        xp.copyto(found, 0, where=~counted)
        loss[tile] = found.reshape(loss[tile].shape)  # (pixels,) -> (n, rows, W)

    _by_tiles(compute, logits)
    return loss


def softmax_error(logits: Array, target: Array, share: Array, ignore_index: int) -> Array:
    """Return softmax(logits), minus one at the target, times each pixel's share: (N, H, W, C).

    Arguments as above; share is (N, H, W). A pixel that is ignored has no target.
    """
    if cuda.on(logits):
        return cuda.softmax.softmax_error(logits, target, share, ignore_index)
    xp = xp_of(logits)
    error = empty(logits.shape, logits)

    def compute(tile: Tile) -> None:
        rows = _class_major(logits[tile])
        labels = target[tile].reshape(-1)  # (n, rows, W) -> (pixels,)
        counted = labels != ignore_index
        rows -= rows.max(0)
        xp.exp(rows, out=rows)
        rows /= rows.sum(0)
        rows.reshape(-1)[_positions(labels, counted)] -= counted
        rows *= share[tile].reshape(-1)
        # (C, pixels) -> (pixels, C) -> (n, rows, W, C)
        error[tile] = rows.T.reshape(error[tile].shape)

    _by_tiles(compute, logits)
    return error


def _class_major(logits: Array) -> Array:
    n, height, width, C = logits.shape
    rows = workspace("class-major", (C, n, height, width), logits)
    rows[...] = logits.transpose(3, 0, 1, 2)  # (n, rows, W, C) -> (C, n, rows, W)
    return rows.reshape(C, -1)


def _positions(labels: Array, counted: Array) -> Array:
    """Return where each pixel's target is in rows (C, pixels), seen as one long row."""
    xp, pixels = xp_of(labels), len(labels)
    positions = xp.multiply(labels, counted, dtype=xp.int64)  # class 0 for a pixel without one
    positions *= pixels
    positions += xp.arange(pixels)
    return positions


def _by_tiles(compute: Callable[[Tile], None], logits: Array) -> None:
    N, H, W, C = logits.shape
    tiles = (
        cut(N, H, TILE // max(1, W * C)) if is_numpy(logits) else [Tile(slice(0, N), slice(0, H))]
    )
    share_out(len(tiles), lambda i: compute(tiles[i]), logits, 4 * logits.size)
