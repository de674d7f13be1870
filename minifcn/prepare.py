"""What `minifcn train` makes sure of before the first step, so that no run fails late."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .data import PRESETS, Dataset, Preprocessing, Sample, count_pixels
from .train import Recipe, TrainingError
from .weights import load

RUN_FILES = ("config.json", "metrics.json", "report.html")  # what a run leaves beside its stages


class Start(NamedTuple):
    """Which net is trained, and from which weights: arguments of `minifcn.train.run`."""

    backbone: str
    options: dict[str, Any]
    preprocessing: Preprocessing
    init: dict[str, Any] | None


def starting_point(
    backbone: str | None, widths: str | None, preprocessing: str | None, init: Path | None
) -> Start:
    """Return what to train, from options of the command line; None is one that was not given.

    A weight file decides what is not given: backbone, widths, and always the preprocessing, as its
    weights are of no use with another.

    Raises
    ------
    TrainingError
        If the options do not fit together.
    WeightsError
        If the weight file cannot be used.

    Examples
    --------
    >>> starting_point(None, "8,16,16,32,32", "unit", None).options
    {'widths': (8, 16, 16, 32, 32)}
    """
    options: dict[str, Any] = {}
    rule, state = PRESETS[preprocessing or "unit"], None
    if init is not None:
        if preprocessing is not None:
            raise TrainingError(
                f"--preprocessing {preprocessing}: {init} knows the preprocessing that its weights "
                "need: leave this option out"
            )
        loaded = load(init)
        rule, state = loaded.preprocessing, loaded.model.state_dict()
        config = {n: v for n, v in loaded.model.config.items() if n not in ("model", "num_classes")}
        own = config.pop("backbone")
        options = config if backbone in (None, own) else {}
        backbone = backbone or own
    backbone = backbone or "small"
    if widths is not None:
        numbers = whole_numbers("--widths", widths)
        if backbone != "small" or len(numbers) != 5:
            raise TrainingError(
                f"--widths {widths}: the channels of the five stages of the small backbone, such "
                f"as 24,48,64,96,96; these are {len(numbers)}, and the backbone is {backbone}"
            )
        options["widths"] = tuple(numbers)
    return Start(backbone, options, rule, state)


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
) -> list[str]:
    """Read two data sets once; return warnings about what they hold.

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
            "--batch-size 1"
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
    return warnings


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
