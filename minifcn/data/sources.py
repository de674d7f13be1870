"""Data sets by name, as the command line gives them."""

from __future__ import annotations

from minifcn.data.dataset import DataError, Dataset
from minifcn.data.folder import folder
from minifcn.data.landcover import landcover
from minifcn.data.shapes import shapes


def open_dataset(spec: str, split: str) -> Dataset:
    """Return a data set by its name.

    Parameters
    ----------
    spec
        ``"landcover"``, ``"shapes"`` or ``"folder:PATH"``.
    split
        ``"train"`` or ``"val"``; a folder may have more.

    Raises
    ------
    DataError
        If there is no data set of that name, or it has no such split.

    Examples
    --------
    >>> len(open_dataset("shapes", "val"))
    50
    """
    kind, _, path = spec.partition(":")
    if spec == "landcover":
        return landcover(split)
    if spec == "shapes":
        return shapes(split)
    if kind == "folder" and path:
        return folder(path, split)
    raise DataError(f"unknown data set {spec!r}: known are landcover, shapes and folder:PATH")
