"""The parts of a training step: labels and outputs by head, and what each part's loss counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import functional as F
from .autograd import Tensor
from .backend import Array, is_numpy
from .recipes import Recipe
from .step import TrainingError


def by_head(labels: np.ndarray, heads: Sequence[str]) -> dict[str, np.ndarray]:
    """Return a batch's labels (N, H, W) of each head."""
    if len(heads) == 1:
        return {heads[0]: labels}
    # (N, heads, H, W) -> (N, H, W)
    return {head: np.ascontiguousarray(labels[:, i]) for i, head in enumerate(heads)}


def by_name(output: Any, heads: Sequence[str]) -> dict[str, Any]:
    """Return what each head puts out, by its name in the data set."""
    found = output if isinstance(output, dict) else {heads[0]: output}
    if set(heads) != set(found):
        raise TrainingError(
            f"the net has the heads {', '.join(found)}, the data labels for {', '.join(heads)}: "
            "both must be the same"
        )
    return found


def shares(
    recipe: Recipe,
    labelled: Sequence[int],
    images: Sequence[int],
    all_labelled: int,
    all_images: int,
) -> list[float]:
    """Return what each part's loss is multiplied with, so that the sum is that of one batch.

    ``labelled`` are the numbers of labelled pixels of the parts, ``images`` those of their images;
    those of all parts of all ranks follow.
    """
    if recipe.reduction == "sum":
        return [1.0] * len(labelled)
    if recipe.reduction == "batchmean":
        return [count / all_images for count in images]  # Caffe's iter_size
    # Caffe's iter_size divides by the number of parts here, too, which is the mean of their means:
    # of 10 labelled pixels in one image and 1000 in another, each of the 10 then counts as 100.
    return [pixels / all_labelled for pixels in labelled]


def summed(reduction: str, images: int, labelled: int) -> int:
    """Return what a loss must be multiplied with to be the sum over all pixels."""
    return {"mean": labelled, "sum": 1, "batchmean": images}[reduction]


def classes_of(output: Any) -> int:
    """Return how many classes a head's output tells apart."""
    scores = output[0] if isinstance(output, tuple) else output
    return int(scores.shape[1])


def labels_on(device: str, labels: Array, classes: int, ignored: int) -> Tensor:
    """Return labels where the net is. On a GPU they could not be checked without waiting."""
    if device == "cpu" or not is_numpy(labels):
        return Tensor(labels)  # the loss checks them; or they were checked before they were moved
    F.check_labels(labels, classes, ignored)
    return Tensor(labels.astype(np.int32)).to(device)


def labels_before(
    device: str, truth: Mapping[str, np.ndarray], classes: Mapping[str, int], ignored: int
) -> list[Array]:
    """Return the labels of each head on a GPU, before the net has computed anything."""
    return [labels_on(device, labels, classes[h], ignored).data for h, labels in truth.items()]


def with_less_memory(recipe: Recipe) -> str:
    """Say how a step comes to need less memory."""
    batch = recipe.batch_size
    if batch > 1:
        same = f"with --accumulate {2 * recipe.accumulate} the steps are the same"
        return f"half as many images at a time: --batch-size {batch // 2} ({same})"
    return "smaller parts of the images (--crop), less --padding, or a narrower net (--width)"
