"""Predicted labels as files: palette PNGs, one for each image, under the image's name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .backend import Error
from .data import Dataset, heads_of, save_label
from .data.names import check_inside, file_parts, same_file_key

VOC_PLACE = "results/VOC2012/Segmentation"  # in an archive for PASCAL VOC's evaluation server
COMPETITIONS = {"voc": "comp6", "voc-comp5": "comp5"}  # by layout


class FolderError(Error, ValueError):
    """A folder that predictions must not be written into."""


class PredictionFolder:
    """A folder for the labels that a net gives to a data set's images.

    Where there are several kinds of labels, each has a folder of its own in it.

    Parameters
    ----------
    path
        The folder; it is made, with the first folders in it, if it is not there.
    dataset
        Whose images are labelled: nothing is written over its own files.
    layout
        Where the files stand in the folder. ``"plain"``: ``NAME.png``. ``"voc"``:
        ``results/VOC2012/Segmentation/comp6_SPLIT_cls/NAME.png``, as PASCAL VOC's evaluation server
        takes them, of nets that learnt from other images than VOC's, too (in a pretraining).
        ``"voc-comp5"``: the same of nets that learnt from VOC's images alone.
    split
        The name of the split, for a layout that has it.

    Raises
    ------
    FolderError
        If it is the data set's own folder, or cannot be written into.
    UnsafeNameError
        If images have names that lead out of it.

    Examples
    --------
    >>> from minifcn.data import shapes
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = PredictionFolder(Path(place), shapes("val"))
    ...     folder.save("day 1/sea", {"": np.zeros((2, 2), np.uint8)})
    ...     (Path(place) / "day 1" / "sea.png").is_file()
    True
    """

    def __init__(
        self, path: Path, dataset: Dataset, layout: str = "plain", split: str = "test"
    ) -> None:
        if layout != "plain" and layout not in COMPETITIONS:
            raise FolderError(f"layout {layout!r}: use plain, {' or '.join(COMPETITIONS)}")
        self.path, self.heads, self.place = path, heads_of(dataset), path
        if layout in COMPETITIONS:
            self.place = path / VOC_PLACE / f"{COMPETITIONS[layout]}_{split}_cls"
        self._owners: dict[str, str] = {}  # of the files
        items = getattr(dataset, "items", ())
        folders = {f.absolute().parent for item in items for f in (*item.images, *item.labels)}
        self._taken = {folder.resolve() for folder in folders}  # where the data lie
        if folders and path.resolve() == Path(os.path.commonpath(self._taken)):
            raise FolderError(
                f"{path}: here lies {dataset.name}: choose another folder for the predictions"
            )
        for item in items:  # better now than after an hour
            for head in self.heads:
                self._claim(item.name, head)
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.place):
                pass
        except OSError as error:
            raise FolderError(
                f"{self.place}: nothing can be written here: {error.strerror or error}"
            ) from error

    def file(self, name: str, head: str = "") -> Path:
        """Return where the labels of an image go.

        Raises
        ------
        UnsafeNameError
            If no file can have this name, or it or a link leads out of the folder.
        FolderError
            If the place is among the files of the data set.
        """
        place = self.place / head if len(self.heads) > 1 else self.place
        *folders, last = file_parts(name)
        file = place.joinpath(*folders, f"{last}.png")
        check_inside(self.path, file)
        if file.parent.resolve() in self._taken:
            raise FolderError(
                f"{file}: files of the data set lie in {file.parent}, so no predictions go there: "
                "choose another folder for them"
            )
        return file

    def save(self, name: str, labels: Mapping[str, np.ndarray]) -> None:
        """Write the labels of an image, uint8 (H, W) by head, in the classes' colours.

        Each file appears complete or not at all; one of an earlier run is replaced.

        Raises
        ------
        FolderError, UnsafeNameError
            As for `file`; or if another image has been written to the same file, or to one whose
            name differs in capitals only, which is the same on some systems.
        WriteError
            If a file cannot be written.
        """
        for head, label in labels.items():
            file = self._claim(name, head)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FolderError(
                    f"{file.parent}: this folder cannot be made: {error.strerror or error}"
                ) from error
            save_label(file, label, self.heads[head].palette)

    def _claim(self, name: str, head: str) -> Path:
        """Return the file for an image's labels, which no other image may have."""
        file = self.file(name, head)
        if (owner := self._owners.setdefault(same_file_key(file), name)) != name:
            raise FolderError(f"{file}: both {owner!r} and {name!r} would be written here")
        return file
