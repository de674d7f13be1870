"""How good a segmentation is: pixel accuracy, mean accuracy, mean IU and frequency-weighted IU.

All four follow from one table that counts, over a whole data set, how many pixels of each true
class were given each class (Long, Shelhamer and Darrell 2015, section 5). With n[i, j] the pixels
of class i predicted as j, and t[i] = sum over j of n[i, j] the pixels of class i::

    pixel accuracy   sum_i n[i, i] / sum_i t[i]
    mean accuracy    mean over i of n[i, i] / t[i]
    IU of class i    n[i, i] / (t[i] + sum_j n[j, i] - n[i, i])
    mean IU          mean over i of IU[i]
    f.w. IU          sum_i t[i] * IU[i] / sum_i t[i]
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from minifcn.backend import Array, Error, to_numpy


class MetricError(Error, ValueError):
    """Labels or predictions that cannot be counted."""


class ConfusionMatrix:
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

    def summary(self) -> dict[str, float]:
        """Return the four numbers of the paper by name; all NaN where nothing was counted."""
        return {
            "pixel_accuracy": self.pixel_accuracy(),
            "mean_accuracy": self.mean_accuracy(),
            "mean_iu": self.mean_iu(),
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
