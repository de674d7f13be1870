"""What `minifcn train` makes sure of before the first step, so that no run fails late."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .data import Dataset, Sample, count_pixels
from .recipes import Recipe
from .train import TrainingError

RUN_FILES = ("config.json", "metrics.json", "report.html")  # what a run leaves beside its stages


class ReadOnce(NamedTuple):
    """What was seen of two data sets when all their images were read."""

    train_sizes: set[tuple[int, int]]  # height and width
    val_sizes: set[tuple[int, int]]
    warnings: list[str]


class Watched:
    """A data set that tells how much of it was read, and notes the sizes of its images.

    >>> from minifcn.data import shapes
    >>> dataset = Watched(shapes("val", length=3), tell=lambda done: None)
    >>> [sample.name for sample in dataset], dataset.sizes
    (['val-0000', 'val-0001', 'val-0002'], {(64, 64)})
    """

    def __init__(self, dataset: Dataset, tell: Callable[[int], None]) -> None:
        self.dataset, self.tell = dataset, tell
        self.name, self.classes = dataset.name, dataset.classes
        self.palette, self.ignore_index = dataset.palette, dataset.ignore_index
        self.sizes: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        height, width = sample.label.shape
        self.sizes.add((height, width))
        self.tell(index + 1)
        return sample


def check_data(
    train_set: Dataset, val_set: Dataset, recipe: Recipe, progress: Callable[[int, int], None]
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

    Raises
    ------
    DataError
        If an image or label is bad.
    TrainingError
        If the classes differ, no pixel has a class, or the images make no batch.
    """
    if val_set.classes != train_set.classes:
        raise TrainingError(
            f"{val_set.name} has other classes ({', '.join(val_set.classes)}) than "
            f"{train_set.name} ({', '.join(train_set.classes)})"
        )
    total = len(train_set) + len(val_set)
    watched = Watched(train_set, lambda done: progress(done, total))
    held_out = Watched(val_set, lambda done: progress(len(train_set) + done, total))
    train_pixels, val_pixels = count_pixels(watched), count_pixels(held_out)
    for dataset, pixels in ((train_set, train_pixels), (val_set, val_pixels)):
        if not pixels.any():
            raise TrainingError(
                f"{dataset.name}: not one pixel has a class: all {len(dataset)} labels hold only "
                f"{dataset.ignore_index}, the number for pixels to ignore"
            )
    if recipe.crop is None and recipe.batch_size > 1 and len(watched.sizes) > 1:
        (height, width), *_, (tall, wide) = sorted(watched.sizes)
        raise TrainingError(
            f"{train_set.name}: images differ in size, from {height} x {width} to {tall} x {wide} "
            f"(height x width), so {recipe.batch_size} of them make no batch: choose --crop N, or "
            "--batch-size 1 (and --accumulate for more images in a step)"
        )
    warnings = []
    if train_set.name == val_set.name:
        warnings.append(
            f"{val_set.name} is both learnt from and measured on: the results will say nothing "
            "about new images"
        )
    missing = [n for n, count in zip(train_set.classes, train_pixels, strict=True) if not count]
    if missing:
        warnings.append(
            f"{train_set.name} has no pixel of {', '.join(missing)}: these cannot be learnt"
        )
    return ReadOnce(watched.sizes, held_out.sizes, warnings)


def check_folder(out: Path) -> dict[str, Any]:
    """Return the results of an earlier run in a folder, as in its ``metrics.json``; {} if none.

    Raises
    ------
    TrainingError
        If it is no folder, or holds files of other programs with the names that a run uses.

    Examples
    --------
    >>> check_folder(Path("not-made-yet"))
    {}
    """
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file: choose a new folder for the results")
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
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise TrainingError(f"{out}: this folder cannot be made: {reason}") from error
    for name in RUN_FILES:
        (out / name).unlink(missing_ok=True)


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
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
    if not all(part.isdecimal() and int(part) for part in parts):
        raise TrainingError(
            f"{option} {text}: give whole numbers of at least 1, with commas, such as 400,200"
        )
    return [int(part) for part in parts]


def number_or(word: str, option: str, text: str) -> int | str:
    """Return the whole number that a text holds, or the word if it is that.

    >>> number_or("smallest", "--padding", "81"), number_or("smallest", "--padding", "smallest")
    (81, 'smallest')
    """
    if text != word and not text.isdecimal():
        raise TrainingError(f"{option} {text}: give a whole number of at least 0, or {word}")
    return word if text == word else int(text)
