"""Label maps whose class numbers start at 1, with another number for what is not labelled."""

from __future__ import annotations

import numpy as np

from minifcn.data.dataset import IGNORE, DataError


def from_one(labels: np.ndarray, classes: int, void: tuple[int, ...], source: object) -> np.ndarray:
    """Return class numbers from 0, and 255 for void, of ones from 1.

    The well-known way to do this, to subtract 1 from uint8 numbers, is right for void 0 only: there
    0 - 1 is 255. A void of -1 would become 254, and a stray number just another class. So each
    number is looked up here, and an unknown one is refused.

    Parameters
    ----------
    labels
        Integers (H, W) of any type: 1 to ``classes``, or one of ``void``.
    classes
        How many classes there are.
    void
        The numbers of pixels without a label.
    source
        The file, for messages.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W).

    Raises
    ------
    DataError
        With the first other number and where it stands.

    Examples
    --------
    >>> from_one(np.array([[-1, 0, 1, 3]], np.int16), 3, (-1, 0), "geo.mat").tolist()
    [[255, 255, 0, 2]]
    """
    is_void = np.isin(labels, void)
    wrong = ~is_void & ((labels < 1) | (labels > classes))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        known = " or ".join(str(number) for number in void)
        raise DataError(
            f"{source}: label value {labels[row, column]} at row {row}, column {column} "
            f"({int(wrong.sum())} such pixels): the values must be 1 to {classes} for the "
            f"{classes} classes, or {known} for pixels without a label"
        )
    # In uint8, 1 is subtracted from void, too, before it is replaced: no matter what that gives.
    return np.where(is_void, np.uint8(IGNORE), labels.astype(np.uint8) - np.uint8(1))
