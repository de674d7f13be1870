"""How good a segmentation is: pixel accuracy, mean accuracy, mean IU and frequency-weighted IU.

All four follow from one table that counts, over a whole data set, how many pixels of each true
class were given each class (Long, Shelhamer and Darrell 2015, section 5). With n[i, j] the pixels
of class i predicted as j, and t[i] = sum over j of n[i, j] the pixels of class i::

    pixel accuracy   sum_i n[i, i] / sum_i t[i]
    mean accuracy    mean over i of n[i, i] / t[i]
    IU of class i    n[i, i] / (t[i] + sum_j n[j, i] - n[i, i])
    mean IU          mean over i of IU[i]
    f.w. IU          sum_i t[i] * IU[i] / sum_i t[i]

Most pixels lie far from any boundary, so these numbers hardly tell whether boundaries are right.
Counting only the pixels of a `boundary_band` does.
"""

from __future__ import annotations

import functools
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from minifcn.backend import Array, Error, to_numpy
from minifcn.shown import Shown

MOST = np.iinfo(np.int64).max  # that an element of a matrix can count to
LEAST = np.iinfo(np.int64).min + 1  # less than any class number, or its negative
METRICS = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_iu": "mean IU",
    "fw_iu": "f.w. IU",
}
"""The paper's four metrics: key in `ConfusionMatrix.summary`, and what to call it."""


class MetricError(Error, ValueError):
    """Labels or predictions that cannot be counted."""


class ConfusionMatrix(Shown):
    """Counts of (true class, predicted class) pairs over any number of images.

    Parameters
    ----------
    num_classes
        K; classes are 0 to K - 1.
    ignore_index
        The label of pixels that are not counted; no class number.

    Attributes
    ----------
    matrix
        int64 (K, K); row = true class, column = predicted class.

    Examples
    --------
    >>> confusion = ConfusionMatrix(2)
    >>> confusion.update(np.array([[0, 0], [1, 255]]), np.array([[0, 1], [1, 0]]))
    >>> confusion.matrix.tolist()
    [[1, 1], [0, 1]]
    >>> round(confusion.mean_iu(), 3), round(confusion.pixel_accuracy(), 3)
    (0.5, 0.667)
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise MetricError(f"num_classes is {num_classes}: it must be at least 1")
        if 0 <= ignore_index < num_classes:
            raise MetricError(
                f"ignore_index is {ignore_index}, a class number of {num_classes} classes: "
                "choose a number outside them"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    @classmethod
    def from_counts(cls, counts: ArrayLike, ignore_index: int = 255) -> Self:
        """Return the confusion matrix with these counts, such as those that a file holds.

        Parameters
        ----------
        counts
            Integers of at least 0, (K, K); row = true class, column = predicted class. They are
            copied.
        ignore_index
            As for the class.

        Raises
        ------
        MetricError
            If the counts are no square table of such numbers.

        Examples
        --------
        >>> ConfusionMatrix.from_counts([[3, 1], [0, 4]]).pixel_accuracy()
        0.875
        """
        try:
            table = np.asarray(counts)
        except ValueError:
            raise MetricError("counts have rows of unlike length: they must be (K, K)") from None
        if table.ndim != 2 or table.shape[0] != table.shape[1]:
            raise MetricError(f"counts are of shape {table.shape}: they must be (K, K)")
        confusion = cls(len(table), ignore_index)
        if table.dtype.kind not in "iu":
            raise MetricError(f"counts are {table.dtype}: pixels are counted in integers")
        if (wrong := table[(table < 0) | (table > MOST)]).size:
            raise MetricError(f"counts hold {wrong[0]}: they must be 0 to {MOST}")
        confusion.matrix[...] = table
        return confusion

    def update(self, target: Array, prediction: Array) -> None:
        """Count the pixels of one image or batch.

        Parameters
        ----------
        target
            Integer class numbers of any shape, ``ignore_index`` where not to be counted.
        prediction
            Integer class numbers of the same shape.

        Raises
        ------
        MetricError
            If shapes differ or a number is no class; nothing is counted then.
        """
        target, prediction = to_numpy(target), to_numpy(prediction)
        for name, values in (("target", target), ("prediction", prediction)):
            if values.dtype.kind not in "iu":
                raise MetricError(
                    f"{name} is {values.dtype} of shape {values.shape}: class numbers must be "
                    "integers (of scores, take the argmax over the channels)"
                )
        if target.shape != prediction.shape:
            raise MetricError(
                f"target has shape {target.shape}, prediction {prediction.shape}: "
                "they must be equal"
            )
        counted = target != self.ignore_index
        self._check("target", target, counted)
        self._check("prediction", prediction, np.ones_like(counted))
        true, predicted = target[counted].astype(np.int64), prediction[counted].astype(np.int64)
        pairs = np.bincount(true * self.num_classes + predicted, minlength=self.num_classes**2)
        self.matrix += pairs.reshape(self.num_classes, self.num_classes)

    def _check(self, name: str, values: np.ndarray, where: np.ndarray) -> None:
        wrong = where & ((values < 0) | (values >= self.num_classes))
        if wrong.any():
            position = tuple(np.argwhere(wrong)[0].tolist())
            raise MetricError(
                f"{name} is {values[position]} at position {position} ({int(wrong.sum())} such "
                f"pixels): classes are 0 to {self.num_classes - 1}"
                + (f", ignored pixels {self.ignore_index}" if name == "target" else "")
            )

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix, of other images or another process."""
        if other.num_classes != self.num_classes:
            raise MetricError(
                f"cannot add a confusion matrix of {other.num_classes} classes to one of "
                f"{self.num_classes}"
            )
        self.matrix += other.matrix

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        total = ConfusionMatrix(self.num_classes, self.ignore_index)
        total.merge(self)
        total.merge(other)
        return total

    def pixel_accuracy(self) -> float:
        """Return the share of counted pixels that were given their true class."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    def accuracy(self) -> np.ndarray:
        """Return the share of each class's pixels found, float64 (K,); NaN for an absent class."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=1))

    def mean_accuracy(self) -> float:
        """Return the mean of :meth:`accuracy` over the classes present in the truth."""
        return _mean(self.accuracy())

    def iu(self) -> np.ndarray:
        """Return each class's intersection over union, float64 (K,).

        NaN for a class found neither in the truth nor in the predictions; 0 for one that was
        predicted but is not in the truth.
        """
        true, predicted = self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        return _ratio(np.diag(self.matrix), true + predicted - np.diag(self.matrix))

    def mean_iu(self, absent: Literal["zero", "exclude"] = "zero") -> float:
        """Return the mean IU over the classes.

        Parameters
        ----------
        absent
            What to do with a class that was predicted but is not in the truth. ``"zero"``: it
            counts as 0, as in the authors' scoring script. ``"exclude"``: it is left out of the
            mean. A class that is neither predicted nor in the truth is always left out.
        """
        if absent not in ("zero", "exclude"):
            raise MetricError(f"absent is {absent!r}: it must be 'zero' or 'exclude'")
        iu = self.iu()
        return _mean(iu if absent == "zero" else iu[self.matrix.sum(axis=1) > 0])

    def fw_iu(self) -> float:
        """Return the mean IU, each class weighted with its number of true pixels."""
        true = self.matrix.sum(axis=1)
        present = true > 0
        return float(_ratio(np.sum(true[present] * self.iu()[present]), true.sum()))

    def summary(self, absent: Literal["zero", "exclude"] = "zero") -> dict[str, float]:
        """Return the four numbers of the paper by name; all NaN where nothing was counted.

        ``absent`` is as for :meth:`mean_iu`.
        """
        return {
            "pixel_accuracy": self.pixel_accuracy(),
            "mean_accuracy": self.mean_accuracy(),
            "mean_iu": self.mean_iu(absent),
            "fw_iu": self.fw_iu(),
        }


def _ratio(part: np.ndarray | np.number, whole: np.ndarray | np.number) -> np.ndarray:
    """Divide; 0/0 is NaN, without a warning."""
    empty = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=empty, where=np.asarray(whole) > 0)


def _mean(values: np.ndarray) -> float:
    """Return the mean of the numbers that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def boundary_band(labels: Array, width: int, ignore_index: int = 255) -> np.ndarray:
    """Return which pixels lie at a boundary between classes: no more than ``width`` steps off.

    A pixel belongs to the band if it is labelled, and if a labelled pixel of another class lies in
    the square of 2·width + 1 pixels a side around it; so both sides of a boundary belong to it.
    Neither the edge of the image nor an ignored pixel is a boundary.

    Parameters
    ----------
    labels
        Integer (..., H, W), class numbers of one or several images.
    width
        In pixels, at least 1.
    ignore_index
        The label of pixels of unknown class.

    Returns
    -------
    numpy.ndarray
        bool (..., H, W). For the IU at boundaries, all other pixels are ignored:
        ``confusion.update(np.where(boundary_band(truth, 3), truth, 255), prediction)``.

    Raises
    ------
    MetricError
        If the labels are no integers or have less than two axes, or the width is below 1.

    Notes
    -----
    Kohli, Ladicky and Torr (2009) measured in such a band, and called it a trimap.

    Examples
    --------
    >>> boundary_band(np.array([[0, 0, 0, 1, 1, 255]]), width=1).astype(int)
    array([[0, 0, 1, 1, 0, 0]])
    """
    labels = to_numpy(labels)
    if labels.dtype.kind not in "iu" or labels.ndim < 2:
        raise MetricError(
            f"labels are {labels.dtype} of shape {labels.shape}: they must be integers, (H, W) or "
            "(..., H, W)"
        )
    if width < 1:
        raise MetricError(f"width is {width}: a band is at least 1 pixel wide")
    known, number = labels != ignore_index, labels.astype(np.int64)
    # A square holds a single class if its least and its greatest class number are the same.
    greatest = _greatest_around(np.where(known, number, LEAST), width)
    least = -_greatest_around(np.where(known, -number, LEAST), width)
    return known & (least != greatest)


def _greatest_around(values: np.ndarray, width: int) -> np.ndarray:
    """Return the greatest value in the square around each pixel: along columns, then rows."""
    for axis in (-2, -1):
        border = [(0, 0)] * values.ndim
        border[axis] = (width, width)
        along = np.moveaxis(np.pad(values, border, constant_values=LEAST), axis, -1)
        length = values.shape[axis]
        shifted = (along[..., i : i + length] for i in range(2 * width + 1))
        values = np.moveaxis(functools.reduce(np.maximum, shifted), -1, axis)
    return values
