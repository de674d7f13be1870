"""The loss: softmax cross-entropy at every pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autograd import array_of, primitive
from ..backend import Array, Error, on_device, to_numpy, xp_of
from ..kernels import cuda
from ..kernels import softmax as kernels
from ..shapes import shape_error
from .activation import softmax
from .arithmetic import mul
from .reduction import sum
from .shaping import reshape

REDUCTIONS = ("mean", "sum", "none", "batchmean")


class LabelError(Error, ValueError):
    """A label that is neither a class nor the ignored value."""


@primitive
def cross_entropy(
    x: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = 255,
    reduction: str = "mean",
) -> Array:
    """Return -log softmax(x)[target], the surprise at the true class, over all labelled pixels.

    Parameters
    ----------
    x : (N, C) or (N, C, H, W)
        Scores before the softmax.
    target : (N,) or (N, H, W), whole numbers
        Classes 0 ... C - 1, or ``ignore_index``: such a pixel adds no loss and has no gradient.
    weight : (C,), optional
        A factor for each class.
    reduction
        ``"mean"``: the sum over labelled pixels, divided by their number (by the sum of their
        weights); ``"sum"``; ``"batchmean"``: the sum divided by N, which is what the released nets
        were trained with (Caffe's ``normalize: false``); ``"none"``: one loss per pixel.

    Returns
    -------
    A single number, or the shape of target for ``"none"``. Without a labelled pixel it is zero.

    Raises
    ------
    LabelError
        If a label is no class; names the value and the first place. On a GPU such a label makes
        the loss NaN instead, as nobody waits there to see it: use `check_labels` before the move.
    ShapeError
        If the shapes do not fit.

    Examples
    --------
    >>> round(cross_entropy(np.zeros((2, 4)), np.array([1, 255])).item(), 6)  # log(4)
    1.386294
    """
    _check(x, target, weight, ignore_index, reduction)
    scores, labels = _images(x, target)
    loss = kernels.cross_entropy(scores, labels, ignore_index).reshape(target.shape)
    scale = _scale(x, target, weight, ignore_index, reduction)
    xp_of(x).multiply(loss, scale, out=loss)
    if reduction == "none":
        return loss
    return loss.sum(dtype=np.float64).astype(x.dtype)  # a million small numbers: add in float64


@cross_entropy.gradient("x", saves=("x", "target", "weight"))
def _(g: Any, s: Any) -> Any:
    # d loss / d x = (softmax(x) - 1 at the target) · the pixel's share of the result
    scale = _scale(array_of(s.x), s.target, s.weight, s.ignore_index, s.reduction)
    return softmax_error(s.x, s.target, mul(scale, g), s.ignore_index)


@primitive(linear=("share",))
def softmax_error(x: Array, target: Array, share: Array, ignore_index: int = 255) -> Array:
    """Return softmax(x) over axis 1, minus one at the target, times each pixel's share.

    How far the prediction is off; ``share`` is of target's shape.
    """
    scores, labels, shares = _images(x, target, share)
    error = kernels.softmax_error(scores, labels, shares, ignore_index)
    # (N, H, W, C) -> (N, C, H, W); (1, N, 1, C) -> (N, C)
    return error.transpose(0, 3, 1, 2) if x.ndim == 4 else error[0, :, 0]


@softmax_error.gradient("x", saves=("x", "share"))
def _(g: Any, s: Any) -> Any:
    p = softmax(s.x, 1)  # d p[a] / d x[b] = p[a] (1 if a = b else 0) - p[a] p[b]
    g = mul(g, _by_channel(s.share))
    return mul(p, g - sum(mul(g, p), 1, True))


@softmax_error.gradient("share", saves=("x", "target"))
def _(g: Any, s: Any) -> Any:
    ones = xp_of(s.target).ones(s.target.shape, s.dtype["x"])
    return sum(mul(g, softmax_error(s.x, s.target, ones, s.ignore_index)), 1)


def _by_channel(share: Any) -> Any:
    """Make a number per pixel fit the channels: (N, H, W) -> (N, 1, H, W)."""
    return reshape(share, (share.shape[0], 1, *share.shape[1:]))


def _images(x: Array, *per_pixel: Array) -> list[Array]:
    """Return x as (N, H, W, C), and the others as (N, H, W); N single pixels are one column."""
    if x.ndim == 4:
        return [x.transpose(0, 2, 3, 1), *per_pixel]  # (N, C, H, W) -> (N, H, W, C)
    # (N, C) -> (1, N, 1, C), (N,) -> (1, N, 1)
    return [x[None, :, None], *(array[None, :, None] for array in per_pixel)]


def _scale(x: Array, target: Array, weight: Any, ignore_index: int, reduction: str) -> Array:
    """Return what each pixel's loss is multiplied with, in the shape of target; 0 if ignored."""
    xp = xp_of(x)
    counted = target != ignore_index
    if weight is None:
        scale = counted.astype(x.dtype)
    else:
        scale = xp.where(counted, weight[xp.where(counted, target, 0)], 0)
    if reduction == "mean":
        total = xp.count_nonzero(counted) if weight is None else scale.sum(dtype=np.float64)
        scale /= xp.where(total > 0, total, 1).astype(x.dtype)
    elif reduction == "batchmean":
        scale /= max(1, len(target))
    return scale


def _check(x: Array, target: Array, weight: Any, ignore_index: int, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise LabelError(f"cross_entropy: reduction={reduction!r} must be one of {REDUCTIONS}")
    if x.ndim not in (2, 4) or x.shape[1] < 1 or target.shape != (x.shape[0], *x.shape[2:]):
        rule = "x must be (N, C) with target (N,), or (N, C, H, W) with target (N, H, W)"
        raise shape_error("cross_entropy", rule, x=x, target=target)
    C = x.shape[1]
    if weight is not None and weight.shape != (C,):
        raise shape_error("cross_entropy", f"weight must be ({C},)", x=x, weight=weight)
    if target.dtype.kind not in "iu":
        raise LabelError(f"cross_entropy: target must hold whole numbers, not {target.dtype}")
    if not cuda.on(x):
        check_labels(target, C, ignore_index)


def check_labels(target: Array, classes: int, ignore_index: int = 255) -> None:
    """Raise an error if a label is neither a class nor the ignored value.

    Parameters
    ----------
    target
        Labels, whole numbers, of any shape.
    classes
        How many there are: 0 ... classes - 1.

    Raises
    ------
    LabelError
        With the value and the first place.

    Examples
    --------
    >>> check_labels(np.array([[0, 3], [255, 2]]), classes=4)
    """
    with on_device(target):
        # Read without a sign, a negative number is larger than any class.
        wrong = target.view(f"u{target.dtype.itemsize}") >= classes
        wrong &= target != ignore_index
        found = bool(wrong.any())
    if found:
        place = np.argwhere(to_numpy(wrong))[0]
        axes = ("image", "row", "column")
        where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, place, strict=False))
        raise LabelError(
            f"cross_entropy: label {to_numpy(target)[tuple(place)]} at {where} is no class: there "
            f"are classes 0 to {classes - 1}, and {ignore_index} is ignored. Try: num_classes= of "
            "the net, ignore_index=, or the class table of the labels"
        )


@cross_entropy.reference
def _(
    x: Array, target: Array, weight: Any = None, ignore_index: int = 255, reduction: str = "mean"
) -> Array:
    losses, weights = np.zeros(target.shape), np.zeros(target.shape)
    for place in np.ndindex(target.shape):
        label = target[place]
        if label == ignore_index:
            continue
        scores = [float(x[(place[0], c, *place[1:])]) for c in range(x.shape[1])]
        highest = max(scores)
        total = math.fsum(math.exp(score - highest) for score in scores)
        weights[place] = 1 if weight is None else weight[label]
        losses[place] = weights[place] * (math.log(total) + highest - scores[label])
    if reduction == "none":
        return losses
    divisor = {"mean": weights.sum(), "sum": 1, "batchmean": len(target)}[reduction]
    return np.asarray(losses.sum() / divisor if divisor else 0.0)


@softmax_error.reference
def _(x: Array, target: Array, share: Array, ignore_index: int = 255) -> Array:
    error = np.empty(x.shape)
    for n, *rest in np.ndindex(target.shape):
        scores, label = [math.exp(x[(n, c, *rest)]) for c in range(x.shape[1])], target[(n, *rest)]
        for c in range(x.shape[1]):
            true = label == c and label != ignore_index
            error[(n, c, *rest)] = (scores[c] / math.fsum(scores) - true) * share[(n, *rest)]
    return error


@cross_entropy.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    x, target = rng.normal(size=(2, 3, 2, 4)), rng.integers(0, 3, (2, 2, 4))
    target[0, 0, :2] = 255
    for reduction in REDUCTIONS:
        yield reduction, {"x": x, "target": target, "reduction": reduction}
    weight = np.array([0.5, 2.0, 0.0])
    yield "class weights", {"x": x, "target": target, "weight": weight}
    yield "class weights, sum", {"x": x, "target": target, "weight": weight, "reduction": "sum"}
    yield "no pixel labelled", {"x": x, "target": np.full((2, 2, 4), 255)}
    flat = {"x": rng.normal(size=(5, 4)), "target": np.array([3, 0, 1, -1, 2])}
    yield "no image axes, ignoring -1", {**flat, "ignore_index": -1}
    yield "bytes as labels", {"x": x, "target": target.astype(np.uint8)}
    yield "no image at all", {"x": x[:0], "target": target[:0], "reduction": "batchmean"}


@softmax_error.samples
def _(rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    target, share = rng.integers(0, 3, (2, 2, 4)), rng.normal(size=(2, 2, 4))
    target[1, 1, 1] = 255
    x = rng.normal(size=(2, 3, 2, 4))
    yield "some pixels ignored", {"x": x, "target": target, "share": share}
    few = {"x": rng.normal(size=(3, 4)), "share": rng.normal(size=3)}
    yield "no image axes", {**few, "target": np.array([3, 0, 255])}
    yield "class 0 ignored", {**few, "target": np.array([3, 0, 1]), "ignore_index": 0}
