"""The weight update on a GPU: what sgd.cu does, for one weight array in one launch."""

from __future__ import annotations

from ...backend import Array, xp_of
from ..elementwise import flat
from .launch import blocks_for, run


def update(
    w: Array,
    gradient: Array,
    h: Array | None,
    lr: float,
    momentum: float,
    decay: float,
    nesterov: bool,
    caffe: bool,
) -> None:
    """Apply a step of `minifcn.optim.SGD` to a weight and its momentum h, in place.

    Parameters
    ----------
    w, gradient, h
        float32, of one shape. Best all in the same memory order; else they are copied first.
    lr, momentum, decay, nesterov, caffe
        The settings of `minifcn.optim.SGD`; without h there is no momentum.
    """
    changed = [w] if h is None else [w, h]
    rows = flat(w, gradient, *changed[1:])
    if rows is None:
        rows = [xp_of(w).ascontiguousarray(a).reshape(-1) for a in (w, gradient, *changed[1:])]
    blocks = blocks_for(w.size)
    if h is None:
        run("sgd.descend", blocks, *rows, lr, decay, w.size)
    else:
        settings = (lr, momentum, decay, int(nesterov), int(caffe))
        run("sgd.descend_with_momentum", blocks, *rows, *settings, w.size)
    for array, row in zip(changed, [rows[0], *rows[2:]], strict=True):
        if not xp_of(w).may_share_memory(array, row):
            array[...] = row.reshape(array.shape)
