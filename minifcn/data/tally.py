"""What is noted of each sample of a data set, and the sums over a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minifcn.backend import Error
from minifcn.data.dataset import (
    IGNORE,
    DataError,
    Dataset,
    Head,
    Sample,
    check_label,
    heads_of,
    label_by_head,
    streams_of,
)
from minifcn.data.files import Files
from minifcn.data.fingerprint import fingerprint
from minifcn.data.images import image_format

COLOURS = ("red", "green", "blue")


class Facts(NamedTuple):
    """What is noted of one sample.

    Attributes
    ----------
    name
        The sample's.
    size
        Height and width in pixels.
    fingerprint
        Of its image.
    pixels
        int64 (heads, 256): how many pixels have each label, for each kind of labels.
    sums
        float64 (2, C): the sum of each channel, and of its squares.
    formats
        Format and mode of each of its files, as ``"image JPEG RGB"``; none if it has no files.
    """

    name: str
    size: tuple[int, int]
    fingerprint: int
    pixels: np.ndarray
    sums: np.ndarray
    formats: tuple[str, ...]


class Bad(NamedTuple):
    """A sample that cannot be used, and why."""

    name: str
    reason: str


def look_at(dataset: Dataset, index: int) -> Facts | Bad:
    """Read one sample, and note what can be said of it; or why it cannot be used.

    >>> from minifcn.data import shapes
    >>> look_at(shapes("val"), 0).size
    (64, 64)
    """
    name = f"{dataset.name} sample {index}"
    if isinstance(dataset, Files):
        name = dataset.items[index].name
    try:
        sample = dataset[index]
        name = sample.name
        check_sample(sample, heads_of(dataset), streams_of(dataset))
        formats = _formats(dataset, index)
    except (Error, OSError) as error:
        return Bad(name, str(error))
    image, labels = sample.image, label_by_head(sample.label, heads_of(dataset))
    return Facts(
        name,
        image.shape[:2],
        fingerprint(image),
        np.stack([np.bincount(label.ravel(), minlength=256) for label in labels.values()]),
        _sums(image),
        formats,
    )


def _sums(image: np.ndarray) -> np.ndarray:
    """Return the sum of each channel of an image, and of its squares, float64 (2, C)."""
    pixels = image.reshape(-1, image.shape[2])  # (H, W, C) -> (H*W, C)
    if image.dtype != np.uint8:
        values = pixels.astype(np.float64)
        return np.stack([values.sum(axis=0), (values * values).sum(axis=0)])
    # How often each value occurs tells the same, exactly, in an eighth of the time.
    counts = np.stack([np.bincount(channel, minlength=256) for channel in pixels.T])  # (C, 256)
    value = np.arange(256)
    return np.stack([counts @ value, counts @ (value * value)]).astype(np.float64)


def check_sample(sample: Sample, heads: Mapping[str, Head], streams: Mapping[str, int]) -> None:
    """Make sure that a sample is what its data set says it is.

    Raises
    ------
    DataError
        If the image or label has another shape or type than `Sample` says, their sizes differ, the
        image holds a number that is not finite, or the label one that is no class.
    """
    image, label, name = sample
    channels = sum(streams.values())
    if image.ndim != 3 or image.shape[2] != channels or image.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"{name}: image is {image.dtype} of shape {image.shape}: it must be uint8 (or float32) "
            f"of shape (H, W, {channels})"
        )
    expected = image.shape[:2] + ((len(heads),) if len(heads) > 1 else ())
    if label.shape != expected or label.dtype != np.uint8:
        raise DataError(
            f"{name}: label is {label.dtype} of shape {label.shape}: it must be uint8 of shape "
            f"{expected}, since its image is {image.shape[0]} x {image.shape[1]} (height x width)"
        )
    if image.dtype == np.float32 and not np.isfinite(image).all():
        row, column, channel = np.argwhere(~np.isfinite(image))[0].tolist()
        raise DataError(
            f"{name}: image value {image[row, column, channel]} at row {row}, column {column}, "
            f"channel {channel}: every value must be a finite number"
        )
    for kind, part in label_by_head(label, heads).items():
        count = len(heads[kind].classes)
        check_label(part, count, f"{name} ({kind} labels)" if kind else name)


def _formats(dataset: Dataset, index: int) -> tuple[str, ...]:
    if not isinstance(dataset, Files):
        return ()
    item = dataset.items[index]
    files = [("image", file) for file in item.images] + [("label", file) for file in item.labels]
    return tuple(f"{what} {_format(file)}" for what, file in files)


def _format(file: Path) -> str:
    """Return format and mode of an image file, as ``"PNG P"``; of another its ending."""
    try:
        return image_format(file)
    except DataError:
        return file.suffix.removeprefix(".").upper()


class Tally:
    """What is known of one split, summed up sample by sample.

    Attributes
    ----------
    name, dataset
        Of the split, as given.
    images, read
        How many samples there are, and how many of them could be read.
    heads
        Its kinds of labels, by name.
    pixels, images_with
        int64 (heads, 256): pixels of each label, and images that have any.
    clearest
        For each head and class the number of the sample that has the most pixels of it.
    unlabelled
        For each head the names of images without a labelled pixel.
    sizes, formats
        How many images have each (height, width), and how many files each format.

    Examples
    --------
    >>> from minifcn.data import shapes
    >>> tally = Tally("val", shapes("val"))
    >>> tally.add(7, look_at(shapes("val"), 7))
    >>> tally.read, tally.sizes
    (1, Counter({(64, 64): 1}))
    """

    def __init__(self, name: str, dataset: Dataset) -> None:
        self.name, self.dataset = name, dataset
        self.images, self.read = len(dataset), 0
        self.heads, self.streams = heads_of(dataset), streams_of(dataset)
        self.pixels = np.zeros((len(self.heads), 256), np.int64)
        self.images_with = np.zeros_like(self.pixels)
        self.unlabelled: dict[str, list[str]] = {head: [] for head in self.heads}
        self.clearest: dict[tuple[str, int], int] = {}
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.formats: Counter[str] = Counter()
        self._most = np.zeros_like(self.pixels)
        self._sums = np.zeros((2, sum(self.streams.values())))

    def add(self, index: int, facts: Facts) -> None:
        """Take in what was noted of sample number ``index``."""
        self.read += 1
        self.pixels += facts.pixels
        self.images_with += facts.pixels > 0
        self.sizes[facts.size] += 1
        self.formats.update(facts.formats)
        self._sums += facts.sums
        more = facts.pixels > self._most
        self._most[more] = facts.pixels[more]
        for k, (head, names) in enumerate(self.unlabelled.items()):
            for number in np.flatnonzero(more[k, :IGNORE]).tolist():
                self.clearest[head, number] = index
            if not facts.pixels[k, :IGNORE].any():
                names.append(facts.name)

    def kinds(self) -> tuple[Any, ...]:
        """Return the names and classes of its labels, and the names and channels of its streams."""
        heads = tuple((name, head.classes) for name, head in self.heads.items())
        return heads, tuple(self.streams.items())

    def shares(self, head: str) -> np.ndarray:
        """Return the share of each class among labelled pixels, float64 (K,); NaN without any."""
        counts = self.pixels[list(self.heads).index(head), : len(self.heads[head].classes)]
        total = counts.sum()
        return counts / total if total else np.full(len(counts), np.nan)

    def ignored(self, head: str) -> float:
        """Return the share of ignored pixels among all; NaN if nothing was read."""
        counts = self.pixels[list(self.heads).index(head)]
        return float(counts[IGNORE] / counts.sum()) if counts.any() else float("nan")

    def absent(self, head: str) -> list[str]:
        """Return the names of the classes that no pixel has."""
        counts = self.pixels[list(self.heads).index(head)]
        classes = self.heads[head].classes
        return [name for name, count in zip(classes, counts, strict=False) if not count]

    def channels(self) -> list[str]:
        """Return what to call each channel of the images: ``"red"``, ``"depth"``, ``"hha 1"``."""
        names: list[str] = []
        for stream, count in self.streams.items():
            if count == 3 and stream in ("", "color"):
                names += COLOURS
            else:
                several = count > 1
                names += [
                    f"{stream or 'channel'} {i}" if several or not stream else stream
                    for i in range(1, count + 1)
                ]
        return names

    def mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of each channel over all pixels, float64 (C,).

        std² = mean of squares − square of the mean. NaN if nothing was read.
        """
        mean, squares = self._sums / (self.pixels[0].sum() or np.nan)
        return mean, np.sqrt(np.maximum(0, squares - mean * mean))

    def size_range(self) -> dict[str, tuple[int, int]]:
        """Return the smallest, median and largest height, and width, as pairs; {} if none."""
        if not self.sizes:
            return {}
        sides = np.repeat(list(self.sizes), list(self.sizes.values()), axis=0)
        sides.sort(axis=0)
        rows = {"smallest": sides[0], "median": sides[len(sides) // 2], "largest": sides[-1]}
        return {name: (int(row[0]), int(row[1])) for name, row in rows.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON."""
        mean, std = self.mean_and_std()
        return {
            "images": self.images,
            "read": self.read,
            "sizes": {"different": len(self.sizes), **self.size_range()},
            "formats": dict(sorted(self.formats.items())),
            "channels": {
                name: {"mean": float(m), "std": float(s)} if self.read else None
                for name, m, s in zip(self.channels(), mean, std, strict=True)
            },
            "labels": {head: self._head_dict(k, head) for k, head in enumerate(self.heads)},
        }

    def _head_dict(self, k: int, head: str) -> dict[str, Any]:
        ignored = self.ignored(head)
        return {
            "classes": {
                name: {"pixels": int(pixels), "images": int(images)}
                for name, pixels, images in zip(
                    self.heads[head].classes, self.pixels[k], self.images_with[k], strict=False
                )
            },
            "ignored": None if np.isnan(ignored) else ignored,
            "without_labels": self.unlabelled[head],
        }
