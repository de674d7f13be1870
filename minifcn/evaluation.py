"""Measuring a net on a data set: labels for each image, and the confusion matrices of them all.

`score_images` goes through a data set image by image, with one image in memory at a time (on a GPU
a few), and tells what the net makes of each. `evaluate` adds that up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Set
from contextlib import closing
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from .backend import Error, to_numpy
from .data import UNIT, DataError, Dataset, Preprocessing, Sample, heads_of, label_by_head
from .data.fingerprint import fingerprint
from .labelling import averaged, most_likely, outputs, read_meanwhile
from .metrics import ConfusionMatrix, boundary_band
from .models import Classifier
from .nn import Module
from .parallel import ALONE, Ranks
from .tiling import cut


class EvaluationError(Error, ValueError):
    """A net that cannot be measured on a data set, or results that would say nothing."""


class Scored(NamedTuple):
    """An image, and what a net makes of it.

    Attributes
    ----------
    number
        Its place in the data set, from 0.
    sample
        The image and its true labels.
    labels
        What the net says, by head: uint8 (H, W), class numbers.
    matrices
        The image's own confusion matrix, by head.
    """

    number: int
    sample: Sample
    labels: dict[str, np.ndarray]
    matrices: dict[str, ConfusionMatrix]


def evaluate(
    model: Module,
    dataset: Dataset,
    preprocessing: Preprocessing = UNIT,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    ranks: Ranks = ALONE,
) -> dict[str, ConfusionMatrix]:
    """Return the confusion matrices of a net over a whole data set, by head.

    The name of the head is "" if there is only one. ``progress(done, total)`` is called after every
    image; all else is as for `score_images`. Each of several ranks returns the sum of them all.

    >>> from minifcn import models
    >>> from minifcn.data import shapes
    >>> matrix = evaluate(models.fcn32s(4, "small"), shapes("val", length=2))[""]
    >>> int(matrix.matrix.sum()) == 2 * 64 * 64
    True
    """
    totals = new_matrices(dataset)
    scored = score_images(
        model, dataset, preprocessing, device, scales=scales, flip=flip, ranks=ranks
    )
    with closing(scored):
        for one in scored:
            add_up(totals, one)
            if progress:
                progress(one.number + 1, len(dataset))
    sum_up(totals.values(), ranks)
    return totals


def score_images(
    model: Module,
    dataset: Dataset,
    preprocessing: Preprocessing = UNIT,
    device: str = "cpu",
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    ranks: Ranks = ALONE,
) -> Generator[Scored, None, None]:
    """Label the images of a data set one after the other, and count how many pixels are right.

    Parameters
    ----------
    model
        A net with a head for each kind of labels of the data set; it is moved to the device. A
        classifier is asked for the class of each image as a whole.
    dataset
        Whose images are read, each when it is its turn; while a GPU computes, two more by a thread.
    preprocessing
        What the net was trained with.
    device
        Where to compute.
    scales, flip
        Look at each image in these sizes (1 is its own), and at its mirror image too, and let the
        mean probabilities decide: see `minifcn.labelling.averaged`. Images are then seen as a
        whole where memory allows; else, and without this, large ones in tiles.
    ranks
        Of several processes, each labels its share of the images.

    Raises
    ------
    EvaluationError
        If the net has not the heads of the data set, or a scale is not above 0.
    PredictionError
        If an image does not fit into memory, or makes the scores overflow.
    DataError
        If the data set is empty, or a sample cannot be read.

    Examples
    --------
    >>> from minifcn import models
    >>> from minifcn.data import shapes
    >>> net, dataset = models.fcn32s(4, "small"), shapes("val", length=2)
    >>> [(one.sample.name, one.labels[""].shape) for one in score_images(net, dataset)]
    [('val-0000', (64, 64)), ('val-0001', (64, 64))]
    """
    if len(dataset) == 0:
        raise DataError(f"data set {dataset.name} is empty: there is nothing to measure on")
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise EvaluationError(f"scales are {tuple(scales)}: each must be above 0, as 0.75")
    heads = check_heads(model, dataset)
    model.to(device)
    parts = lru_cache(maxsize=64)(lambda height, width: cut(model, height, width))

    def read(index: int) -> tuple[int, Sample]:
        return index, dataset[index]

    with closing(read_meanwhile(model, read, ranks.share(len(dataset)))) as samples:
        for index, sample in samples:
            image = sample.image
            if isinstance(model, Classifier):
                scores = to_numpy(outputs(model, preprocessing(image))[""])
                found = {"": np.asarray(scores.argmax(), np.uint8)}
            elif flip or tuple(scales) != (1,):
                means = averaged(model, image, preprocessing, scales=scales, flip=flip)
                found = {head: mean.argmax(axis=0).astype(np.uint8) for head, mean in means.items()}
            else:
                found = most_likely(model, image, preprocessing, parts(*image.shape[:2]))
            labels = {head: found[ours] for head, ours in heads.items()}
            yield Scored(index, sample, labels, _count(dataset, sample, labels))


def new_matrices(dataset: Dataset) -> dict[str, ConfusionMatrix]:
    """Return an empty confusion matrix for each kind of labels of a data set, by head.

    >>> from minifcn.data import shapes
    >>> new_matrices(shapes("val"))[""].num_classes
    4
    """
    return {
        name: ConfusionMatrix(len(head.classes), dataset.ignore_index)
        for name, head in heads_of(dataset).items()
    }


def add_up(totals: Mapping[str, ConfusionMatrix], one: Scored) -> None:
    """Add the counts of an image to those of all images, by head."""
    for head, matrix in one.matrices.items():
        totals[head].merge(matrix)


def sum_up(matrices: Iterable[ConfusionMatrix], ranks: Ranks) -> None:
    """Let each rank have the counts of all."""
    for matrix in matrices:
        matrix.matrix = ranks.sum(matrix.matrix)


def _count(
    dataset: Dataset, sample: Sample, labels: Mapping[str, np.ndarray]
) -> dict[str, ConfusionMatrix]:
    """Return the confusion matrix of one image for each head."""
    matrices = new_matrices(dataset)
    for head, truth in label_by_head(sample.label, heads_of(dataset)).items():
        matrices[head].update(truth, labels[head])
    return matrices


def check_heads(model: Module, dataset: Dataset) -> dict[str, str]:
    """Return which head of a net is for which kind of labels: data's name to net's name.

    Raises
    ------
    EvaluationError
        If the net has no head for one of them, or with another number of classes.

    Examples
    --------
    >>> from minifcn import models
    >>> from minifcn.data import shapes
    >>> check_heads(models.fcn32s(4, "small"), shapes("val"))
    {'': ''}
    """
    given = _heads_of_net(model)
    pairs = pair_heads(list(given), dataset)
    for name, head in heads_of(dataset).items():
        found, wanted = given[pairs[name]], len(head.classes)
        if found not in (wanted, None):
            what = f"{dataset.name} ({name})" if name else dataset.name
            raise EvaluationError(
                f"the net tells {found} classes apart, {what} has {wanted}: choose the data that "
                "the net was trained for"
            )
    return pairs


def pair_heads(given: Sequence[str], dataset: Dataset) -> dict[str, str]:
    """Return which of a net's heads is for which kind of labels: by name, or if both have only one.

    >>> from minifcn.data import shapes
    >>> pair_heads(["shape"], shapes("val"))
    {'': 'shape'}

    Raises
    ------
    EvaluationError
        If there is no head for one of them.
    """
    wanted = list(heads_of(dataset))
    if len(wanted) == len(given) == 1:  # whatever they are called
        return {wanted[0]: given[0]}
    if set(wanted) <= set(given):
        return {name: name for name in wanted}
    ours = f"heads for {' and '.join(given)}" if len(given) > 1 else "one head"
    theirs = f"{len(wanted)} kinds ({', '.join(wanted)})" if len(wanted) > 1 else "one kind"
    fix = "choose the data that the net was trained for"
    if len(given) == 1:
        fix = f"choose one of them, as ?labels={wanted[0]}"
    raise EvaluationError(f"the net has {ours}, and {dataset.name} {theirs} of labels: {fix}")


def _heads_of_net(model: Module) -> dict[str, int | None]:
    """Return the number of classes of each head of a net, by name; None if it does not tell."""
    heads = getattr(model, "heads", None) or {"": getattr(model, "num_classes", None)}
    return {name.removeprefix("_"): count for name, count in heads.items()}


def one_class_warning(matrix: ConfusionMatrix, classes: Sequence[str]) -> str | None:
    """Return a warning if nearly all pixels were given one class, though the truth has several.

    >>> one_class_warning(ConfusionMatrix(2), ["sea", "land"]) is None
    True
    """
    given, true = matrix.matrix.sum(0), matrix.matrix.sum(1)
    share = given.max() / max(1, given.sum())
    if share < 0.999 or true.max() > 0.99 * true.sum():
        return None
    return (
        f"{share:.1%} of all pixels are predicted as {classes[int(given.argmax())]!r}: the net has "
        "not learnt to tell classes apart (yet); train longer, or check the learning rate, the "
        "starting weights and the labels"
    )


class Bands:
    """Confusion matrices of the pixels near boundaries alone: they tell sharp labels from blunt.

    Parameters
    ----------
    dataset
        Whose images are going to be counted.
    widths
        Of the bands in pixels: see `minifcn.metrics.boundary_band`.

    Attributes
    ----------
    matrices
        Head to width to `ConfusionMatrix`.

    Examples
    --------
    >>> from minifcn import models
    >>> from minifcn.data import shapes
    >>> net, dataset = models.fcn32s(4, "small"), shapes("val", length=2)
    >>> bands = Bands(dataset, [1, 3])
    >>> for one in score_images(net, dataset):
    ...     bands.add(one)
    >>> [int(matrix.matrix.sum()) < 2 * 64 * 64 for matrix in bands.matrices[""].values()]
    [True, True]
    """

    def __init__(self, dataset: Dataset, widths: Sequence[int]) -> None:
        self.dataset = dataset
        each = [(width, new_matrices(dataset)) for width in widths]
        self.matrices = {
            head: {width: matrices[head] for width, matrices in each} for head in heads_of(dataset)
        }

    def sum_up(self, ranks: Ranks) -> None:
        """Let each rank have the counts of all."""
        for by_width in self.matrices.values():
            sum_up(by_width.values(), ranks)

    def add(self, one: Scored) -> None:
        """Count the pixels of an image."""
        ignored = self.dataset.ignore_index
        for head, truth in label_by_head(one.sample.label, heads_of(self.dataset)).items():
            for width, matrix in self.matrices[head].items():
                near = boundary_band(truth, width, ignored)
                matrix.update(np.where(near, truth, ignored), one.labels[head])


def is_learnt(one: Scored, trained_on: Set[int]) -> bool:
    """Tell whether a net has learnt from an image: its score then says nothing about new ones.

    ``trained_on`` are the fingerprints of the images that it has learnt from; see
    `minifcn.data.fingerprint.fingerprint`.
    """
    return bool(trained_on) and fingerprint(one.sample.image) in trained_on


def results(
    matrix: ConfusionMatrix, classes: Sequence[str], absent: Literal["zero", "exclude"] = "zero"
) -> dict[str, Any]:
    """Return everything that was measured, ready for JSON; None where there is nothing to say.

    >>> results(ConfusionMatrix(2), ["sea", "land"])["classes"]["sea"]
    {'iu': None, 'accuracy': None, 'pixels': 0}
    """

    def known(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    rows = zip(classes, matrix.iu(), matrix.accuracy(), matrix.matrix.sum(axis=1), strict=True)
    return {
        **{name: known(value) for name, value in matrix.summary(absent).items()},
        "absent": absent,
        "classes": {
            name: {"iu": known(iu), "accuracy": known(accuracy), "pixels": int(pixels)}
            for name, iu, accuracy, pixels in rows
        },
        "confusion": matrix.matrix.tolist(),
    }
