"""Training: a recipe, the loop, evaluation, and the paper's stages from FCN-32s to FCN-8s.

`fit` is the loop itself; `run` puts stages, evaluation, logs and weight files around it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import functional as F
from . import models, weights
from .autograd import Tensor
from .backend import Error
from .data import UNIT, Dataset, Loader, Preprocessing
from .data.images import replace_file
from .metrics import ConfusionMatrix
from .models import FCN
from .nn import Module, evaluation_mode
from .optim import SGD, bias_groups, clip_grad_norm_, poly, warmup


class TrainingError(Error, RuntimeError):
    """A run that cannot start or cannot go on."""


@dataclass(frozen=True)
class Recipe:
    """How one stage is trained. The numbers belong together: a rate fits one kind of loss only.

    Attributes
    ----------
    steps
        Optimiser steps.
    lr
        Learning rate of the weights; biases get twice that, as in the paper (section 4.3).
    momentum, weight_decay
        Of SGD; biases do not decay.
    batch_size, crop
        Images in a step, and the side of the square that is cut from each (None: all of it).
    reduction
        Of the loss: the rate is for this one. "mean" is per labelled pixel.
    power, warmup
        The rate rises for ``warmup`` steps, then falls as (1 - step / steps) ^ power.
    max_norm
        Gradients whose common norm is larger are scaled down to it; None: never (the paper).
    flip_vertical, rotate
        Further random changes, right for images without an up and down; left and right are always
        exchanged at random.
    """

    steps: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 8
    crop: int | None = 128
    reduction: str = "mean"
    power: float = 0.9
    warmup: int = 20
    max_norm: float | None = None
    flip_vertical: bool = False
    rotate: bool = False


QUICK = Recipe(steps=600, lr=0.03, crop=96, max_norm=3.0)
"""For small nets from random weights: the mean loss, and a rate that falls to zero in each stage.

On land cover, windows of 96 pixels taught more in the same time than those of 64 or whole tiles of
128. Without the limit on the gradient's norm (2.5 at the median) one run of three diverged.
"""

STAGE_RATES = {"fcn32s": 1.0, "fcn16s": 0.8, "fcn8s": 0.7}
"""The rate falls from stage to stage, as in the paper (by 100 there: its nets are pretrained)."""


class Step(NamedTuple):
    """What is known after a training step."""

    step: int
    steps: int
    loss: float  # mean per labelled pixel, whatever the recipe's reduction is
    lr: float
    seconds: float


def fit(model: Module, loader: Loader, recipe: Recipe, device: str = "cpu") -> Iterator[Step]:
    """Train a model, one step each time the next `Step` is asked for.

    Raises
    ------
    TrainingError
        If the loss is not a finite number any more.
    """
    groups = bias_groups(model, recipe.lr, recipe.weight_decay)
    optimizer = SGD(groups, recipe.lr, recipe.momentum, recipe.weight_decay)
    schedule = warmup(poly(recipe.steps, recipe.power), recipe.warmup)
    model.to(device).train()
    for step, batch in enumerate(islice(loader.steps(), recipe.steps)):
        start = time.perf_counter()
        optimizer.scale_lr(schedule(step))
        scores = model(Tensor(batch.images).to(device))
        labels = Tensor(batch.labels).to(device)
        loss = F.cross_entropy(scores, labels, reduction=recipe.reduction)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {step} (images {', '.join(batch.names)}): the "
                f"learning rate {recipe.lr:.3g} is probably too high; try --lr {recipe.lr / 3:.2g}"
            )
        optimizer.zero_grad()
        loss.backward()
        if recipe.max_norm is not None:
            clip_grad_norm_(model.parameters(), recipe.max_norm)
        optimizer.step()
        labelled = int((batch.labels != loader.dataset.ignore_index).sum())
        per_pixel = _per_pixel(value, recipe.reduction, len(batch.labels), labelled)
        rate = optimizer.param_groups[0]["lr"]
        yield Step(step + 1, recipe.steps, per_pixel, rate, time.perf_counter() - start)


def _per_pixel(loss: float, reduction: str, images: int, labelled: int) -> float:
    total = {"mean": loss * labelled, "sum": loss, "batchmean": loss * images}[reduction]
    return total / max(1, labelled)


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
    init: dict[str, Any] | None = None,
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
        A folder for the run: each stage leaves ``STAGE/best.safetensors``, ``last.safetensors`` and
        ``log.jsonl`` there, and the run ``config.json`` and ``metrics.json``.
    backbone, options
        The net, as for `minifcn.models.build`.
    init
        Parameters by name to start from; those that the net does not have are left out.
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
        "eval_every": eval_every,
        "seed": seed,
        "device": device,
        "stages": {name: asdict(recipe) for name, recipe in stages.items()},
    }
    write_json(out / "config.json", config)
    state, results = init, {}
    for number, (name, recipe) in enumerate(stages.items()):
        rng = np.random.default_rng([seed, number])
        model = models.build(name, num_classes=num_classes, backbone=backbone, rng=rng, **options)
        if state:
            start_from(model, state)
        changes = {"flip": True, "flip_vertical": recipe.flip_vertical, "rotate": recipe.rotate}
        loader = Loader(
            train_set,
            recipe.batch_size,
            preprocessing,
            seed=seed + number,
            crop=recipe.crop,
            **changes,
        )
        result = _train_stage(
            model, name, loader, recipe, val_set, out / name, eval_every, device, observer
        )
        results[name] = result
        state = result.model.state_dict()
        write_json(out / "metrics.json", {n: r.matrix.summary() for n, r in results.items()})
    return results


def start_from(model: Module, state: dict[str, Any]) -> list[str]:
    """Copy what a net shares with another: same name, same shape. Return the names left new.

    From FCN-32s to 16s that is the trunk and the scores; the score layers of new skips stay zero,
    so training goes on where the parent stopped.

    Raises
    ------
    TrainingError
        If nothing at all is shared.
    """
    own = model.state_dict()
    shared = {n: a for n, a in state.items() if n in own and own[n].shape == a.shape}
    if not shared:
        raise TrainingError(
            "none of the starting weights fits this net: "
            f"it has {', '.join(list(own)[:3])} ..., they have {', '.join(list(state)[:3])} ..."
        )
    model.load_state_dict(shared, strict=False)
    return [name for name in own if name not in shared]


class Observer:
    """Is told what happens in a run. Does nothing; subclasses show progress."""

    def stage_started(self, name: str, recipe: Recipe, model: FCN) -> None:
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
    out.mkdir(parents=True, exist_ok=True)
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


def recipes(
    names: Sequence[str], base: Recipe = QUICK, steps: Sequence[int] | None = None
) -> dict[str, Recipe]:
    """Return a recipe for each stage: the base recipe with the stage's rate and number of steps.

    >>> {name: round(recipe.lr, 4) for name, recipe in recipes(["fcn32s", "fcn8s"]).items()}
    {'fcn32s': 0.03, 'fcn8s': 0.021}
    """
    each = list(steps or [base.steps])
    each = each * len(names) if len(each) == 1 else each
    unknown = [name for name in names if name not in STAGE_RATES]
    if unknown or not names or len(each) != len(names) or min(each) < 1:
        raise TrainingError(
            f"stages {list(names)} with steps {each}: name some of {', '.join(STAGE_RATES)}, with "
            "one number of steps, or one for each"
        )
    rates = [base.lr * STAGE_RATES[name] / STAGE_RATES[names[0]] for name in names]
    return {
        name: replace(base, lr=rate, steps=count)
        for name, rate, count in zip(names, rates, each, strict=True)
    }


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    replace_file(path, (json.dumps(value, indent=2) + "\n").encode())
