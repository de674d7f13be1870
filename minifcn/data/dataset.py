"""What a data set is: a numbered list of images, each with one class number per pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from minifcn.backend import Error

IGNORE = 255  # the label of pixels that are neither learnt from nor scored


class DataError(Error, ValueError):
    """An image, label file or data set that cannot be used as it is."""


class Sample(NamedTuple):
    """One image with its labels.

    Attributes
    ----------
    image
        uint8 (H, W, 3), red, green, blue. Where a data set has other channels, too (depth), it has
        (H, W, C), those of all its `streams_of` side by side, and float32 if one is no colour.
    label
        uint8 (H, W), a class number for each pixel; 255 where the pixel is to be ignored. Where a
        data set has several kinds of labels, (H, W, kinds) in the order of its `heads_of`.
    name
        What to call the sample in messages and file names.
    """

    image: np.ndarray
    label: np.ndarray
    name: str


class Head(NamedTuple):
    """One kind of labels: the names of its classes, and the colour of each, uint8 (K, 3)."""

    classes: tuple[str, ...]
    palette: np.ndarray


class Dataset(Protocol):
    """What every data set offers; anything with these members is one.

    One with more than one kind of labels has a member ``heads``, too, and one with more than one
    kind of images ``streams``: see `heads_of` and `streams_of`.

    Attributes
    ----------
    name
        Short name of the data set and its split, for messages.
    classes
        The name of each class, in the order of the class numbers.
    palette
        uint8 (K, 3), the colour in which each class is drawn.
    ignore_index
        The label of ignored pixels, 255.
    """

    name: str
    classes: tuple[str, ...]
    palette: np.ndarray
    ignore_index: int

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Return sample number ``index``; IndexError beyond the last, so that loops end."""


def heads_of(dataset: Dataset) -> dict[str, Head]:
    """Return the kinds of labels of a data set, by name; the name is "" if there is only one.

    >>> from minifcn.data import shapes
    >>> heads_of(shapes("val"))[""].classes
    ('background', 'circle', 'square', 'triangle')
    """
    heads: Mapping[str, Head] | None = getattr(dataset, "heads", None)
    return dict(heads) if heads else {"": Head(dataset.classes, dataset.palette)}


def label_by_head(label: np.ndarray, heads: Iterable[str]) -> dict[str, np.ndarray]:
    """Return a sample's label, (H, W) or (H, W, kinds), as one (H, W) for each kind of labels.

    >>> label_by_head(np.zeros((4, 6, 2), np.uint8), ["sem", "geo"])["geo"].shape
    (4, 6)
    """
    names = list(heads)
    if len(names) == 1:
        return {names[0]: label}
    return {name: label[:, :, number] for number, name in enumerate(names)}


def streams_of(dataset: Dataset) -> dict[str, int]:
    """Return the channels of each kind of image of a data set, by name, in their order.

    A net sees all channels of one stream together; for each further stream there is a net of its
    own (late fusion). The name is "" if there is only one.

    >>> from minifcn.data import shapes
    >>> streams_of(shapes("val"))
    {'': 3}
    """
    streams: Mapping[str, int] | None = getattr(dataset, "streams", None)
    return dict(streams) if streams else {"": 3}


def check_alike(train_set: Dataset, val_set: Dataset) -> None:
    """Refuse two data sets with other classes, kinds of labels or kinds of images.

    >>> from minifcn.data import shapes
    >>> check_alike(shapes("train"), shapes("val"))

    Raises
    ------
    DataError
        With what each of them has.
    """
    ours, theirs = (
        {name: head.classes for name, head in heads_of(one).items()} for one in (train_set, val_set)
    )
    if ours != theirs:
        here, there = (
            "; ".join(f"{name}: {', '.join(names)}".removeprefix(": ") for name, names in h.items())
            for h in (ours, theirs)
        )
        raise DataError(
            f"{val_set.name} has other classes ({there}) than {train_set.name} ({here})"
        )
    if (streams := streams_of(train_set)) != (others := streams_of(val_set)):
        raise DataError(
            f"the images of {val_set.name} have other channels ({channels_in_words(others)}) than "
            f"those of {train_set.name} ({channels_in_words(streams)})"
        )


def channels_in_words(streams: Mapping[str, int]) -> str:
    """Return the channels of each kind of image, for messages.

    >>> channels_in_words({"": 4}), channels_in_words({"color": 3, "hha": 3})
    ('4', '3 of color and 3 of hha')
    """
    return " and ".join(
        f"{count} of {name}" if name else str(count) for name, count in streams.items()
    )


def check_label(label: np.ndarray, num_classes: int, source: object) -> None:
    """Make sure that every label is a class number or 255.

    Raises
    ------
    DataError
        With the source (a file, a sample's name), the first wrong value and where it stands.
    """
    wrong = (label >= num_classes) & (label != IGNORE)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        from_one = (label[wrong] == num_classes).all() and label.min() > 0
        raise DataError(
            f"{source}: label value {label[row, column]} at row {row}, column {column} "
            f"({int(wrong.sum())} such pixels): with {num_classes} classes the values must be "
            f"0 to {num_classes - 1}, or {IGNORE} for pixels to ignore"
            + "; do these count the classes from 1, not from 0?"
            * bool(from_one)
        )


def count_pixels(dataset: Dataset) -> np.ndarray:
    """Read a whole data set and count the pixels of each class, int64 (K,).

    Ignored pixels are not counted. Every sample is read, so this also finds every bad file.

    >>> from minifcn.data import shapes
    >>> count_pixels(shapes("val", length=3)).sum() == 3 * 64 * 64
    np.True_
    """
    counts = np.zeros(256, np.int64)
    for index in range(len(dataset)):
        counts += np.bincount(dataset[index].label.reshape(-1), minlength=256)
    return counts[: len(dataset.classes)]
