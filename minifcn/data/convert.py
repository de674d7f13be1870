"""Any data set as a plain folder of images and PNG labels that hold class numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from minifcn.data.colours import classes_text
from minifcn.data.dataset import DataError, Dataset, heads_of, streams_of
from minifcn.data.files import Files, Item
from minifcn.data.folder import IMAGE_ENDINGS
from minifcn.data.images import read_image, save_image, save_label, voc_palette
from minifcn.data.names import check_inside, file_parts, same_file_key
from minifcn.data.sbd import find_sbd, read_sbd_label
from minifcn.data.sources import open_dataset, parse, splits_of
from minifcn.files import WriteError, replace_file

Progress = Callable[[float, int], None]  # called with the numbers of files done and of all


class Converted(NamedTuple):
    """What a conversion did.

    Attributes
    ----------
    spec
        The name of the new data set, for `open_dataset`.
    splits
        The number of samples in each split.
    written, kept
        How many samples were written, and how many were there already.
    """

    spec: str
    splits: dict[str, int]
    written: int
    kept: int


def convert(
    spec: str,
    out: str | Path,
    *,
    splits: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write a data set as one that ``folder:OUT`` opens.

    Image files are copied as they are where possible, and written as PNG where not. Labels become
    PNG files of class numbers with the colours of the classes as palette. An interrupted
    conversion goes on where it ended: samples that are there are left alone.

    Parameters
    ----------
    spec
        The data set, as for `open_dataset`.
    out
        The folder to write, which is made if there is none.
    splits
        Which splits; all that there are if none is named here or in ``spec``.
    overwrite
        Write samples anew that are there already.
    progress
        Is called after each sample with the numbers of samples done and of all.

    Raises
    ------
    DataError
        If the data set has several kinds of labels or other images than colour ones, two different
        samples have one name, ``out`` holds something else, or a file cannot be read.
    WriteError
        If a file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as out:
    ...     done = convert("shapes", out, splits=["val"])
    ...     len(open_dataset(f"folder:{out}", "val"))
    50
    """
    out = Path(out)
    source = parse(spec)
    names = [source.split] if source.split else list(splits) or splits_of(spec)
    if source.split and list(splits) not in ([], names):
        raise DataError(f"data set {spec!r} names the split {source.split!r}: choose no other")
    parts = {name: open_dataset(spec, name) for name in names}
    for part in parts.values():
        _check_kind(spec, part)
    first = next(iter(parts.values()))
    _check_place(out, source.path, classes_text(heads_of(first)[""]))
    samples = _collect(parts)
    total = len({name for items in samples.values() for name in items})
    done: set[str] = set()
    written = 0
    with _continues(out):
        replace_file(_inside(out, "classes.txt"), classes_text(heads_of(first)[""]).encode())
        for split, items in samples.items():
            for index, (name, item) in enumerate(items.items()):
                if name not in done:
                    written += _write(out, parts[split], index, name, item, overwrite)
                    done.add(name)
                    if progress is not None:
                        progress(len(done), total)
        for split, items in samples.items():
            if split != "all":  # which every folder has
                text = "".join(f"{name}\n" for name in items)
                replace_file(out / f"{split}.txt", text.encode())
    nested = any("/" in name for name in done)
    return Converted(
        f"folder:{out}" + "?recursive=yes" * nested,
        {split: len(items) for split, items in samples.items()},
        written,
        total - written,
    )


def convert_sbd(
    path: str | Path, *, overwrite: bool = False, progress: Progress | None = None
) -> tuple[int, int]:
    """Write a PNG label beside each MATLAB file of SBD; return how many were written, and kept.

    The data set ``sbd:PATH`` reads them then, which is faster and takes no SciPy.

    Raises
    ------
    DataError
        If there are no MATLAB files, or a file cannot be read.
    WriteError
        If a file cannot be written.
    """
    folder = find_sbd(Path(path)) / "cls"
    files = sorted(folder.glob("*.mat"))
    if not files:
        raise DataError(f"{folder}: holds no .mat files to convert")
    written = 0
    with _continues(folder):
        for number, file in enumerate(files, 1):
            target = file.with_suffix(".png")
            if overwrite or not target.exists():
                save_label(target, read_sbd_label(file), voc_palette())
                written += 1
            if progress is not None:
                progress(number, len(files))
    return written, len(files) - written


@contextmanager
def _continues(folder: Path) -> Iterator[None]:
    """Add to an error of writing, as on a full disk, that nothing is lost."""
    try:
        yield
    except WriteError as error:
        error.add_note(f"The files in {folder} are complete; the same command goes on from there.")
        raise


def _check_kind(spec: str, part: Dataset) -> None:
    """Make sure that a plain folder can hold such images and labels."""
    heads, streams = heads_of(part), streams_of(part)
    if len(heads) > 1:
        kinds = " and ".join(heads)
        sign = "&" if "?" in spec else "?"
        raise DataError(
            f"data set {spec!r} has labels of {len(heads)} kinds, {kinds}, and a folder has one: "
            f"choose one, as {spec}{sign}labels={next(iter(heads))}"
        )
    if list(streams.values()) != [3]:
        raise DataError(
            f"data set {spec!r} has images of {sum(streams.values())} channels: a folder holds "
            "colour images only"
        )


def _check_place(out: Path, source: Path | None, classes: str) -> None:
    """Make sure that nothing else lies where the data set is to be written."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file: name a folder to write to")
    if source is not None and out.resolve() in (source.resolve(), source.resolve().parent):
        raise DataError(f"{out}: is where the data set itself lies: name another folder")
    if out.is_dir() and any(out.iterdir()):
        file = out / "classes.txt"
        if not file.is_file() or file.read_text("utf-8", errors="replace") != classes:
            raise DataError(f"{out}: holds something else than this data set: name another folder")


def _collect(parts: dict[str, Dataset]) -> dict[str, dict[str, Item | None]]:
    """Return the samples of each split by name; with their files, where they come from files."""
    found: dict[str, tuple[str, Item | None]] = {}
    samples: dict[str, dict[str, Item | None]] = {}
    files: dict[str, str] = {}
    for split, part in parts.items():
        if isinstance(part, Files):
            samples[split] = {item.name: item for item in part.items}
        else:
            samples[split] = {part[index].name: None for index in range(len(part))}
        for name, item in samples[split].items():
            file_parts(name)  # better now than after an hour
            if (twin := files.setdefault(same_file_key(name), name)) != name:
                raise DataError(
                    f"the samples {twin!r} and {name!r} would share a file on some systems: rename "
                    "one of them"
                )
            other, same = found.setdefault(name, (split, item))
            if other != split and (item is None or item != same):
                raise DataError(
                    f"two samples are called {name!r}, in the splits {other} and {split}: convert "
                    "them into different folders"
                )
    return samples


def _write(
    out: Path, part: Dataset, index: int, name: str, item: Item | None, overwrite: bool
) -> bool:
    """Write image and label of a sample; return whether there was something to write."""
    parts = file_parts(name)
    label_file = _inside(out, "labels", *parts, ending=".png")
    file = item.images[0] if item is not None else None
    ending = file.suffix if file is not None else ".png"
    places = [_inside(out, "images", *parts, ending=end) for end in (ending, ".png")]
    # The label is written last: where it is, the sample is complete.
    if not overwrite and label_file.exists() and any(place.exists() for place in places):
        return False
    image, label, _ = part[index]
    if file is not None and _holds(file, image):
        replace_file(places[0], file.read_bytes())
    else:
        save_image(places[1], Image.fromarray(image))
    save_label(label_file, label, part.palette)
    return True


def _holds(file: Path, image: np.ndarray) -> bool:
    """Tell whether a file, read as any image is, is this image: some data sets change it."""
    return file.suffix.lower() in IMAGE_ENDINGS and np.array_equal(read_image(file), image)


def _inside(out: Path, *parts: str, ending: str = "") -> Path:
    """Return the path of a file to write, after making its folder."""
    path = out.joinpath(*parts[:-1], parts[-1] + ending)
    check_inside(out, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"{path.parent}: cannot be made: {error.strerror or error}") from error
    return path
