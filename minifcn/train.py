"""Training: the loop, evaluation, and the paper's stages from FCN-32s to FCN-8s.

`fit` is the loop itself; `run` puts stages, evaluation, logs and weight files around it. The
numbers come from a `minifcn.recipes.Recipe`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import functional as F
from . import models, weights
from .autograd import Tensor
from .backend import Array, Error
from .data import UNIT, Dataset, Loader, Preprocessing
from .data.images import replace_file
from .metrics import ConfusionMatrix
from .models import FCN
from .models.surgery import Report, check_loaded, transplant
from .nn import Module, evaluation_mode
from .optim import SGD, bias_groups, clip_grad_norm_, poly, warmup
from .recipes import Recipe, check_rate


class TrainingError(Error, RuntimeError):
    """A run that cannot start or cannot go on."""


class Step(NamedTuple):
    """What is known after a training step."""

    step: int
    steps: int
    loss: float  # mean per labelled pixel, whatever the recipe's reduction is
    lr: float
    seconds: float


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
    puts out.

    Raises
    ------
    RecipeError
        If the rate is for another kind of loss; see `minifcn.recipes.check_rate`.
    TrainingError
        If the loss is not a finite number any more.
    """
    groups = bias_groups(model, recipe.lr, recipe.weight_decay, recipe.bias_lr, recipe.bias_decay)
    optimizer = SGD(groups, recipe.lr, recipe.momentum, recipe.weight_decay, caffe=recipe.caffe)
    schedule = warmup(poly(recipe.steps, recipe.power), recipe.warmup)
    model.to(device).train()
    ignored = loader.dataset.ignore_index
    batches = loader.steps()
    for step in range(recipe.steps):
        parts = list(islice(batches, recipe.accumulate))
        if step == 0:
            check_rate(recipe, parts[0].labels[0].size)
        start = time.perf_counter()
        optimizer.scale_lr(schedule(step))
        optimizer.zero_grad()
        labelled = [int((part.labels != ignored).sum()) for part in parts]
        total = 0.0  # of the loss, over all pixels
        for part, pixels, share in zip(parts, labelled, _shares(recipe, labelled), strict=True):
            output = model(Tensor(part.images).to(device))
            labels = Tensor(part.labels).to(device)
            error = loss(output, labels, reduction=recipe.reduction)
            value = error.item()
            check_loss(value, step, part.names, recipe.lr)
            (error * share).backward()
            total += _summed(value, recipe.reduction, len(part.labels), pixels)
            del output, error  # and all that they were made from, before the next part
        if recipe.max_norm is not None:
            clip_grad_norm_(model.parameters(), recipe.max_norm)
        optimizer.step()
        rate = optimizer.param_groups[0]["lr"]
        per_pixel = total / max(1, sum(labelled))
        yield Step(step + 1, recipe.steps, per_pixel, rate, time.perf_counter() - start)


def _shares(recipe: Recipe, labelled: Sequence[int]) -> list[float]:
    """Return what each part's loss is multiplied with, so that the sum is that of one batch.

    ``labelled`` are the numbers of labelled pixels of the parts, which all have as many images.
    """
    if recipe.reduction == "sum":
        return [1.0] * len(labelled)
    if recipe.reduction == "batchmean":
        return [1 / len(labelled)] * len(labelled)  # Caffe's iter_size
    # Caffe's iter_size divides by the number of parts here, too, which is the mean of their means:
    # of 10 labelled pixels in one image and 1000 in another, each of the 10 then counts as 100.
    return [pixels / max(1, sum(labelled)) for pixels in labelled]


def _summed(loss: float, reduction: str, images: int, labelled: int) -> float:
    """Return the loss summed over all pixels."""
    return {"mean": loss * labelled, "sum": loss, "batchmean": loss * images}[reduction]


def check_loss(value: float, step: int, images: Sequence[str], lr: float) -> None:
    """Raise an error that names the images and gives advice if a loss is not a finite number.

    >>> check_loss(1.5, 0, ["a.png"], lr=0.1)
    """
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is {value} at step {step} (images {', '.join(images)}): the "
            f"learning rate {lr:.3g} is probably too high; try --lr {lr / 3:.2g}"
        )


def evaluate(
    model: Module,
    dataset: Dataset,
    preprocessing: Preprocessing = UNIT,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> ConfusionMatrix:
    """Return the confusion matrix of a model over a whole data set, image by image.

    ``progress(done, total)`` is called after every image.
    """
    matrix = ConfusionMatrix(len(dataset.classes), dataset.ignore_index)
    model.to(device)
    with evaluation_mode(model):
        for done, batch in enumerate(Loader(dataset, 1, preprocessing).in_order(), start=1):
            scores = model(Tensor(batch.images).to(device)).numpy()
            matrix.update(batch.labels, scores.argmax(axis=1))
            if progress:
                progress(done, len(dataset))
    return matrix


def one_class_warning(matrix: ConfusionMatrix, classes: Sequence[str]) -> str | None:
    """Return a warning if nearly all pixels were given one class, though the truth has several."""
    given, true = matrix.matrix.sum(0), matrix.matrix.sum(1)
    share = given.max() / max(1, given.sum())
    if share < 0.999 or true.max() > 0.99 * true.sum():
        return None
    return (
        f"{share:.1%} of all pixels are predicted as {classes[int(given.argmax())]!r}: the net has "
        "not learnt to tell classes apart (yet); train longer, or check the learning rate, the "
        "starting weights and the labels"
    )


class StageResult(NamedTuple):
    """What a stage leaves behind."""

    name: str
    model: FCN  # with the best weights
    matrix: ConfusionMatrix  # of these weights on the held-out images
    step: int  # after which they were best
    seconds: float


def run(
    stages: dict[str, Recipe],
    train_set: Dataset,
    val_set: Dataset,
    out: Path,
    *,
    backbone: str = "small",
    options: dict[str, Any] | None = None,
    preprocessing: Preprocessing = UNIT,
    init: Module | Mapping[str, Array] | None = None,
    new_scores: bool = False,
    eval_every: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    observer: Observer | None = None,
) -> dict[str, StageResult]:
    """Train stage after stage, each starting from the best weights of the one before.

    Parameters
    ----------
    stages
        Model name to recipe, in order, for example ``{"fcn32s": ..., "fcn16s": ...}``.
    train_set, val_set
        What to learn from, and what to measure on.
    out
        A folder for the run: each stage leaves ``STAGE/best.safetensors``, ``last.safetensors``,
        ``log.jsonl`` and ``start.txt`` (which parameters it took over) there, and the run
        ``config.json`` and ``metrics.json``.
    backbone, options
        The net, as for `minifcn.models.build`.
    init, new_scores
        A net or its parameters by name to start from, an FCN or a classifier, and whether the score
        layers shall start anew; see `minifcn.models.surgery.transplant`.
    eval_every
        Steps between two evaluations; each stage ends with one in any case.
    seed
        Decides starting weights, order of images and random changes: the same seed gives the same
        net on the same machine.
    observer
        Is told about every step and evaluation; see `Observer`.

    Raises
    ------
    TrainingError
        If the loss diverges, or the data set does not fit.
    RecipeError
        If a rate is for another kind of loss.
    SurgeryError
        If ``init`` does not fit the net, or a layer's weights are all zero.
    """
    observer = observer or Observer()
    options = options or {}
    num_classes = len(train_set.classes)
    if val_set.classes != train_set.classes:
        raise TrainingError(f"{train_set.name} and {val_set.name} have different classes")
    out.mkdir(parents=True, exist_ok=True)
    config = {
        "data": train_set.name,
        "val": val_set.name,
        "backbone": backbone,
        "options": options,
        "preprocessing": preprocessing.to_dict(),
        "started_from_weights": init is not None,
        "new_scores": new_scores,
        "eval_every": eval_every,
        "seed": seed,
        "device": device,
        "stages": {name: asdict(recipe) for name, recipe in stages.items()},
    }
    write_json(out / "config.json", config)
    results: dict[str, StageResult] = {}
    source = init
    for number, (name, recipe) in enumerate(stages.items()):
        rng = np.random.default_rng([seed, number])
        model = models.build(name, num_classes=num_classes, backbone=backbone, rng=rng, **options)
        (out / name).mkdir(parents=True, exist_ok=True)
        if source is not None:
            report = transplant(model, source, new_scores=new_scores and not results)
            check_loaded(model)
            replace_file(out / name / "start.txt", f"{report}\n".encode())
            observer.transplanted(name, report)
        loader = Loader(
            train_set,
            recipe.batch_size,
            preprocessing,
            seed=seed + number,
            crop=recipe.crop,
            **recipe.changes,
        )
        result = _train_stage(
            model, name, loader, recipe, val_set, out / name, eval_every, device, observer
        )
        results[name] = result
        source = result.model
        write_json(out / "metrics.json", {n: r.matrix.summary() for n, r in results.items()})
    return results


class Observer:
    """Is told what happens in a run. Does nothing; subclasses show progress."""

    def transplanted(self, name: str, report: Report) -> None:
        """Tell which parameters a stage takes over from the net that it starts from."""

    def stage_started(self, name: str, recipe: Recipe, model: Module) -> None:
        """Tell that a stage begins."""

    def stepped(self, name: str, step: Step) -> None:
        """Tell about a training step."""

    def evaluating(self, name: str, done: int, total: int) -> None:
        """Tell how far an evaluation has come."""

    def evaluated(self, name: str, step: int, matrix: ConfusionMatrix, best: bool) -> None:
        """Tell the result of an evaluation."""

    def warned(self, text: str) -> None:
        """Tell about something that is probably wrong."""


def _train_stage(
    model: FCN,
    name: str,
    loader: Loader,
    recipe: Recipe,
    val_set: Dataset,
    out: Path,
    eval_every: int | None,
    device: str,
    observer: Observer,
) -> StageResult:
    """Train one net, evaluate it every now and then, and return it with its best weights."""
    start = time.perf_counter()
    observer.stage_started(name, recipe, model)
    facts: dict[str, Any] = {
        "classes": val_set.classes,
        "palette": val_set.palette,
        "preprocessing": loader.preprocessing,
        "origin": f"{name} trained on {loader.dataset.name}",
    }
    best: tuple[float, int, ConfusionMatrix] | None = None
    with (out / "log.jsonl").open("w") as log:
        for step in fit(model, loader, recipe, device):
            observer.stepped(name, step)
            print(json.dumps(step._asdict()), file=log)
            last = step.step == recipe.steps
            if not last and (eval_every is None or step.step % eval_every):
                continue
            matrix = evaluate(
                model,
                val_set,
                loader.preprocessing,
                device,
                lambda done, total: observer.evaluating(name, done, total),
            )
            score = matrix.mean_iu()
            print(json.dumps({"step": step.step, **matrix.summary()}), file=log, flush=True)
            weights.save(model, out / "last.safetensors", **facts)
            better = best is None or score > best[0]
            if better:
                best = score, step.step, matrix
                weights.save(model, out / "best.safetensors", **facts)
            observer.evaluated(name, step.step, matrix, better)
            if warning := one_class_warning(matrix, val_set.classes):
                observer.warned(warning)
    assert best is not None  # a recipe has at least one step, and the last is evaluated
    model = weights.load(out / "best.safetensors").model
    return StageResult(name, model.to(device), best[2], best[1], time.perf_counter() - start)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    replace_file(path, (json.dumps(value, indent=2) + "\n").encode())
