"""How samples become one batch of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minifcn.data.dataset import IGNORE, DataError, Sample
from minifcn.data.preprocessing import Preprocessing
from minifcn.data.unreadable import Unread


class Batch(NamedTuple):
    """What a net is fed with in one step.

    Attributes
    ----------
    images
        float32 (N, C, H, W), preprocessed, stored channels-last.
    labels
        int64 (N, H, W), or (N, kinds, H, W) where there are several kinds of labels; 255 where
        ignored.
    names
        The names of the N samples.
    skipped
        Of each sample that could not be read, and was replaced by another one, its number and what
        was wrong; see `minifcn.data.Loader`.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    skipped: tuple[Unread, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Tell how to pickle a batch: as it lies in memory, which arrays alone may not remember."""
        # (N, C, H, W) -> (N, H, W, C)
        return _channels_last, (np.moveaxis(self.images, 1, -1), *self[1:])


def _channels_last(images: np.ndarray, *rest: Any) -> Batch:
    return Batch(np.moveaxis(images, -1, 1), *rest)  # (N, H, W, C) -> (N, C, H, W)


def collate(samples: Sequence[Sample], preprocessing: Preprocessing, pad: bool = False) -> Batch:
    """Stack samples to a batch.

    Parameters
    ----------
    samples
        At least one.
    preprocessing
        How pixels become the net's input.
    pad
        Whether images may differ in size: all are then continued below and to the right to the
        largest height and width, with 0 in the net's input, which is the mean colour, and labels of
        255, so that the added pixels are ignored.

    Raises
    ------
    DataError
        If images differ in size without ``pad``, or an image and its label do.

    Examples
    --------
    >>> from minifcn.data import UNIT
    >>> sizes = [(2, 2), (1, 3)]
    >>> samples = [Sample(np.zeros((*s, 3), np.uint8), np.zeros(s, np.uint8), "") for s in sizes]
    >>> collate(samples, UNIT, pad=True).labels[1].tolist()
    [[0, 0, 0], [255, 255, 255]]
    """
    first = samples[0]
    for sample in samples:
        # A label without height and width is the class of a whole image.
        if sample.label.ndim and sample.label.shape[:2] != sample.image.shape[:2]:
            raise DataError(
                f"{sample.name}: label is {_size(sample.label)}, its image is "
                f"{_size(sample.image)} (height x width): both must have one size"
            )
        if not pad and sample.image.shape[:2] != first.image.shape[:2]:
            raise DataError(
                f"images of one batch differ in size: {first.name} is {_size(first.image)}, "
                f"{sample.name} is {_size(sample.image)} (height x width): choose crop= to cut "
                "windows of one size, sizes='pad', sizes='bucket' or batch_size=1"
            )
    ready = [preprocessing(sample.image) for sample in samples]  # each (C, H, W)
    channels, height, width = (max(image.shape[axis] for image in ready) for axis in range(3))
    images = np.zeros((len(ready), height, width, channels), np.float32)
    for place, image in zip(images, ready, strict=True):
        # (C, H, W) -> (H, W, C)
        place[: image.shape[1], : image.shape[2]] = np.moveaxis(image, 0, -1)
    labels = np.stack([_continued(sample.label, height, width) for sample in samples])
    if labels.ndim == 4:
        labels = np.moveaxis(labels, -1, 1)  # (N, H, W, kinds) -> (N, kinds, H, W)
    return Batch(
        np.moveaxis(images, -1, 1),  # (N, H, W, C) -> (N, C, H, W)
        np.ascontiguousarray(labels, np.int64),
        tuple(sample.name for sample in samples),
    )


def _continued(label: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a label (H, W, ...) of a larger size, with 255 below and to the right."""
    if label.ndim == 0 or label.shape[:2] == (height, width):
        return label
    whole = np.full((height, width, *label.shape[2:]), IGNORE, label.dtype)
    whole[: label.shape[0], : label.shape[1]] = label
    return whole


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]} x {array.shape[1]}"
