"""The training loop: batches, a net and a recipe make steps.

Nothing in a step waits for a GPU. What a program asks a GPU for is put in a queue; as long as
nobody wants to see a number, the program is ahead, and the GPU always has something to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np

from . import functional as F
from .autograd import Tensor
from .data import Loader, heads_of
from .kernels import precision
from .loss_scale import LossScale
from .nn import Module, naming_layers
from .optim import SGD, bias_groups, clip_grad_norm_, poly, warmup
from .recipes import Recipe, check_rate
from .step import LATE, Step, StepLoss, TrainingError


def fit(
    model: Module,
    loader: Loader,
    recipe: Recipe,
    device: str = "cpu",
    loss: Callable[..., Tensor] = F.cross_entropy,
) -> Iterator[Step]:
    """Train a model, one step each time the next `Step` is asked for.

    A step takes ``recipe.accumulate`` batches of the loader, one after the other: their gradients
    add up, in the memory of one batch, to that of all their images as one batch. (Dropout draws
    other numbers then.) ``loss(output, labels, reduction=...)`` is computed from what the model
    puts out; if it has several heads, from what each puts out, and the losses are added up.

    A GPU is not waited for: the loss of a step is read when it is asked for, and with those of up
    to 20 steps in any case.

    Raises
    ------
    RecipeError
        If the rate is for another kind of loss; see `minifcn.recipes.check_rate`.
    TrainingError
        If the loss is not a finite number any more, or the model lacks a head.
    OutOfMemoryError
        If a batch is too large for the device.
    """
    groups = bias_groups(model, recipe.lr, recipe.weight_decay, recipe.bias_lr, recipe.bias_decay)
    optimizer = SGD(groups, recipe.lr, recipe.momentum, recipe.weight_decay, caffe=recipe.caffe)
    schedule = warmup(poly(recipe.steps, recipe.power), recipe.warmup)
    model.to(device).train()
    scale = LossScale(next(iter(model.parameters())).data)
    unread: list[StepLoss] = []
    ignored, heads = loader.dataset.ignore_index, list(heads_of(loader.dataset))
    with closing(loader.steps()) as batches:
        for step in range(recipe.steps):
            parts = list(islice(batches, recipe.accumulate))
            truths = [_by_head(part.labels, heads) for part in parts]
            if step == 0:
                check_rate(recipe, truths[0][heads[0]][0].size)
            start = time.perf_counter()
            optimizer.scale_lr(schedule(step))
            optimizer.zero_grad()
            fp16 = precision.current() == "fp16"
            labelled = {h: [int((truth[h] != ignored).sum()) for truth in truths] for h in heads}
            images = [len(part.images) for part in parts]
            shares = {head: _shares(recipe, pixels, images) for head, pixels in labelled.items()}
            told = StepLoss(step, recipe.lr)
            with naming_layers(model, _advice(recipe)):
                for number, (part, truth) in enumerate(zip(parts, truths, strict=True)):
                    output = _by_name(model(Tensor(part.images).to(device)), heads)
                    errors = []
                    for head, labels in truth.items():
                        target = _labels_on(device, labels, output[head], ignored)
                        error = loss(output[head], target, reduction=recipe.reduction)
                        pixels = labelled[head]
                        factor = _summed(recipe.reduction, len(labels), pixels[number])
                        told.add(error.data, factor, max(1, sum(pixels)), part.names)
                        errors.append(error * shares[head][number])
                    total = sum(errors[1:], errors[0])
                    (scale.scaled(total) if fp16 else total).backward()
                    del output, error, errors, total  # and all behind them, before the next part
                if fp16:
                    scale.unscale_(model.parameters())
                if recipe.max_norm is not None:
                    clip_grad_norm_(model.parameters(), recipe.max_norm)
                optimizer.step()
            unread.append(told)
            if len(unread) == LATE or step + 1 == recipe.steps:
                for each in unread:
                    each.read()
                unread = []
            rate = optimizer.param_groups[0]["lr"]
            yield Step(step + 1, recipe.steps, told, rate, time.perf_counter() - start)


def _by_head(labels: np.ndarray, heads: Sequence[str]) -> dict[str, np.ndarray]:
    """Return a batch's labels (N, H, W) of each head."""
    if len(heads) == 1:
        return {heads[0]: labels}
    # (N, heads, H, W) -> (N, H, W)
    return {head: np.ascontiguousarray(labels[:, i]) for i, head in enumerate(heads)}


def _by_name(output: Any, heads: Sequence[str]) -> dict[str, Any]:
    """Return what each head puts out, by its name in the data set."""
    found = output if isinstance(output, dict) else {heads[0]: output}
    if set(heads) != set(found):
        raise TrainingError(
            f"the net has the heads {', '.join(found)}, the data labels for {', '.join(heads)}: "
            "both must be the same"
        )
    return found


def _shares(recipe: Recipe, labelled: Sequence[int], images: Sequence[int]) -> list[float]:
    """Return what each part's loss is multiplied with, so that the sum is that of one batch.

    ``labelled`` are the numbers of labelled pixels of the parts, ``images`` those of their images.
    """
    if recipe.reduction == "sum":
        return [1.0] * len(labelled)
    if recipe.reduction == "batchmean":
        return [count / sum(images) for count in images]  # Caffe's iter_size
    # Caffe's iter_size divides by the number of parts here, too, which is the mean of their means:
    # of 10 labelled pixels in one image and 1000 in another, each of the 10 then counts as 100.
    return [pixels / max(1, sum(labelled)) for pixels in labelled]


def _summed(reduction: str, images: int, labelled: int) -> int:
    """Return what a loss must be multiplied with to be the sum over all pixels."""
    return {"mean": labelled, "sum": 1, "batchmean": images}[reduction]


def _labels_on(device: str, labels: np.ndarray, output: Any, ignored: int) -> Tensor:
    """Return labels where the net is. On a GPU they could not be checked without waiting."""
    if device == "cpu":
        return Tensor(labels)  # the loss checks them
    scores = output[0] if isinstance(output, tuple) else output
    F.check_labels(labels, scores.shape[1], ignored)
    return Tensor(labels.astype(np.int32)).to(device)


def _advice(recipe: Recipe) -> str:
    """Say how a step comes to need less memory."""
    batch = recipe.batch_size
    if batch > 1:
        same = f"with --accumulate {2 * recipe.accumulate} the steps are the same"
        return f"half as many images at a time: --batch-size {batch // 2} ({same})"
    return "smaller parts of the images (--crop), less --padding, or a narrower net (--width)"
