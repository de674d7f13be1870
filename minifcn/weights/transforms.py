"""What happens to arrays of other frameworks until they are parameters here: one function each.

All of them return views where they can, as a weight may have 400 MB.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ..data import Preprocessing
from ..nn.init import bilinear_kernel

BATCH_NORM_EPS = 1e-3  # of torchvision's GoogLeNet


def hwio_to_oihw(weight: np.ndarray) -> np.ndarray:
    """Return a convolution's weight of Keras, (h, w, I, O), as (O, I, h, w).

    >>> hwio_to_oihw(np.zeros((3, 5, 4, 8))).shape
    (8, 4, 3, 5)
    """
    return weight.transpose(3, 2, 0, 1)


def dense_of_keras(weight: np.ndarray, channels: int) -> np.ndarray:
    """Return a fully connected layer's weight of Keras as the convolution that it is.

    Keras keeps it as (inputs, outputs), and where the inputs are maps they are in the order (row,
    column, channel); in Caffe and PyTorch it is (channel, row, column).

    Parameters
    ----------
    weight
        (h * w * channels, O), of square maps.
    channels
        Of the layer before it.

    Returns
    -------
    numpy.ndarray
        (O, channels, h, w), or (O, channels) if no square maps fit the inputs.

    Examples
    --------
    >>> dense_of_keras(np.zeros((2 * 2 * 6, 5)), channels=6).shape
    (5, 6, 2, 2)
    """
    inputs, outputs = weight.shape
    side = math.isqrt(inputs // max(channels, 1))
    if side < 2 or side * side * channels != inputs:
        return weight.T
    return hwio_to_oihw(weight.reshape(side, side, channels, outputs))


def fitted(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return an array in a parameter's shape if it is the same numbers in the same order.

    Allowed are three differences: sizes of 1 in front, as in Caffe's old files, where a bias is (1,
    1, 1, N); a fully connected weight (O, C·h·w) for a convolution's (O, C, h, w); and the reverse.
    None is anything else: nothing is repeated or cut off.

    >>> fitted(np.zeros((1, 1, 8, 12)), (8, 3, 2, 2)).shape
    (8, 3, 2, 2)
    >>> fitted(np.zeros((8, 12)), (12, 8)) is None
    True
    """
    while True:
        flat = (shape[0], math.prod(shape[1:]))
        if array.shape == shape:
            return array
        if (array.ndim == 2 and array.shape == flat) or (
            len(shape) == 2 and array.ndim == 4 and (len(array), array[0].size) == shape
        ):
            return array.reshape(shape)
        if array.ndim <= 1 or array.shape[0] != 1:
            return None
        array = array[0]


def fits(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Tell whether `fitted` brings an array into a shape, without doing it.

    >>> fits(np.zeros((8, 12)), (8, 3, 2, 2))
    True
    """
    return fitted(np.broadcast_to(np.float32(0), array.shape), shape) is not None


def fold_batch_norm(
    weight: np.ndarray,
    bias: np.ndarray | None,
    norm: dict[Literal["weight", "bias", "running_mean", "running_var"], np.ndarray],
    eps: float = BATCH_NORM_EPS,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight (O, ...) and bias (O,) of a convolution with the batch norm behind it.

    In evaluation, batch normalisation multiplies each channel by f = γ / √(variance + ε) and moves
    it to β where the mean was: W' = f·W and b' = β + f·(b - mean).

    >>> one = np.ones(1, np.float32)
    >>> norm = {"weight": 2 * one, "bias": one, "running_mean": 3 * one, "running_var": 4 * one}
    >>> [array.item() for array in fold_batch_norm(one[:, None], None, norm, eps=0.0)]
    [1.0, -2.0]
    """
    factor = norm["weight"].astype(np.float64) / np.sqrt(norm["running_var"] + np.float64(eps))
    before = 0 if bias is None else bias
    wide = factor.reshape(-1, *(1,) * (weight.ndim - 1))
    new_bias = norm["bias"] + factor * (before - norm["running_mean"])
    return (weight * wide).astype(weight.dtype), new_bias.astype(weight.dtype)


def fold_input(
    weight: np.ndarray, bias: np.ndarray, old: Preprocessing, new: Preprocessing
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first layer's weight (O, 3, h, w) and bias for images prepared in another way.

    A pixel p is the input (a·p - m) / d by the old rule, and u = (a'·p - m') / d' by the new one;
    so the old input is f·u + t with f = a·d' / (a'·d) and t = (a·m' / a' - m) / d. That gives
    W' = f·W and b' = b + Σ t·W, with the channels in the new order. It is exact except at padding:
    there, zeros mean another colour than before.

    Examples
    --------
    >>> from minifcn.data import CAFFE, TORCHVISION
    >>> w, b = fold_input(np.ones((1, 3, 1, 1)), np.zeros(1), TORCHVISION, CAFFE)
    >>> image = np.full((1, 1, 3), 200, np.uint8)
    >>> abs((w[0, :, 0, 0] @ CAFFE(image)[:, 0, 0] + b - TORCHVISION(image).sum()).item()) < 1e-5
    True
    """
    # By channel, in the order of the new rule.
    turn = slice(None, None, 1 if old.order == new.order else -1)
    mean, std = (np.array(values)[turn] for values in (old.mean, old.std))
    scale = old.scale / new.scale
    factor = scale * np.array(new.std) / std
    shift = (scale * np.array(new.mean) - mean) / std
    turned = weight[:, turn].astype(np.float64)
    folded = turned * factor[:, None, None]
    moved = bias + np.einsum("ochw,c->o", turned, shift)
    return folded.astype(weight.dtype), moved.astype(bias.dtype)


def scale_scores(weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return a score layer's weight (K, C, 1, 1) that has the scaling of its input built in.

    >>> scale_scores(np.ones((1, 2, 1, 1)), np.array([0.5, 2.0]))[0, :, 0, 0].tolist()
    [0.5, 2.0]
    """
    return (weight * factors.astype(np.float64)[:, None, None]).astype(weight.dtype)


def ungrouped(weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return an upsampling weight of one group per class, (C, 1, k, k), as a full one (C, C, k, k).

    None if it is none.

    >>> ungrouped(np.ones((2, 1, 4, 4)), (2, 2, 4, 4))[:, :, 0, 0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if len(shape) != 4 or weight.shape != (shape[0], 1, *shape[2:]) or shape[0] != shape[1]:
        return None
    full = np.zeros(shape, weight.dtype)
    full[np.arange(shape[0]), np.arange(shape[0])] = weight[:, 0]
    return full


def is_bilinear(weight: np.ndarray) -> bool:
    """Tell whether an upsampling weight (C, C, k, k) interpolates, each class by itself.

    >>> is_bilinear(bilinear_kernel(4)[None, None]), is_bilinear(np.ones((1, 1, 4, 4)))
    (True, False)
    """
    C, size = weight.shape[0], weight.shape[-1]
    if weight.shape != (C, C, size, size):
        return False
    expected = np.zeros(weight.shape)
    expected[np.arange(C), np.arange(C)] = bilinear_kernel(size)
    return bool(np.allclose(weight, expected, rtol=0, atol=1e-6))
