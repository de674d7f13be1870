"""Training: the paper's stages from FCN-32s to FCN-8s.

`run` puts stages, evaluation, logs and weight files around the loop, which is `minifcn.loop.fit`.
The numbers come from a `minifcn.recipes.Recipe`.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import models, weights
from .backend import Array, on_device, to_numpy, xp_of
from .data import UNIT, Dataset, Loader, Preprocessing, check_alike, heads_of, streams_of
from .data.images import replace_file
from .evaluation import evaluate, one_class_warning
from .kernels import precision
from .loop import fit
from .metrics import ConfusionMatrix
from .models import FCN, LateFusion
from .models.surgery import Report, check_loaded, transplant
from .nn import Module
from .recipes import Recipe
from .step import Step, TrainingError


def check_weights(model: Module, step: int, lr: float) -> None:
    """Raise an error with advice if a weight is not a finite number.

    >>> check_weights(Module(), 0, lr=0.1)
    """
    named = dict(model.named_parameters())
    for name, finite in zip(named, _are_finite([p.data for p in named.values()]), strict=True):
        if not finite:
            raise TrainingError(
                f"the weights of {name} are not finite after step {step}: the learning rate "
                f"{lr:.3g} is probably too high; try --lr {lr / 3:.2g}"
            )


def _are_finite(arrays: Sequence[Array]) -> list[bool]:
    """Tell of each array whether all its numbers are finite; a GPU is asked once for all."""
    if not arrays:
        return []
    xp = xp_of(arrays[0])
    with on_device(arrays[0]):
        return to_numpy(xp.stack([xp.isfinite(array).all() for array in arrays])).tolist()


class StageResult(NamedTuple):
    """What a stage leaves behind."""

    name: str
    model: FCN | LateFusion  # with the best weights
    matrices: dict[str, ConfusionMatrix]  # of these weights on the held-out images, by head
    step: int  # after which they were best
    seconds: float

    @property
    def matrix(self) -> ConfusionMatrix:
        """The confusion matrix of the first head, which decides what is best."""
        return next(iter(self.matrices.values()))

    def summary(self) -> dict[str, Any]:
        """Return the four metrics; if there are several heads, of each by its name."""
        return summaries(self.matrices)


def summaries(matrices: Mapping[str, ConfusionMatrix]) -> dict[str, Any]:
    """Return the four metrics of each head by its name; if there is one head, just the metrics.

    >>> list(summaries({"": ConfusionMatrix(2)}))
    ['pixel_accuracy', 'mean_accuracy', 'mean_iu', 'fw_iu']
    """
    told = {head: matrix.summary() for head, matrix in matrices.items()}
    return next(iter(told.values())) if len(told) == 1 else told


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
    workers: int = 0,
    trained_on: Iterable[int] = (),
    observer: Observer | None = None,
) -> dict[str, StageResult]:
    """Train stage after stage, each starting from the best weights of the one before.

    The nets have a head for each kind of labels of the data, and take each kind of its images: see
    `minifcn.models.for_data`. "Best" is by the mean IU of the first head.

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
        layers shall start anew; see `minifcn.models.surgery.transplant`. If its images have fewer
        channels, the first layer is widened.
    eval_every
        Steps between two evaluations; each stage ends with one in any case.
    seed
        Decides starting weights, order of images and random changes: the same seed gives the same
        net on the same machine.
    workers
        Processes that read images ahead: see `minifcn.data.Loader`.
    trained_on
        Fingerprints of the images that the nets will have been trained on, for their files.
    observer
        Is told about every step and evaluation; see `Observer`.

    Raises
    ------
    TrainingError
        If the loss diverges.
    DataError
        If the two data sets do not go together.
    RecipeError
        If a rate is for another kind of loss.
    SurgeryError
        If ``init`` does not fit the net, or a layer's weights are all zero.
    """
    observer = observer or Observer()
    options = options or {}
    check_alike(train_set, val_set)
    streams, known = streams_of(train_set), frozenset(trained_on)
    counts = {name: len(head.classes) for name, head in heads_of(train_set).items()}
    out.mkdir(parents=True, exist_ok=True)
    config = {
        "data": train_set.name,
        "val": val_set.name,
        "heads": counts,
        "streams": streams,
        "backbone": backbone,
        "options": options,
        "preprocessing": preprocessing.to_dict(),
        "started_from_weights": init is not None,
        "new_scores": new_scores,
        "eval_every": eval_every,
        "seed": seed,
        "device": device,
        "precision": precision.current(),
        "workers": workers,
        "stages": {name: asdict(recipe) for name, recipe in stages.items()},
    }
    write_json(out / "config.json", config)
    results: dict[str, StageResult] = {}
    source = init
    for number, (name, recipe) in enumerate(stages.items()):
        rng = np.random.default_rng([seed, number])
        model = models.for_data(name, counts, streams, backbone=backbone, rng=rng, **options)
        (out / name).mkdir(parents=True, exist_ok=True)
        if source is not None:
            new = new_scores and not results
            report = transplant(model, source, widen_input=True, new_scores=new)
            check_loaded(model)
            replace_file(out / name / "start.txt", f"{report}\n".encode())
            observer.transplanted(name, report)
        loader = Loader(
            train_set,
            recipe.batch_size,
            preprocessing,
            seed=seed + number,
            crop=recipe.crop,
            sizes=recipe.sizes,
            sampling=recipe.sampling,
            workers=workers,
            **recipe.changes,
        )
        result = _train_stage(
            model, name, loader, recipe, val_set, out / name, eval_every, device, known, observer
        )
        results[name] = result
        source = result.model
        write_json(out / "metrics.json", {n: r.summary() for n, r in results.items()})
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
        """Tell the result of an evaluation: of each head, whose name is then behind the stage's."""

    def warned(self, text: str) -> None:
        """Tell about something that is probably wrong."""


def _train_stage(
    model: FCN | LateFusion,
    name: str,
    loader: Loader,
    recipe: Recipe,
    val_set: Dataset,
    out: Path,
    eval_every: int | None,
    device: str,
    trained_on: frozenset[int],
    observer: Observer,
) -> StageResult:
    """Train one net, evaluate it every now and then, and return it with its best weights."""
    start = time.perf_counter()
    observer.stage_started(name, recipe, model)
    heads = heads_of(val_set)
    facts: dict[str, Any] = {
        "classes": [each for head in heads.values() for each in head.classes],
        "palette": np.concatenate([head.palette for head in heads.values()]),
        "preprocessing": loader.preprocessing,
        "origin": f"{name} trained on {loader.dataset.name}",
        "trained_on": trained_on,
    }
    best: StageResult | None = None
    with (out / "log.jsonl").open("w") as file, closing(Log(file)) as log:
        for step in fit(model, loader, recipe, device):
            observer.stepped(name, step)
            log.add(step)
            last = step.step == recipe.steps
            if not last and (eval_every is None or step.step % eval_every):
                continue
            log.write()
            check_weights(model, step.step, recipe.lr)
            matrices = evaluate(
                model,
                val_set,
                loader.preprocessing,
                device,
                lambda done, total: observer.evaluating(name, done, total),
            )
            now = StageResult(name, model, matrices, step.step, time.perf_counter() - start)
            print(json.dumps({"step": step.step, **now.summary()}), file=file, flush=True)
            weights.save(model, out / "last.safetensors", **facts)
            better = best is None or now.matrix.mean_iu() > best.matrix.mean_iu()
            if better:
                best = now
                weights.save(model, out / "best.safetensors", **facts)
            for head, matrix in matrices.items():
                observer.evaluated(f"{name} {head}".strip(), step.step, matrix, better)
                if warning := one_class_warning(matrix, heads[head].classes):
                    observer.warned(warning)
    assert best is not None  # a recipe has at least one step, and the last is evaluated
    model = weights.load(out / "best.safetensors").model
    return best._replace(model=model.to(device), seconds=time.perf_counter() - start)


class Log:
    """A file with a line for each step. Losses are not read before they are known.

    >>> import io
    >>> log = Log(io.StringIO())
    >>> log.add(Step(1, 10, 0.5, lr=0.1, seconds=0.0))
    >>> print(log.file.getvalue(), end="")
    {"step": 1, "steps": 10, "loss": 0.5, "lr": 0.1, "seconds": 0.0}
    """

    def __init__(self, file: Any) -> None:
        self.file, self.waiting = file, deque[Step]()

    def add(self, step: Step) -> None:
        """Write what is known of this step and of those before."""
        self.waiting.append(step)
        self.close()

    def close(self) -> None:
        """Write what is known."""
        while self.waiting and self.waiting[0].known:
            self._write_first()

    def write(self) -> None:
        """Write all, and wait for a GPU that is still computing."""
        while self.waiting:
            self._write_first()

    def _write_first(self) -> None:
        print(json.dumps(self.waiting[0].numbers()), file=self.file)
        self.waiting.popleft()


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    replace_file(path, (json.dumps(value, indent=2) + "\n").encode())
