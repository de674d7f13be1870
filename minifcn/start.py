"""What `minifcn train` starts from: the net, its weights, and whether all of it fits the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from . import memory, models
from .data import PRESETS, Dataset, Preprocessing
from .flow import planned
from .models import FCN, Classifier
from .models.surgery import check_loaded, transplant
from .prepare import ReadOnce, whole_numbers
from .recipes import Recipe, check_rate
from .shapes import ShapeError
from .train import TrainingError
from .weights import load


class Start(NamedTuple):
    """Which net is trained, and from which weights."""

    backbone: str
    options: dict[str, Any]  # of the net, for `minifcn.models.build`
    preprocessing: Preprocessing
    init: FCN | Classifier | None = None  # the net with the weights to start from
    classes: tuple[str, ...] = ()  # what that net tells apart


def starting_point(
    init: Path | None = None, preprocessing: str | None = None, **chosen: Any
) -> Start:
    """Return what to train, from options of the command line; None is one that was not given.

    A weight file decides what is not given: the net, and always the preprocessing, as its weights
    are of no use with another. It holds an FCN or a classifier.

    Parameters
    ----------
    init
        The weight file.
    preprocessing
        The name of a preset.
    chosen
        ``backbone``, ``widths`` (as text) and further options of the net.

    Raises
    ------
    TrainingError
        If the options do not fit together.
    WeightsError
        If the weight file cannot be used.

    Examples
    --------
    >>> starting_point(widths="8,16,16,32,32", at_once=True).options
    {'widths': (8, 16, 16, 32, 32), 'at_once': True}
    """
    chosen = {name: value for name, value in chosen.items() if value is not None}
    backbone = chosen.pop("backbone", None)
    rule, loaded = PRESETS[preprocessing or "unit"], None
    options: dict[str, Any] = {}
    if init is not None:
        if preprocessing is not None:
            raise TrainingError(
                f"--preprocessing {preprocessing}: {init} knows the preprocessing that its weights "
                "need: leave this option out"
            )
        loaded = load(init)
        if not isinstance(loaded.model, FCN | Classifier):
            raise TrainingError(
                f"--init {init}: it holds a {loaded.model.config['model']}, and a training starts "
                "from an FCN or a classifier"
            )
        rule, options = loaded.preprocessing, _trunk_and_head(loaded.model)
        own = options.pop("backbone")
        options = options if backbone in (None, own) else {}
        backbone = backbone or own
    backbone = backbone or "small"
    if "widths" in chosen:
        numbers = whole_numbers("--widths", chosen["widths"])
        if backbone != "small" or len(numbers) != 5:
            raise TrainingError(
                f"--widths {chosen['widths']}: the channels of the five stages of the small "
                f"backbone, such as 24,48,64,96,96; these are {len(numbers)}, and the backbone is "
                f"{backbone}"
            )
        chosen["widths"] = tuple(numbers)
    if "width" in chosen and backbone == "small":
        raise TrainingError(
            f"--width {chosen['width']:g}: the backbone small has its channels from --widths; a "
            "width is for the published nets, such as --backbone vgg16"
        )
    start = Start(backbone, options | chosen, rule)
    return start._replace(init=loaded.model, classes=loaded.classes) if loaded else start


def _trunk_and_head(model: FCN | Classifier) -> dict[str, Any]:
    """Return the options, backbone included, of an FCN that a net's weights fit."""
    if isinstance(model, Classifier):
        return models.trunk_options(model.config)
    # Whether the trunk learns is a matter of each training, not of the weights.
    left_out = ("model", "num_classes", "learn_trunk")
    return {name: value for name, value in model.config.items() if name not in left_out}


def check_nets(
    stages: Mapping[str, Recipe],
    start: Start,
    train_set: Dataset,
    val_set: Dataset,
    read: ReadOnce,
    new_scores: bool = False,
    device: str = "cpu",
) -> tuple[str, list[str]]:
    """Build the nets of a run and see whether weights, images, rates and memory fit.

    Parameters
    ----------
    stages
        What would be done.
    start
        The net and its weights.
    train_set, val_set, read
        The data, and what was seen of them.
    new_scores
        Whether the score layers of the weights are left out.
    device
        Where it would be done.

    Returns
    -------
    str
        The memory that a training step needs at most.
    list of str
        Warnings.

    Raises
    ------
    TrainingError
        If the classes differ from those of the weights, or an image is too small for a net.
    SurgeryError
        If the weights do not fit, or a layer's are all zero.
    RecipeError
        If a rate is for another kind of loss.
    """
    warnings = _check_classes(start, train_set, new_scores)
    crops = {(r.crop, r.crop) for r in stages.values() if r.crop is not None}
    windows = crops or read.train_sizes
    height, width = max(windows, key=lambda size: size[0] * size[1])
    options = {"num_classes": len(train_set.classes), "backbone": start.backbone, **start.options}
    finest: FCN | None = None
    for number, (name, recipe) in enumerate(stages.items()):
        check_rate(recipe, height * width)
        # Random weights are drawn only where the starting weights are put among them.
        init = start.init if number == 0 else None
        net: Any = planned(name, **options) if init is None else models.build(name, **options)
        if init is not None:
            transplant(net, init, new_scores=new_scores)
            check_loaded(net)
        _check_sizes(net, windows, "--crop" if crops else train_set.name)
        _check_sizes(net, read.val_sizes, val_set.name)
        finest = net if finest is None or net.stride < finest.stride else finest
    recipe = next(iter(stages.values()))
    if start.init is None and recipe.name in ("light", "heavy"):
        warnings.append(
            f"the recipe {recipe.name} is for nets with trained weights: from random ones its "
            "rates teach next to nothing; give --init, or take the recipe quick"
        )
    assert finest is not None  # there is a stage
    line, advice = memory.advice(finest.to(device), height, width, recipe.batch_size)
    return line, [*warnings, advice] if advice else warnings


def _check_classes(start: Start, dataset: Dataset, new_scores: bool) -> list[str]:
    if new_scores or not isinstance(start.init, FCN):
        return []  # no scores are taken over
    there, here = start.classes, tuple(dataset.classes)
    if len(there) != len(here):
        raise TrainingError(
            f"the weights of --init are for {len(there)} classes ({', '.join(there)}), but "
            f"{dataset.name} has {len(here)} ({', '.join(here)}): --new-scores starts the score "
            "layers anew, and keeps all other weights"
        )
    other = ", ".join(f"{a} / {b}" for a, b in zip(there, here, strict=True) if a != b)
    warning = (
        f"the weights of --init are for classes with other names than those of {dataset.name} "
        f"({other}): if they are others, --new-scores starts the score layers anew"
    )
    return [warning] if other else []


def _check_sizes(net: FCN, sizes: set[tuple[int, int]], source: str) -> None:
    for height, width in sorted(sizes):
        try:
            net.check_image((1, 3, height, width))
        except ShapeError as error:
            raise TrainingError(f"{source}: {error}") from error
