"""Data sets by name, as the command line gives them: ``kind:PATH?option=value&option=value``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from minifcn.data.camvid import CAMVID_PUBLISHED, camvid, camvid_splits
from minifcn.data.cityscapes import CITYSCAPES_PUBLISHED, cityscapes, cityscapes_splits
from minifcn.data.context import CONTEXT_PUBLISHED, context, context_splits
from minifcn.data.dataset import DataError, Dataset
from minifcn.data.folder import FOLDER_OPTIONS, folder, folder_splits
from minifcn.data.label_codes import LABEL_OPTIONS
from minifcn.data.landcover import landcover
from minifcn.data.nyud import NYUD_PUBLISHED, nyud, nyud_splits
from minifcn.data.pairs import pairs, pairs_splits
from minifcn.data.sbd import SBD_PUBLISHED, sbd, sbd_splits
from minifcn.data.shapes import shapes
from minifcn.data.siftflow import SIFTFLOW_PUBLISHED, siftflow, siftflow_splits
from minifcn.data.voc import VOC_PUBLISHED, voc, voc_splits
from minifcn.plain_text import HIDDEN, one_line


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
    published
        How many samples the published splits have, by the name of the split, or by that of the data
        set (``"VOC2012 val"``) where there are several editions.
    about
        What it is, in a few words.
    """

    open: Callable[..., Dataset]
    splits: Callable[..., list[str]]
    options: tuple[str, ...] = ()
    has_path: bool = True
    published: Mapping[str, int] = {}
    about: str = ""


class Spec(NamedTuple):
    """What names a data set: ``kind:PATH?split=NAME&option=value``, taken apart."""

    kind: str
    path: Path | None
    split: str | None
    options: dict[str, str]


SOURCES: dict[str, Source] = {
    "landcover": Source(
        landcover,
        lambda: ["train", "val"],
        has_path=False,
        about="Satellite tiles of 128 x 128 pixels, 8 classes of land cover; part of the package",
    ),
    "shapes": Source(
        shapes,
        lambda: ["train", "val"],
        has_path=False,
        about="Circles, squares and triangles drawn on the fly, 4 classes; no files",
    ),
    "voc": Source(
        voc,
        voc_splits,
        ("sbd", "labels"),
        published=VOC_PUBLISHED,
        about="PASCAL VOC 2011 or 2012: photographs, 20 kinds of things and background",
    ),
    "sbd": Source(
        sbd,
        sbd_splits,
        published=SBD_PUBLISHED,
        about="Semantic Boundaries Dataset: PASCAL VOC's classes on 11,355 photographs",
    ),
    "context": Source(
        context,
        context_splits,
        ("voc", "background"),
        published=CONTEXT_PUBLISHED,
        about="PASCAL-Context: photographs, 59 classes of things and stuff, and background",
    ),
    "folder": Source(
        folder, folder_splits, FOLDER_OPTIONS, about="Your own images and labels, in a folder"
    ),
    "csv": Source(
        pairs,
        pairs_splits,
        ("classes", *LABEL_OPTIONS),
        about="Your own images and labels, listed in a CSV file",
    ),
    "camvid": Source(
        camvid,
        camvid_splits,
        ("classes",),
        published=CAMVID_PUBLISHED,
        about="CamVid: road scenes seen from a car, 11 or 31 classes",
    ),
    "cityscapes": Source(
        cityscapes,
        cityscapes_splits,
        ("labels",),
        published=CITYSCAPES_PUBLISHED,
        about="Cityscapes: street scenes, 19 classes",
    ),
    "nyud": Source(
        nyud,
        nyud_splits,
        ("input",),
        published=NYUD_PUBLISHED,
        about="NYUDv2: rooms, 40 classes; images of colour, depth, or both",
    ),
    "siftflow": Source(
        siftflow,
        siftflow_splits,
        ("labels",),
        published=SIFTFLOW_PUBLISHED,
        about="SIFT Flow: outdoor scenes, labelled twice: 33 classes, and 3 of geometry",
    ),
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
    if HIDDEN.search(spec):
        raise DataError(
            f"data set {one_line(ascii(spec))}: it has a control character, or no UTF-8"
        )
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
    with _as_data_error(spec):
        return SOURCES[kind].open(*place, wanted, **options)


def splits_of(spec: str) -> list[str]:
    """Return the names of the splits that a data set has.

    >>> splits_of("shapes")
    ['train', 'val']
    """
    kind, path, _, options = parse(spec)
    with _as_data_error(spec):
        return SOURCES[kind].splits(*([] if path is None else [path]), **options)


@contextmanager
def _as_data_error(spec: str) -> Iterator[None]:
    """Turn what the system says of a folder, such as that it is not ours, into a `DataError`."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}: {one_line(str(error.filename or ''))}"
        raise DataError(f"data set {one_line(spec)!r}: {reason}") from error


def published_size(kind: str, split: str, dataset: Dataset) -> int | None:
    """Return how many samples a published split has, or None where that is not known.

    >>> published_size("shapes", "val", open_dataset("shapes", "val")) is None
    True
    """
    published = SOURCES[kind].published
    return published.get(dataset.name, published.get(split))
