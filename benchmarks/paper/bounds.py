"""Table c: what is the best that a net with coarse scores could do?

The true labels are made coarser by some factor, and finer again. The paper does so in its appendix
A, without saying how; so here are two ways, between which a net's own lies somewhere:

- "commonest": each cell of factor x factor pixels takes its commonest class. No other answer that
  is constant in each cell gets more pixels right.
- "bilinear": each cell's shares of the classes are its scores, and are upsampled as in an FCN.
"""

from __future__ import annotations

import numpy as np

from minifcn import functional as F
from minifcn.data import Dataset
from minifcn.metrics import ConfusionMatrix, boundary_band
from minifcn.nn.init import bilinear_kernel

BAND = 3  # pixels on each side of a boundary


def bounds(dataset: Dataset, factor: int) -> dict[str, dict[str, float]]:
    """Return, for each of the two ways, the `scores` of labels at a coarser scale."""
    classes = len(dataset.classes)
    truths = np.stack([dataset[index].label for index in range(len(dataset))])
    shares = cell_shares(truths, factor, classes)
    cells = shares.argmax(axis=1)
    answers = {
        "commonest": cells.repeat(factor, axis=1).repeat(factor, axis=2),
        "bilinear": upsampled(shares, factor).argmax(axis=1),
    }
    return {way: scores(truths, answer, classes) for way, answer in answers.items()}


def cell_shares(labels: np.ndarray, factor: int, classes: int) -> np.ndarray:
    """Return the share of each class in each cell: (N, H, W) to (N, classes, H/factor, W/factor).

    Ignored pixels belong to no class, so the shares of a cell may add up to less than 1.

    >>> cell_shares(np.array([[[0, 0, 1, 1], [0, 1, 1, 255]]]), 2, 2).tolist()
    [[[[0.75, 0.0]], [[0.25, 0.75]]]]
    """
    n, height, width = labels.shape
    hot = np.stack([labels == k for k in range(classes)], axis=1).astype(np.float32)
    # (N, K, H, W) -> (N, K, H/f, f, W/f, f) -> (N, K, H/f, W/f)
    cells = hot.reshape(n, classes, height // factor, factor, width // factor, factor)
    return cells.mean(axis=(3, 5))


def upsampled(scores: np.ndarray, factor: int) -> np.ndarray:
    """Return scores (N, K, h, w) upsampled bilinearly, (N, K, h·factor, w·factor).

    Beyond the edge the scores are zero, which changes no class's rank: at the outer half of an
    outer cell, all are made smaller alike.
    """
    classes = scores.shape[1]
    kernel = bilinear_kernel(2 * factor).astype(scores.dtype)
    weight = np.zeros((classes, classes, 2 * factor, 2 * factor), scores.dtype)
    weight[range(classes), range(classes)] = kernel
    return F.conv_transpose2d(scores, weight, stride=factor, padding=factor // 2)


def scores(truth: np.ndarray, answer: np.ndarray, classes: int) -> dict[str, float]:
    """Return the paper's four metrics, and the mean IU near boundaries and away from them."""
    whole, band, rest = (ConfusionMatrix(classes) for _ in range(3))
    near = boundary_band(truth, BAND)
    whole.update(truth, answer)
    band.update(np.where(near, truth, band.ignore_index), answer)
    rest.update(np.where(near, rest.ignore_index, truth), answer)
    return {**whole.summary(), "band_iu": band.mean_iu(), "rest_iu": rest.mean_iu()}
