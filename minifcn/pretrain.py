"""Teach a classifier on square tiles cut from labelled images, as a start for an FCN.

The paper's nets begin as classifiers of a million photographs. Here the same is done at a small
scale, with the data at hand: the class of a tile is the commonest one among its pixels, and a net
that knows it is then cast into an FCN (`models.surgery.transplant`), which has to tell where.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import functional as F
from . import weights
from .autograd import Tensor
from .baselines import commonest_class
from .data import IGNORE, UNIT, Batch, DataError, Dataset, Loader, Preprocessing, Sample
from .evaluation import evaluate
from .metrics import ConfusionMatrix
from .models import Classifier
from .models.surgery import check_loaded
from .recipes import Recipe
from .train import Observer, Step, TrainingError, check_weights, fit

CLASSIFY = Recipe(steps=1000, lr=0.02, batch_size=32, crop=None, max_norm=3.0)
"""For narrow classifiers from random weights; tiles are as large as the net's images."""

LABELLED = 0.5  # the share of a tile's pixels that must have a class
AUXILIARY_WEIGHT = 0.3  # of the losses of GoogLeNet's two heads on the way


def tile_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the commonest class of each tile's labelled pixels.

    Parameters
    ----------
    labels
        Integer (N, H, W), 255 where a pixel has no class.
    num_classes
        K; of two classes that are as common, the one with the lower number is taken.

    Returns
    -------
    numpy.ndarray
        int64 (N,); 255 for a tile with fewer than half of its pixels labelled.

    Examples
    --------
    >>> tile_classes(np.array([[[2, 2], [1, 255]], [[255, 255], [255, 0]]]), 3).tolist()
    [2, 255]
    """
    flat = labels.reshape(len(labels), -1)  # (N, H, W) -> (N, H*W)
    counts = np.stack([np.count_nonzero(flat == k, axis=1) for k in range(num_classes)], axis=1)
    usable = counts.sum(axis=1) >= LABELLED * flat.shape[1]
    return np.where(usable, counts.argmax(axis=1), IGNORE)


class TileDataset:
    """A data set of square tiles with one class each, cut side by side from the images of another.

    What is left at the right and at the bottom of an image is not used, nor are tiles with fewer
    than half of their pixels labelled. All images are read once, here.

    Parameters
    ----------
    dataset
        Images with a class for each pixel.
    size
        The side of a tile in pixels.

    Raises
    ------
    DataError
        If no tile can be used.

    Examples
    --------
    >>> from minifcn.data import shapes
    >>> tiles = TileDataset(shapes("val", length=3), size=32)
    >>> image, label, name = tiles[0]
    >>> len(tiles), image.shape, label.shape, name
    (12, (32, 32, 3), (), 'val-0000 row 0 column 0')
    """

    def __init__(self, dataset: Dataset, size: int) -> None:
        self.dataset, self.size = dataset, size
        self.name = f"tiles of {size} pixels of {dataset.name}"
        self.classes, self.palette = dataset.classes, dataset.palette
        self.ignore_index = dataset.ignore_index
        self.places: list[tuple[int, int, int, int]] = []  # image, row, column and class
        largest = (0, 0)
        for index in range(len(dataset)):
            label = dataset[index].label
            largest = max(largest, label.shape, key=min)
            rows = range(0, label.shape[0] - size + 1, size)
            corners = [(y, x) for y in rows for x in range(0, label.shape[1] - size + 1, size)]
            for y, x in corners:
                tile = label[None, y : y + size, x : x + size]
                number = int(tile_classes(tile, len(self.classes))[0])
                if number != IGNORE:
                    self.places.append((index, y, x, number))
        if not self.places:
            raise DataError(
                f"{dataset.name}: no tile of {size} x {size} pixels has a class for half of its "
                f"pixels, and the largest image is {largest[0]} x {largest[1]} (height x width): "
                "choose smaller tiles, or data with more labels"
            )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Sample:
        index, y, x, kind = self.places[number]
        image, _, name = self.dataset[index]
        tile = image[y : y + self.size, x : x + self.size]
        return Sample(tile, np.array(kind, np.uint8), f"{name} row {y} column {x}")


class TileLoader(Loader):
    """A `Loader` that cuts tiles at random places; a batch's labels are the tiles' classes (N,).

    Tiles that must not be used have the class 255, which losses and metrics pass over.

    >>> from minifcn.data import shapes
    >>> batch = next(TileLoader(shapes("train"), batch_size=4, crop=32).steps())
    >>> batch.images.shape, batch.labels.shape
    ((4, 3, 32, 32), (4,))
    """

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stack tiles into a batch."""
        batch = super().collate(samples)
        return batch._replace(labels=tile_classes(batch.labels, len(self.dataset.classes)))


def fit_classifier(
    model: Classifier,
    dataset: Dataset,
    recipe: Recipe = CLASSIFY,
    *,
    preprocessing: Preprocessing = UNIT,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[Step]:
    """Teach a classifier the classes of tiles, one step each time the next `Step` is asked for.

    Tiles of the model's image size are cut at random places from the images of ``dataset``, which
    has a class for each pixel; see `TileDataset` for which are used. The loss is the mean over
    the tiles of a step (or as the recipe's reduction says), see `classification_loss`.

    Raises
    ------
    TrainingError
        If the model has another number of classes than the data, and as `minifcn.train.fit`.

    Examples
    --------
    >>> from minifcn import models
    >>> from minifcn.data import shapes
    >>> net = models.vgg16(4, width=0.03, image_size=32)
    >>> recipe = Recipe(steps=2, lr=0.01, batch_size=4)
    >>> [step.step for step in fit_classifier(net, shapes("train"), recipe)]
    [1, 2]
    """
    if model.num_classes != len(dataset.classes):
        raise TrainingError(
            f"the classifier tells {model.num_classes} classes apart, {dataset.name} has "
            f"{len(dataset.classes)} ({', '.join(dataset.classes)})"
        )
    check_loaded(model)
    loader = TileLoader(
        dataset,
        recipe.batch_size,
        preprocessing,
        seed=seed,
        crop=model.image_size,
        **recipe.changes,
    )
    yield from fit(model, loader, recipe, device, loss=classification_loss)


def classification_loss(output: Any, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of a classifier's scores (N, K) with classes (N,).

    A GoogLeNet with auxiliary heads puts out three scores while it is trained: the losses of the
    two heads count 0.3 each (Szegedy et al. 2015, section 5).

    >>> scores, labels = Tensor(np.zeros((2, 4), np.float32)), Tensor(np.array([0, 3]))
    >>> alone = classification_loss(scores, labels).item()
    >>> round(classification_loss((scores, scores, scores), labels).item() / alone, 6)
    1.6
    """
    scores, *others = output if isinstance(output, tuple) else (output,)
    loss = F.cross_entropy(scores, labels, reduction=reduction)
    for auxiliary in others:
        loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(auxiliary, labels, reduction=reduction)
    return loss


class Pretrained(NamedTuple):
    """What `run` leaves behind."""

    model: Classifier
    matrix: ConfusionMatrix  # of the held-out tiles
    commonest: int  # the commonest class of the training images' tiles
    baseline: float  # the share of the held-out tiles that are of this class
    seconds: float


def run(
    model: Classifier,
    train_set: Dataset,
    val_set: Dataset,
    out: str | Path,
    recipe: Recipe = CLASSIFY,
    *,
    preprocessing: Preprocessing = UNIT,
    eval_every: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    trained_on: Iterable[int] = (),
    observer: Observer | None = None,
) -> Pretrained:
    """Train a classifier on tiles, measure it on the tiles of held-out images, and save it.

    Parameters
    ----------
    model
        A net of `minifcn.models.build`, such as a narrow ``vgg16``.
    train_set, val_set
        Images with a class for each pixel, to learn from and to measure on.
    out
        The weight file; it holds the classes and the preprocessing too.
    recipe, preprocessing, seed, device
        As for `fit_classifier`.
    eval_every
        Steps between two evaluations; there is one at the end in any case.
    trained_on
        Fingerprints of the training images, for the file.
    observer
        Is told about every step and evaluation.

    Raises
    ------
    DataError
        If a data set has no tile that can be used.
    TrainingError
        If the loss diverges, or if classes differ.
    WeightsError
        If the file could not be written; this is found out before the training.
    """
    observer = observer or Observer()
    weights.check_place(out)
    if val_set.classes != train_set.classes:
        raise TrainingError(f"{train_set.name} and {val_set.name} have different classes")
    commonest = commonest_class(TileDataset(train_set, model.image_size))
    tiles = TileDataset(val_set, model.image_size)
    name, start = str(model.config["model"]), time.perf_counter()
    observer.stage_started(name, recipe, model)
    steps = fit_classifier(
        model, train_set, recipe, preprocessing=preprocessing, seed=seed, device=device
    )
    matrix = ConfusionMatrix(model.num_classes)
    for step in steps:
        observer.stepped(name, step)
        if step.step == recipe.steps or (eval_every and step.step % eval_every == 0):
            check_weights(model, step.step, recipe.lr)
            tell = partial(observer.evaluating, name)
            (matrix,) = evaluate(model, tiles, preprocessing, device, tell).values()
            observer.evaluated(name, step.step, matrix, False)
    weights.save(
        model,
        out,
        classes=train_set.classes,
        palette=train_set.palette,
        preprocessing=preprocessing,
        origin=f"{name} trained on {tiles.size} x {tiles.size} tiles of {train_set.name}",
        trained_on=trained_on,
    )
    true = matrix.matrix.sum(axis=1)
    baseline = float(true[commonest] / true.sum())
    return Pretrained(model, matrix, commonest, baseline, time.perf_counter() - start)
