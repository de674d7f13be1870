"""What `minifcn train` makes sure of before the first step, so that no run fails late."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .data import Dataset, check_alike, heads_of, label_by_head, open_dataset, splits_of
from .data.ahead import by_threads, processors
from .data.files import Files
from .data.fingerprint import fingerprint, is_blank
from .data.sources import parse
from .data.unreadable import UNREADABLE, Bad, OnError, Unread, listed
from .json_file import JsonError, read_json
from .parallel import Ranks
from .recipes import MOST_SCALE, Recipe
from .run_lock import locked
from .train import TrainingError

READERS = 4  # threads that read files at a time, at most: more would wait for Python's lock
RUN_FILES = ("config.json", "metrics.json", "report.html")  # what a run leaves beside its stages


class ReadOnce(NamedTuple):
    """What was seen of two data sets when all their images were read."""

    train_sizes: set[tuple[int, int]]  # height and width
    val_sizes: set[tuple[int, int]]
    warnings: list[str]
    trained_on: frozenset[int] = frozenset()  # the training images' fingerprints
    held_out: frozenset[int] = frozenset()  # those of the others


class Noted(NamedTuple):
    """What is kept of one sample."""

    name: str
    size: tuple[int, int]  # height and width
    pixels: dict[str, np.ndarray]  # with each label, int64 (256,), by head
    fingerprint: int | None  # None if the image is blank


class Seen(NamedTuple):
    """What was seen of one data set.

    Attributes
    ----------
    sizes
        Height and width of its images.
    pixels
        Of each class, int64 (K,), by head.
    names
        What each image is called, by its fingerprint; blank images are left out.
    bad
        The samples that were passed over.
    """

    sizes: set[tuple[int, int]]
    pixels: dict[str, np.ndarray]
    names: dict[int, str]
    bad: Bad


def read_all(dataset: Dataset, tell: Callable[[int], None], skips: bool = False) -> Seen:
    """Read a data set once; ``tell`` is called with the number of images read so far.

    With ``skips`` a few samples that cannot be read are passed over; see `minifcn.data.Loader`.
    A data set of files is read by several threads, which decode images side by side.

    >>> from minifcn.data import shapes
    >>> seen = read_all(shapes("val", length=3), tell=lambda done: None)
    >>> seen.sizes, list(seen.names.values()), int(seen.pixels[""].sum()) == 3 * 64 * 64
    ({(64, 64)}, ['val-0000', 'val-0001', 'val-0002'], True)
    """
    heads = heads_of(dataset)
    seen = Seen(set(), {head: np.zeros(256, np.int64) for head in heads}, {}, Bad(dataset))

    def look(index: int) -> Noted | Unread:
        try:
            image, label, name = dataset[index]
        except UNREADABLE as error:
            if not skips:
                raise
            return Unread(index, str(error))
        height, width = label.shape[:2]
        pixels = {
            head: np.bincount(part.ravel(), minlength=256)
            for head, part in label_by_head(label, heads).items()
        }
        number = None if is_blank(image) else fingerprint(image)
        return Noted(name, (height, width), pixels, number)

    # Other data sets may be such that only one thread can read them at a time.
    threads = min(READERS, processors()) if isinstance(dataset, Files) else 0
    with closing(by_threads(look, range(len(dataset)), 2 * threads, threads)) as looks:
        for done, found in enumerate(looks, start=1):
            if isinstance(found, Unread):
                seen.bad.add([found])
                continue
            seen.sizes.add(found.size)
            for head, pixels in found.pixels.items():
                seen.pixels[head] += pixels
            if found.fingerprint is not None:
                seen.names.setdefault(found.fingerprint, found.name)
            tell(done)
    kept = {head: seen.pixels[head][: len(heads[head].classes)] for head in heads}
    return seen._replace(pixels=kept)


def check_data(
    train_set: Dataset,
    val_set: Dataset,
    recipe: Recipe,
    progress: Callable[[int, int], None],
    on_bad_image: OnError = "stop",
) -> ReadOnce:
    """Read two data sets once; return what they hold, and warnings about it.

    Parameters
    ----------
    train_set, val_set
        What a run would learn from, and measure on.
    recipe
        Its batch size and crop must fit the images.
    progress
        Is called as ``progress(done, total)`` after each image.
    on_bad_image
        With ``"skip"``, a few bad training images are a warning only.

    Raises
    ------
    DataError
        If an image or label is bad, or the classes or channels differ.
    TrainingError
        If no pixel has a class, the images make no batch, or some of them are in both (unless they
        are one data set: then there is a warning).
    """
    check_alike(train_set, val_set)
    total = len(train_set) + len(val_set)
    skips = on_bad_image == "skip"
    train = read_all(train_set, lambda done: progress(done, total), skips)
    val = read_all(val_set, lambda done: progress(len(train_set) + done, total))
    for dataset, seen in ((train_set, train), (val_set, val)):
        for head, pixels in seen.pixels.items():
            if not pixels.any():
                labels = f"{head} labels" if head else "labels"
                raise TrainingError(
                    f"{dataset.name}: not one pixel has a class: all {len(dataset)} {labels} hold "
                    f"only {dataset.ignore_index}, the number for pixels to ignore"
                )
    _check_batches(train_set, train, recipe)
    warnings = []
    if bad := list(train.bad.found.values()):
        warnings.append(
            f"{len(bad)} of the {len(train_set)} samples of {train_set.name} cannot be read, so "
            f"others take their place: {listed(bad)}"
        )
    if train_set.name == val_set.name:
        warnings.append(
            f"{val_set.name} is both learnt from and measured on: the results will say nothing "
            "about new images"
        )
    elif both := [name for number, name in val.names.items() if number in train.names]:
        raise TrainingError(
            f"{len(both)} of the {len(val_set)} images of {val_set.name} are in {train_set.name}, "
            f"too ({', '.join(both[:3])}{', ...' * (len(both) > 3)}): images that are learnt from "
            "say nothing about new ones, so take them out of one of the two"
        )
    for head, pixels in train.pixels.items():
        classes = heads_of(train_set)[head].classes
        if missing := [name for name, n in zip(classes, pixels, strict=True) if not n]:
            warnings.append(
                f"{train_set.name} has no pixel of {', '.join(missing)}: these cannot be learnt"
            )
    return ReadOnce(train.sizes, val.sizes, warnings, frozenset(train.names), frozenset(val.names))


def _check_batches(train_set: Dataset, seen: Seen, recipe: Recipe) -> None:
    """Raise if the images are of several sizes, and the recipe does nothing about that."""
    if recipe.crop is not None or recipe.batch_size == 1 or recipe.sizes == "pad":
        return
    fix = (
        "choose --crop N, or --sizes pad, or --batch-size 1 (and --accumulate for more images in "
        "a step)"
    )
    if recipe.scale is not None and recipe.scale[0] < recipe.scale[1]:
        raise TrainingError(
            f"--scale {recipe.scale[0]:g},{recipe.scale[1]:g} makes images of many sizes, so "
            f"{recipe.batch_size} of them make no batch: {fix}"
        )
    if recipe.sizes == "same" and len(seen.sizes) > 1:
        (height, width), *_, (tall, wide) = sorted(seen.sizes)
        raise TrainingError(
            f"{train_set.name}: images differ in size, from {height} x {width} to {tall} x {wide} "
            f"(height x width), so {recipe.batch_size} of them make no batch: {fix}"
        )


def check_shares(recipes: Mapping[str, Recipe], ranks: Ranks) -> None:
    """Make sure that several processes can share each batch.

    Raises
    ------
    TrainingError
        If they would get different numbers of images.

    Examples
    --------
    >>> from minifcn.parallel import ALONE
    >>> check_shares({"fcn8s": Recipe(steps=1, lr=0.1, batch_size=3)}, ALONE)
    """
    for name, recipe in recipes.items():
        count, number = recipe.batch_size, ranks.number
        if count % number:
            raise TrainingError(
                f"{name}: --batch-size {count} cannot be shared by {number} processes, which must "
                f"get equally many images: choose {number * max(1, round(count / number))}, or "
                "start another number of processes"
            )
        if number > 1 and recipe.sizes == "bucket":
            raise TrainingError(
                f"{name}: --sizes bucket makes batches of different lengths, which {number} "
                "processes cannot share equally: choose --sizes pad, or --crop"
            )


def open_both(
    data: str,
    val: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
) -> tuple[Dataset, Dataset]:
    """Return the data sets to learn from and to measure on, from options of the command line.

    Parameters
    ----------
    data, val
        Their names, for `minifcn.data.open_dataset`; ``val`` is ``data`` where not given.
    train_split, val_split
        Their splits, unless a name tells. Where nothing does: ``"train"`` or, if there is none,
        ``"trainval"``; and ``"val"`` or, if there is none, ``"test"``.

    Raises
    ------
    TrainingError
        If a split is named twice.
    DataError
        If there are no such data sets.

    Examples
    --------
    >>> [dataset.name for dataset in open_both("shapes")]
    ['shapes train', 'shapes val']
    """
    if val is None:
        kind, _, options = data.partition("?")
        others = [part for part in options.split("&") if not part.startswith("split=")]
        val = f"{kind}?{'&'.join(others)}"
    learnt = split_of(data, train_split, "--train-split", ("train", "trainval"))
    held_out = split_of(val, val_split, "--val-split", ("val", "test"))
    return open_dataset(data, learnt), open_dataset(val, held_out)


def split_of(spec: str, given: str | None, option: str, usual: tuple[str, str]) -> str:
    """Return the split that is meant: the one named or given, else the first usual one there is.

    Parameters
    ----------
    spec
        The data set, which may name its split.
    given, option
        The value of an option, or None, and what the option is called.
    usual
        Two splits: the second is taken only where it is there and the first is not.

    Raises
    ------
    TrainingError
        If the split is named twice.

    Examples
    --------
    >>> split_of("shapes", None, "--split", ("val", "test"))
    'val'
    """
    named, (first, second) = parse(spec).split, usual
    if named and given:
        raise TrainingError(
            f"{option} {given}: {spec} names its split already, {named}: leave out one of them"
        )
    there = [] if named or given else splits_of(spec)
    return named or given or (second if second in there and first not in there else first)


def check_folder(out: Path) -> dict[str, Any]:
    """Return the results of an earlier run in a folder, as in its ``metrics.json``; {} if none.

    Raises
    ------
    TrainingError
        If it is no folder, or holds files of other programs with the names that a run uses.
    FolderInUseError
        If a run is at work there.

    Examples
    --------
    >>> check_folder(Path("not-made-yet"))
    {}
    """
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file: choose a new folder for the results")
    if out.is_dir():
        with locked(out):
            pass
    found = [name for name in RUN_FILES if (out / name).exists()]
    if found and "stages" not in _read_object(out / "config.json"):
        raise TrainingError(
            f"{out / found[0]} was not written by a training run, so it is not replaced: choose "
            "another folder for the results"
        )
    return _read_object(out / "metrics.json")


def clear_folder(out: Path) -> None:
    """Make a folder for a run; remove what an earlier run there says of its results.

    Raises
    ------
    TrainingError
        If the folder cannot be made.
    FolderInUseError
        If a run is at work there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise TrainingError(f"{out}: this folder cannot be made: {reason}") from error
    with locked(out):
        for name in RUN_FILES:
            (out / name).unlink(missing_ok=True)


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if there is none."""
    try:
        value = read_json(path)
    except (FileNotFoundError, JsonError):
        return {}
    return value if isinstance(value, dict) else {}


def stage_names(text: str) -> list[str]:
    """Return the models of a list of stages.

    >>> stage_names("32s,16s,8s")
    ['fcn32s', 'fcn16s', 'fcn8s']
    """
    names = [f"fcn{name.strip().removeprefix('fcn')}" for name in text.split(",")]
    if len(set(names)) < len(names):
        raise TrainingError(f"--stages {text}: a stage is named twice")
    return names


def whole_numbers(option: str, text: str) -> list[int]:
    """Return the numbers of a list, each at least 1.

    >>> whole_numbers("--steps", "400,200")
    [400, 200]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 10 and int(part) for part in parts):
        raise TrainingError(
            f"{option} {text}: give whole numbers from 1 to 999,999,999, with commas, such as "
            "400,200"
        )
    return [int(part) for part in parts]


def two_factors(option: str, text: str) -> tuple[float, float]:
    """Return two numbers above 0, the smaller one first.

    >>> two_factors("--scale", "0.5,2")
    (0.5, 2.0)
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = 0.0
    if not 0 < low <= high <= MOST_SCALE:
        raise TrainingError(
            f"{option} {text}: give two factors above 0 and up to {MOST_SCALE}, the smaller one "
            "first, such as 0.5,2"
        )
    return low, high


def number_or(word: str, option: str, text: str) -> int | str:
    """Return the whole number that a text holds, or the word if it is that.

    >>> number_or("smallest", "--padding", "81"), number_or("smallest", "--padding", "smallest")
    (81, 'smallest')
    """
    if text != word and not (text.isdecimal() and len(text) < 5):
        raise TrainingError(f"{option} {text}: give a whole number from 0 to 9999, or {word}")
    return word if text == word else int(text)
