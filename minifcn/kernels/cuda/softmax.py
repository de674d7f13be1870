"""Softmax cross-entropy on a GPU: what softmax.cu does, called as in `minifcn.kernels.softmax`."""

from __future__ import annotations

from typing import Any

from ...backend import Array, xp_of
from ..elementwise import empty
from .launch import LEAST, blocks_for, check_shapes, run


def cross_entropy(logits: Array, target: Array, ignore_index: int) -> Array:
    """Return log(sum of exp(logits)) - logits[target] for each pixel; 0 if it is ignored.

    logits is (N, H, W, C), float32; target (N, H, W) holds classes 0 ... C - 1, or
    ``ignore_index``. What is neither becomes NaN: an error would have to wait for the GPU.
    """
    loss = empty(target.shape, logits)
    _launch("cross_entropy", logits, target, {}, loss, ignore_index)
    return loss


def softmax_error(logits: Array, target: Array, share: Array, ignore_index: int) -> Array:
    """Return softmax(logits), minus one at the target, times each pixel's share: (N, H, W, C).

    Arguments as above; share is (N, H, W). A pixel that is ignored has no target.
    """
    error = empty(logits.shape, logits)
    _launch("softmax_error", logits, target, {"share": share}, error, ignore_index)
    return error


def lanes(classes: int) -> int:
    """Return how many threads share a pixel: about a quarter of its classes, a power of two.

    >>> [lanes(classes) for classes in (1, 2, 21, 60, 1000)]
    [1, 1, 8, 16, 32]
    """
    return min(32, 1 << max(0, -(-classes // 4) - 1).bit_length())


def _launch(
    kernel: str, logits: Array, target: Array, more: dict[str, Array], result: Array, ignored: Any
) -> None:
    """Start a kernel for all pixels; labels of all types become int32 first, which is soon done."""
    xp, (N, H, W, C) = xp_of(logits), logits.shape
    needed = {name: (array, (N, H, W)) for name, array in {"target": target, **more}.items()}
    check_shapes(f"softmax.{kernel}", **needed)
    labels = xp.ascontiguousarray(_of_32_bits(target))
    numbers, image, row = _in_place(logits)
    pixels, each = labels.size, lanes(C)
    arrays = numbers, labels, *map(xp.ascontiguousarray, more.values()), result
    blocks = blocks_for(pixels * each)
    run(f"softmax.{kernel}", blocks, *arrays, ignored, H, W, C, image, row, pixels, LANES=each)


def _of_32_bits(target: Array) -> Array:
    """Return labels as int32: the least of them for one beyond, which must not look as a class."""
    xp = xp_of(target)
    labels = target.astype(xp.int32, copy=False)
    if xp.can_cast(target.dtype, xp.int32):
        return labels
    return xp.where(labels == target, labels, xp.int32(LEAST))


def _in_place(logits: Array) -> tuple[Array, int, int]:
    """Return logits (N, H, W, C) as one row of numbers, and the steps to the next image and row.

    Those of an FCN are cut out of larger images. They are read where they lie, rows apart.
    """
    xp, size = xp_of(logits), logits.itemsize
    if not logits.size:
        return logits.reshape(-1), 0, 0
    if logits.strides[2:] != (logits.shape[3] * size, size) or min(logits.strides) < 0:
        logits = xp.ascontiguousarray(logits)
    image, row, *_ = (step // size for step in logits.strides)
    reach = sum((n - 1) * step for n, step in zip(logits.shape, logits.strides, strict=True))
    numbers = xp.lib.stride_tricks.as_strided(logits, (reach // size + 1,), (size,))
    return numbers, image, row
