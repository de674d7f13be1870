"""Data sets by name, as the command line gives them: ``kind:PATH?option=value&option=value``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from minifcn.data.dataset import DataError, Dataset
from minifcn.data.folder import folder
from minifcn.data.landcover import landcover
from minifcn.data.shapes import shapes


class Source(NamedTuple):
    """A kind of data set.

    Attributes
    ----------
    open
        Returns the data set: ``open(path, split, **options)``, without ``path`` if it has none.
    options
        The names of its options; their values are texts.
    has_path
        Whether it lies in a folder, or is part of the package.
    splits
        Returns the names of the splits that there are: ``splits(path, **options)``.
    """

    open: Callable[..., Dataset]
    splits: Callable[..., list[str]]
    options: tuple[str, ...] = ()
    has_path: bool = True


class Spec(NamedTuple):
    """What names a data set: ``kind:PATH?split=NAME&option=value``, taken apart."""

    kind: str
    path: Path | None
    split: str | None
    options: dict[str, str]


SOURCES: dict[str, Source] = {
    "landcover": Source(landcover, lambda: ["train", "val"], has_path=False),
    "shapes": Source(shapes, lambda: ["train", "val"], has_path=False),
    "folder": Source(folder, lambda path: ["train", "val", "all"]),
}


def parse(spec: str) -> Spec:
    """Take apart the name of a data set.

    >>> parse("voc:data/VOC2012?split=val").split
    'val'

    Raises
    ------
    DataError
        If there is no such kind of data set, its folder is missing, or an option is unknown.
    """
    place, _, query = spec.partition("?")
    kind, _, path = place.partition(":")
    if kind not in SOURCES:
        raise DataError(f"unknown data set {spec!r}: known are {', '.join(known())}")
    source = SOURCES[kind]
    if bool(path) != source.has_path:
        raise DataError(f"data set {spec!r}: it must be given as {example(kind)}")
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if name not in ("split", *source.options) or not equals or not value:
            allowed = ", ".join(f"{name}=..." for name in ("split", *source.options))
            raise DataError(f"data set {spec!r}: {part!r} is no option of {kind}: it has {allowed}")
        if name in options:
            raise DataError(f"data set {spec!r}: {name} is given twice")
        options[name] = value
    split = options.pop("split", None)
    return Spec(kind, Path(path).expanduser() if path else None, split, options)


def example(kind: str) -> str:
    """Return how a kind of data set is written: ``"voc:PATH"``."""
    return f"{kind}:PATH" if SOURCES[kind].has_path else kind


def known() -> list[str]:
    """Return how each kind of data set is written."""
    return [example(kind) for kind in SOURCES]


def open_dataset(spec: str, split: str | None = None) -> Dataset:
    """Return a data set by its name.

    Parameters
    ----------
    spec
        ``"landcover"``, ``"shapes"``, ``"folder:PATH"``, ``"voc:PATH?split=val"``...; `known` lists
        the kinds.
    split
        ``"train"``, ``"val"`` or another that the data set has. One that the spec names goes first.

    Raises
    ------
    DataError
        If there is no data set of that name, or it has no such split.

    Examples
    --------
    >>> len(open_dataset("shapes", "val"))
    50
    """
    kind, path, named, options = parse(spec)
    wanted = named or split
    if wanted is None:
        raise DataError(f"data set {spec!r}: name a split of it: {', '.join(splits_of(spec))}")
    place: tuple[Any, ...] = () if path is None else (path,)
    return SOURCES[kind].open(*place, wanted, **options)


def splits_of(spec: str) -> list[str]:
    """Return the names of the splits that a data set has.

    >>> splits_of("shapes")
    ['train', 'val']
    """
    kind, path, _, options = parse(spec)
    return SOURCES[kind].splits(*([] if path is None else [path]), **options)
