"""How one cell is done: a classifier, a net that labels every pixel, or an upper bound."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from minifcn import data, models, pretrain, recipes, train, weights
from minifcn.autograd import Tensor
from minifcn.data import Dataset, Sample
from minifcn.models import FCN, Classifier
from minifcn.nn import evaluation_mode
from minifcn.nn.init import bilinear_kernel
from minifcn.progress import learned
from minifcn.train import Observer, TrainingError

from .bounds import bounds, scores
from .plan import (
    BATCH,
    CROP,
    PADDING,
    SEARCH_SEED,
    TILE,
    TILES,
    TURNS,
    Bounding,
    Classifying,
    Job,
    Plan,
    Segmenting,
)
from .results import Results

PREPROCESSING = data.LANDCOVER
FIFTH = 5  # a search measures on every fifth training tile and learns from the others

Observing = Callable[[], AbstractContextManager[Observer]]


class Part:
    """Some samples of a data set, as a data set.

    >>> from minifcn.data import shapes
    >>> len(Part(shapes("train", length=10), [1, 2], "two of them"))
    2
    """

    def __init__(self, dataset: Dataset, indices: list[int], name: str) -> None:
        self.dataset, self.indices = dataset, indices
        self.name = f"{dataset.name}, {name}"
        self.classes, self.palette = dataset.classes, dataset.palette
        self.ignore_index = dataset.ignore_index

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


def data_sets(seed: int) -> tuple[Dataset, Dataset]:
    """Return what a job learns from and what it is measured on.

    The held-out tiles choose no rate: searches see training tiles only.
    """
    tiles = data.landcover("train")
    if seed != SEARCH_SEED:
        return tiles, data.landcover("val")
    each = range(len(tiles))
    return (
        Part(tiles, [i for i in each if i % FIFTH], "four fifths"),
        Part(tiles, [i for i in each if not i % FIFTH], "a fifth"),
    )


class Workshop:
    """Does jobs, and keeps their results.

    Parameters
    ----------
    plan
        What is to be done.
    results
        Where results are kept.
    folder
        For the classifiers, which other cells start from.
    observing
        Makes an observer of a training, to be used in a ``with`` block.
    """

    def __init__(self, plan: Plan, results: Results, folder: Path, observing: Observing) -> None:
        self.plan, self.results, self.folder, self.observing = plan, results, folder, observing

    def finished(self, job: Job) -> bool:
        """Tell whether a job has a result, with all settings as they are now."""
        trials = []
        if isinstance(job.cell, Segmenting) and job.rate is None:
            trials = self.plan.trials(job.cell.search)
        if not all(map(self.finished, trials)):
            return False  # and so its rate is not known yet
        return self.results.find(job.key, self.settings(job)) is not None

    def do(self, job: Job) -> dict[str, Any]:
        """Do a job and return its result. What it needs must be finished."""
        if isinstance(job.cell, Classifying):
            return self._classify(job, job.cell)
        if isinstance(job.cell, Segmenting):
            return self._segment(job, job.cell)
        return dict(bounds(data_sets(job.seed)[1], job.cell.factor))

    def settings(self, job: Job) -> dict[str, Any]:
        """Return all that decides the result of a job, except for the program itself."""
        cell = job.cell
        if isinstance(cell, Bounding):
            return asdict(cell)
        told: dict[str, Any] = {"net": cell.net, "width": self.plan.scale.width}
        if isinstance(cell, Classifying):
            recipe = numbers(self._classifier_recipe(cell))
            return told | {"tile": TILE, "recipe": recipe}
        stages = self._stages(cell, self._rate(job))
        told |= {"options": cell.options, "padding": PADDING[cell.net]}
        told |= {"stages": {name: numbers(recipe) for name, recipe in stages.items()}}
        if cell.start:
            told["start"] = self.settings(Job(cell.start, job.seed, self.plan.cells[cell.start]))
        return told

    def weights(self, job: Job) -> Path:
        """Return the file of a classifier; with other settings it is another one."""
        text = json.dumps(self.settings(job))
        mark = hashlib.sha256(text.encode()).hexdigest()[:8]
        return self.folder / f"{job.key.replace('/', ' ')} {mark}.safetensors"

    def best_rate(self, search: str) -> float:
        """Return the rate with the highest mean IU; its jobs must be finished."""
        found = {job.rate: self._find(job).get("mean_iu", -1.0) for job in self.plan.trials(search)}
        rate = max(found, key=lambda rate: found[rate])
        if rate is None or found[rate] < 0:
            raise TrainingError(f"search {search}: the training diverged at every rate")
        return rate

    def _find(self, job: Job) -> dict[str, Any]:
        found = self.results.find(job.key, self.settings(job))
        if found is None:
            raise TrainingError(f"{job.key} is not finished, and is needed")
        return found

    def _rate(self, job: Job) -> float:
        assert isinstance(job.cell, Segmenting)
        return self.best_rate(job.cell.search) if job.rate is None else job.rate

    def _classifier_recipe(self, cell: Classifying) -> recipes.Recipe:
        return replace(pretrain.CLASSIFY, steps=cell.steps, batch_size=TILES, crop=TILE, **TURNS)

    def _stages(self, cell: Segmenting, rate: float) -> dict[str, recipes.Recipe]:
        numbers = dict(cell.numbers)
        if cell.recipe == "quick":
            numbers |= {"batch_size": BATCH, "crop": CROP}
        names, steps = list(cell.stages), list(cell.stages.values())
        return recipes.plan(names, cell.recipe, cell.net, steps=steps, lr=rate, **numbers)

    def _new_classifier(self, net: str, classes: int, rng: np.random.Generator) -> Classifier:
        # No dropout: these nets are small, and see their few tiles few times.
        options = {"width": self.plan.scale.width, "image_size": TILE, "dropout": 0.0}
        built = models.build(net, num_classes=classes, rng=rng, **options)
        assert isinstance(built, Classifier)
        return built

    def _classify(self, job: Job, cell: Classifying) -> dict[str, Any]:
        train_set, val_set = data_sets(job.seed)
        rng = np.random.default_rng(job.seed)
        model = self._new_classifier(cell.net, len(train_set.classes), rng)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.observing() as observer:
            done = pretrain.run(
                model,
                train_set,
                val_set,
                self.weights(job),
                self._classifier_recipe(cell),
                preprocessing=PREPROCESSING,
                seed=job.seed,
                observer=observer,
            )
        return {
            "accuracy": done.matrix.pixel_accuracy(),  # here a tile is a pixel
            "baseline": done.baseline,
            "steps": cell.steps,
            "training_seconds": round(done.seconds, 1),
        }

    def _segment(self, job: Job, cell: Segmenting) -> dict[str, Any]:
        train_set, val_set = data_sets(job.seed)
        init = None
        if cell.start:
            start = Job(cell.start, job.seed, self.plan.cells[cell.start])
            if not self.weights(start).exists():  # its result came here without it
                self.do(start)
            init = weights.load(self.weights(start)).model
        rng = np.random.default_rng()  # its weights are not used
        config = self._new_classifier(cell.net, len(train_set.classes), rng).config
        options = models.trunk_options(config) | PADDING[cell.net] | cell.options
        rate = self._rate(job)
        known: dict[str, Any] = {"steps": sum(cell.stages.values()), "rate": rate}
        with tempfile.TemporaryDirectory() as folder, self.observing() as observer:
            begin = time.perf_counter()
            try:
                done = train.run(
                    self._stages(cell, rate),
                    train_set,
                    val_set,
                    Path(folder),
                    backbone=options.pop("backbone"),
                    options=options,
                    preprocessing=PREPROCESSING,
                    init=init,
                    new_scores=init is not None,
                    seed=job.seed,
                    observer=observer,
                )
            # The data fit, so it can only be the loss, or weights that its last step made infinite.
            except (TrainingError, weights.WeightsError) as error:
                return {**known, "diverged": str(error)}
            known["training_seconds"] = round(time.perf_counter() - begin, 1)
        model = list(done.values())[-1].model
        assert isinstance(model, FCN)  # the images are of one kind
        return {**measure(model, val_set), **known, **facts(model)}


def numbers(recipe: recipes.Recipe) -> dict[str, Any]:
    """Return the numbers of a recipe, as they are kept with a result.

    What recipes came to have after the first results is left out where it changes nothing.
    """
    later = {"scale": None, "jitter": 0.0, "sampling": "epochs", "sizes": "same"}
    told = asdict(recipe)
    return {n: value for n, value in told.items() if n not in later or value != later[n]}


def measure(model: FCN, dataset: Dataset) -> dict[str, float]:
    """Return the `scores` of a net on a data set of images of one size."""
    truths, answers = [], []
    with evaluation_mode(model):
        for batch in data.Loader(dataset, 1, PREPROCESSING).in_order():
            truths.append(batch.labels)
            answers.append(model(Tensor(batch.images)).numpy().argmax(axis=1))
    return scores(np.concatenate(truths), np.concatenate(answers), len(dataset.classes))


def facts(model: FCN) -> dict[str, Any]:
    """Return a net's size, what its scores see, and how far its upsampling has moved.

    ``moved`` is the distance of the learned kernels from the bilinear ones they started from, as a
    share of these; 0 where nothing was learned, or there are no skips.
    """
    trunk = [getattr(model, name) for name in model.trunk_names]
    moved = whole = 0.0
    for skip in model.skips:
        weight = getattr(model, skip.upsample).weight.data
        start = np.zeros_like(weight)
        start[range(len(weight)), range(len(weight))] = bilinear_kernel(weight.shape[-1])
        moved += float(np.square(weight - start).sum())
        whole += float(np.square(start).sum())
    return {
        "parameters": sum(p.data.size for _, p in _parameters(model)),
        "learned": learned(model),
        "receptive_field": models.receptive_field_of(trunk),
        "moved": (moved / whole) ** 0.5 if whole else 0.0,
    }


def _parameters(model: FCN) -> list[tuple[str, Any]]:
    """Return the parameters without the upsampling kernels, which the paper's counts leave out."""
    return [(name, p) for name, p in model.named_parameters() if "upscore" not in name]
