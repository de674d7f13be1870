"""What a net must beat: always answer the commonest class, or look the class up by colour alone.

A score means little without them. If predict-the-commonest-class reaches 80 per cent of the pixels,
a net with 82 per cent has learnt next to nothing; and what a net gains over the colour lookup, it
gains from looking around each pixel.
"""

from __future__ import annotations

import numpy as np

from minifcn.data.dataset import Dataset, count_pixels
from minifcn.metrics import ConfusionMatrix

FINEST = 6  # bits per channel: 64 x 64 x 64 colours (on land cover 7 and 8 bits do worse)
FOLDS = 5


def commonest_class(dataset: Dataset) -> int:
    """Return the number of the class with the most pixels.

    >>> from minifcn.data import shapes
    >>> commonest_class(shapes("train", length=5))
    0
    """
    return int(count_pixels(dataset).argmax())


class ColourLookup:
    """The commonest class of each colour, learnt by counting.

    Colours are told apart by the highest ``bits`` bits of red, green and blue. A colour never seen
    is looked up with one bit less, and so on, down to the commonest class of all.

    Parameters
    ----------
    dataset
        What to learn from.
    bits
        1 to 6. Where not given, each is tried by 5-fold cross-validation within ``dataset``, and
        the one that gets the most pixels right is taken.

    Attributes
    ----------
    bits
        The number of bits in use.
    table
        uint8 (2**bits, 2**bits, 2**bits), the class of each colour.
    scores
        Pixel accuracy found by cross-validation, by number of bits; empty where ``bits`` was given.

    Examples
    --------
    >>> from minifcn.data import shapes
    >>> lookup = ColourLookup(shapes("train", length=10))
    >>> lookup.predict(shapes("val")[0].image).shape
    (64, 64)
    """

    def __init__(self, dataset: Dataset, bits: int | None = None) -> None:
        folds = 1 if bits else min(FOLDS, len(dataset))
        counts = [_count(dataset, range(fold, len(dataset), folds)) for fold in range(folds)]
        total = np.sum(counts, axis=0)
        self.scores: dict[int, float] = {}
        if bits is None:
            self.scores = {b: _cross_validate(counts, total, b) for b in range(1, FINEST + 1)}
            bits = max(self.scores, key=lambda b: self.scores[b])
        self.bits = bits
        self.table = _best_class(total, bits)

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Return the class numbers, uint8 (H, W), for an image, uint8 (H, W, 3)."""
        red, green, blue = np.moveaxis(image >> (8 - self.bits), -1, 0)
        return self.table[red, green, blue]


def evaluate_baselines(train: Dataset, val: Dataset) -> dict[str, ConfusionMatrix]:
    """Learn both baselines from ``train`` and score them on ``val``.

    Returns
    -------
    dict
        ``"commonest class"`` and ``"colour lookup"``, each with its confusion matrix.
    """
    commonest = commonest_class(train)
    lookup = ColourLookup(train)
    scores = {
        name: ConfusionMatrix(len(val.classes), val.ignore_index)
        for name in ("commonest class", "colour lookup")
    }
    for index in range(len(val)):
        image, label, _ = val[index]
        scores["commonest class"].update(label, np.full_like(label, commonest))
        scores["colour lookup"].update(label, lookup.predict(image))
    return scores


def _count(dataset: Dataset, indices: range) -> np.ndarray:
    """Count the pixels of each colour and class: int64 (64, 64, 64, K)."""
    classes = len(dataset.classes)
    size = 2**FINEST
    counts = np.zeros(size**3 * classes, np.int64)
    for index in indices:
        image, label, _ = dataset[index]
        known = label != dataset.ignore_index
        red, green, blue = np.moveaxis(image[known] >> (8 - FINEST), -1, 0).astype(np.int64)
        key = ((red * size + green) * size + blue) * classes + label[known]
        counts += np.bincount(key, minlength=counts.size)
    return counts.reshape(size, size, size, classes)


def _coarsen(counts: np.ndarray, bits: int) -> np.ndarray:
    """Add up the counts of the fine colours that share their highest ``bits`` bits."""
    coarse, group = 2**bits, len(counts) // 2**bits
    # (64, 64, 64, K) -> (coarse, group, coarse, group, coarse, group, K) -> (coarse x 3, K)
    split = counts.reshape(coarse, group, coarse, group, coarse, group, counts.shape[-1])
    return split.sum(axis=(1, 3, 5))


def _best_class(counts: np.ndarray, bits: int) -> np.ndarray:
    """Return the commonest class of each colour; unseen colours take that of one bit less."""
    table = np.zeros((1, 1, 1), np.uint8)
    for level in range(bits + 1):
        seen = _coarsen(counts, level)
        if level:
            table = table.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
        table = np.where(seen.any(axis=-1), seen.argmax(axis=-1), table).astype(np.uint8)
    return table


def _cross_validate(counts: list[np.ndarray], total: np.ndarray, bits: int) -> float:
    """Return the pixel accuracy on each fold of the table learnt from the other folds."""
    right = 0
    for held_out in counts:
        table = _best_class(total - held_out, bits)[..., None].astype(np.int64)
        right += int(np.take_along_axis(_coarsen(held_out, bits), table, axis=-1).sum())
    return right / int(total.sum())
