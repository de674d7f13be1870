"""Local response normalisation on a GPU: what lrn.cu does."""

from __future__ import annotations

from ...backend import Array, xp_of
from .launch import blocks_for, check_shapes, run


def normalise(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Return x[c] / (k + alpha / size · energy of the channels around c) ^ beta; x is (N, C, ...).

    Arguments as in `minifcn.functional.local_response_norm`.
    """
    rows = _channels_last(x)
    y = xp_of(x).empty_like(rows)
    settings = *_window(size), alpha / size, beta, k
    run("lrn.normalise", blocks_for(x.size), rows, y, x.shape[1], *settings, x.size)
    return xp_of(x).moveaxis(y, -1, 1)  # (N, ..., C) -> (N, C, ...)


def gradient(g: Array, x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Return the gradient in x, given that in the output, g; both are (N, C, ...)."""
    check_shapes("lrn.own_share", g=(g, x.shape))
    xp, C = xp_of(x), x.shape[1]
    upstream, rows = _channels_last(g), _channels_last(x)
    dx, t = xp.empty_like(rows), xp.empty_like(rows)
    blocks, window, ratio = blocks_for(x.size), _window(size), alpha / size
    run("lrn.own_share", blocks, upstream, rows, dx, t, C, *window, ratio, beta, k, x.size)
    run("lrn.share_of_others", blocks, t, rows, dx, C, *window, 2 * ratio * beta, x.size)
    return xp.moveaxis(dx, -1, 1)  # (N, ..., C) -> (N, C, ...)


def _window(size: int) -> tuple[int, int]:
    """Return how many channels before and after the middle one there are."""
    return size // 2, (size - 1) // 2


def _channels_last(x: Array) -> Array:
    """Return (N, C, ...) as contiguous (N, ..., C): as it is stored, so that nothing is copied."""
    xp = xp_of(x)
    return xp.ascontiguousarray(xp.moveaxis(x, 1, -1))
