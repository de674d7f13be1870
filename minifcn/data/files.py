"""Data sets of image and label files: which belong together, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minifcn.data.dataset import IGNORE, DataError, Head, Sample, check_label
from minifcn.data.images import read_image, read_label, read_size, voc_palette
from minifcn.data.names import check_text
from minifcn.data.preprocessing import Preprocessing


class Item(NamedTuple):
    """The files of one sample.

    Attributes
    ----------
    name
        The sample's name, unique in its data set.
    images
        What its image is read from: one file, or one for each kind of image.
    labels
        What its label is read from: one file, or one for each kind of labels.
    """

    name: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...]


class Files:
    """A data set whose samples are read from files when they are asked for.

    It can be pickled, so that other processes can read its samples.

    Parameters
    ----------
    name
        Of the data set and its split, for messages.
    items
        The files of each sample.
    heads
        The classes and colours of each kind of labels; the name is "" if there is only one.
    read_images, read_labels
        Functions of a module, of one file: they return an array (H, W, C) and uint8 (H, W). One
        for all files of an `Item`, or one for each.
    streams
        As for `minifcn.data.streams_of`; None for three channels of colour.
    presets
        Rules of `Preprocessing` for these images, by name; ``"published"`` is the one of published
        nets for this data set.

    Raises
    ------
    DataError
        If there are no items, two have one name, or a file is missing.
    """

    ignore_index = IGNORE

    def __init__(
        self,
        name: str,
        items: Sequence[Item],
        heads: Mapping[str, Head] | Sequence[str],
        *,
        read_images: Reader | Sequence[Reader] = read_image,
        read_labels: Reader | Sequence[Reader] = read_label,
        streams: Mapping[str, int] | None = None,
        presets: Mapping[str, Preprocessing] | None = None,
    ) -> None:
        self.name, self.items = name, list(items)
        if not isinstance(heads, Mapping):
            heads = {"": Head(tuple(heads), voc_palette(len(heads)))}
        self.heads = dict(heads)
        self.classes, self.palette = next(iter(self.heads.values()))
        self.streams = dict(streams or {"": 3})
        self.presets = dict(presets or {})
        self._read_images, self._read_labels = read_images, read_labels
        check_items(name, self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        name, image_files, label_files = self.items[index]
        images = _read(image_files, self._read_images)
        labels = _read(label_files, self._read_labels)
        height, width = images[0].shape[:2]
        for file, array in zip((*image_files, *label_files), (*images, *labels), strict=True):
            if array.shape[:2] != (height, width):
                what = "label" if file in label_files else "image"
                raise DataError(
                    f"{file}: {what} is {array.shape[0]} x {array.shape[1]}, its image "
                    f"{image_files[0].name} is {height} x {width} (height x width): both "
                    "must have one size (resize labels with nearest neighbour only)"
                )
        for file, label, head in zip(label_files, labels, self.heads.values(), strict=True):
            check_label(label, len(head.classes), file)
        image = images[0] if len(images) == 1 else _side_by_side(images)
        return Sample(image, labels[0] if len(labels) == 1 else np.stack(labels, axis=2), name)

    def image_size(self, index: int) -> tuple[int, int]:
        """Return the height and width of an image, without decoding it where that is possible."""
        first = self._read_images if callable(self._read_images) else self._read_images[0]
        if first is read_image:
            return read_size(self.items[index].images[0])
        height, width = self[index].label.shape[:2]
        return height, width


Reader = Callable[[Path], np.ndarray]


def _read(files: Sequence[Path], readers: Reader | Sequence[Reader]) -> list[np.ndarray]:
    each = [readers] * len(files) if callable(readers) else readers
    return [read(file) for file, read in zip(files, each, strict=True)]


def _side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return images (H, W, c) as one (H, W, C): uint8 if all are, float32 if not."""
    whole = np.concatenate(images, axis=2)
    return whole if whole.dtype == np.uint8 else whole.astype(np.float32)


def check_items(name: str, items: Sequence[Item]) -> None:
    """Make sure that there are samples, that no name comes twice, and that all files are there."""
    if not items:
        raise DataError(f"{name}: the split is empty: there is no image in it")
    seen: set[str] = set()
    for item in items:
        check_text(name, "image", item.name)
        if item.name in seen:
            raise DataError(f"{name}: {item.name!r} is listed twice: each image must come once")
        seen.add(item.name)
    missing = [
        (file, item)
        for item in items
        for file in (*item.images, *item.labels)
        if not file.is_file()
    ]
    if missing:
        file, item = missing[0]
        raise DataError(
            f"{file}: no such {'label' if file in item.labels else 'image'} file, for "
            f"{item.name!r} of {name} ({len(missing)} files of {len(items)} samples are missing)"
        )


def check_folders(path: Path, folders: Sequence[str], layout: str) -> None:
    """Make sure that a data set's folders are there.

    Parameters
    ----------
    path
        The data set's folder.
    folders
        What must be in it.
    layout
        The expected tree and where the data are published; ``{path}`` in it is replaced.

    Raises
    ------
    DataError
        With the missing folders and the layout.
    """
    missing = [folder for folder in folders if not (path / folder).is_dir()]
    if missing:
        raise wrong_layout(path, missing, "expected is", layout)


def wrong_layout(path: Path, missing: Sequence[str], rule: str, layout: str) -> DataError:
    """Return the error for a folder that lacks something, with the tree that it must have.

    >>> print(wrong_layout(Path("data"), ["labels"], "expected is", " {path}/labels"))
    data is not a folder; expected is: data/labels
    """
    found = f"has no {' and no '.join(missing)}" if path.is_dir() else "is not a folder"
    return DataError(f"{path} {found}; {rule}:{layout.format(path=path)}")
