"""What `minifcn train` starts from: the net, its weights, and whether all of it fits the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import memory, models
from .backend import Array
from .data import (
    Dataset,
    Preprocessing,
    channels_in_words,
    heads_of,
    presets_of,
    streams_of,
)
from .flow import Undrawn
from .json_file import JsonError
from .models import FCN, Classifier, LateFusion
from .models.surgery import check_loaded, transplant
from .plain_text import one_line
from .prepare import ReadOnce, whole_numbers
from .recipes import Recipe, check_rate
from .run_folder import recorded
from .shapes import ShapeError
from .train import TrainingError
from .weights import Loaded, load
from .weights.header import tuples

Sizes = set[tuple[int, int]]  # heights and widths
Classes = Mapping[str, tuple[str, ...]]  # by head


class Start(NamedTuple):
    """Which net is trained, and from which weights.

    Attributes
    ----------
    backbone, options
        Of the net, for `minifcn.models.for_data`.
    preprocessing
        How the pixels of its images become its input.
    preset
        What that rule is called, if it is one of `minifcn.data.presets_of` the data.
    init
        The net with the weights to start from, or parameters by name; None: random weights.
    classes
        What the scores of these weights tell apart, by head; empty if they have no scores.
    trained_on
        Fingerprints of the images that these weights were trained on.
    """

    backbone: str
    options: dict[str, Any]
    preprocessing: Preprocessing
    preset: str = ""
    init: FCN | LateFusion | Classifier | Mapping[str, Array] | None = None
    classes: Mapping[str, tuple[str, ...]] = {}
    trained_on: frozenset[int] = frozenset()


def starting_point(
    dataset: Dataset, init: Sequence[Path] = (), preprocessing: str | None = None, **chosen: Any
) -> Start:
    """Return what to train, from options of the command line; None is one that was not given.

    Weight files decide what is not given: the net, and the preprocessing, as weights are of no use
    with another (only another mean colour may be chosen, or the way of the released nets). They
    hold FCNs or classifiers.

    Parameters
    ----------
    dataset
        What to learn from.
    init
        Weight files: one, or one for each stream of the data's images, in order. One for several
        streams starts each of them, unless it holds a net with these streams.
    preprocessing
        The name of a preset of the data.
    chosen
        ``backbone``, ``widths`` (as text) and further options of the net.

    Raises
    ------
    TrainingError
        If the options do not fit together.
    WeightsError
        If a weight file cannot be used.

    Examples
    --------
    >>> from minifcn.data import shapes
    >>> starting_point(shapes("val"), widths="8,16,16,32,32", at_once=True).options
    {'widths': (8, 16, 16, 32, 32), 'at_once': True}
    """
    chosen = {name: value for name, value in chosen.items() if value is not None}
    backbone = chosen.pop("backbone", None)
    streams = streams_of(dataset)
    files = {path: load(path) for path in init}
    options = _common_options(files, streams)
    own = options.pop("backbone", None)
    options = options if backbone in (None, own) else {}
    backbone = backbone or own or "small"
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
    rule, preset = _rule(dataset, files, preprocessing)
    start = Start(backbone, options | chosen, rule, preset)
    if not files:
        return start
    loaded = list(files.values())
    return start._replace(
        init=_parameters(loaded, streams),
        classes=_scored_classes(files),
        trained_on=frozenset().union(*(one.trained_on for one in loaded)),
    )


def recorded_start(out: Path) -> Start:
    """Return what is trained in a run that was begun: its weights are in its checkpoints.

    Raises
    ------
    JsonError, DataError
        If the configuration in the folder is damaged.
    """
    config = recorded(out)
    try:
        rule = Preprocessing.from_dict(config["preprocessing"])
        return Start(config["backbone"], dict(tuples(config["options"])), rule)
    except (LookupError, TypeError, ValueError) as error:
        told = f"{type(error).__name__}: {one_line(str(error))}"
        raise JsonError(f"{out / 'config.json'}: not the configuration of a run: {told}") from error


def _common_options(files: Mapping[Path, Loaded], streams: Mapping[str, int]) -> dict[str, Any]:
    """Return the options, backbone included, of the nets that the weights of all files fit."""
    if len(files) > 1 and len(files) != len(streams):
        raise TrainingError(
            f"--init is given {len(files)} times, but the images have {len(streams)} "
            f"stream{'s' * (len(streams) > 1)} ({channels_in_words(streams)} channels): give one "
            "weight file, or one for each stream"
        )
    found: list[tuple[Path, dict[str, Any]]] = []
    for path, loaded in files.items():
        config = loaded.model.config
        if isinstance(loaded.model, Classifier):
            found.append((path, models.trunk_options(config)))
        elif not isinstance(loaded.model, LateFusion):
            found.append((path, config))
        elif loaded.model.streams == dict(streams) and len(files) == 1:
            found += [(path, each) for each in config["streams"].values()]
        else:
            there = channels_in_words(loaded.model.streams)
            raise TrainingError(
                f"--init {path}: its net takes images with {there} channels, the data have "
                f"{channels_in_words(streams)}: choose the data that it was trained for, or give "
                "a weight file for each stream"
            )
    # Whether the trunk learns is a matter of each training, not of the weights.
    left_out = ("model", "num_classes", "learn_trunk", "in_channels")
    each = [{n: v for n, v in config.items() if n not in left_out} for _, config in found]
    for (path, _), options in zip(found, each, strict=True):
        if options != each[0]:
            raise TrainingError(
                f"--init {path}: another kind of net than {found[0][0]}: the nets of all streams "
                f"must be alike ({options} is not {each[0]})"
            )
    return each[0] if each else {}


def _parameters(loaded: Sequence[Loaded], streams: Mapping[str, int]) -> Any:
    """Return the net to start from, or the parameters for the nets of all streams, by name."""
    if len(streams) == 1 or isinstance(loaded[0].model, LateFusion):
        return loaded[0].model
    each = list(loaded) if len(loaded) > 1 else list(loaded) * len(streams)
    return {
        f"{stream}.{name}": array
        for stream, one in zip(streams, each, strict=True)
        for name, array in one.model.state_dict().items()
    }


def _scored_classes(files: Mapping[Path, Loaded]) -> Classes:
    """Return the classes that the scores of the weights are for, by head; none of classifiers."""
    found: list[tuple[Path, Classes]] = [
        (path, {name: head.classes for name, head in loaded.heads.items()})
        for path, loaded in files.items()
        if not isinstance(loaded.model, Classifier)
    ]
    for path, classes in found[1:]:
        if classes != found[0][1]:
            raise TrainingError(
                f"--init {path}: for other classes ({_in_words(classes)}) than {found[0][0]} "
                f"({_in_words(found[0][1])}): the nets of all streams must have the same"
            )
    return found[0][1] if found else {}


def _rule(
    dataset: Dataset, files: Mapping[Path, Loaded], preset: str | None
) -> tuple[Preprocessing, str]:
    """Return how images are prepared, and what that is called if it is a preset of the data."""
    presets = presets_of(dataset)
    if preset is not None and preset not in presets:
        raise TrainingError(
            f"--preprocessing {preset}: {dataset.name} has no rule of that name for its images: "
            f"use one of {', '.join(presets)}"
        )
    known = _rule_of_files(dataset, files)
    if known is None:
        # Published nets see pixels from 0 to 255, and so do nets that start from their weights.
        like_published = any(loaded.preprocessing.scale == 1 for loaded in files.values())
        usual = "published" if like_published and "published" in presets else "unit"
        preset = preset or usual
        return presets[preset], preset
    if preset is None:
        return known, ""
    rule = presets[preset]
    # The released nets for HHA images, which are no colours, began with weights for BGR, too.
    order = known.order if preset == "published" else rule.order
    if (order, rule.scale, rule.std) != (known.order, known.scale, known.std):
        raise TrainingError(
            f"--preprocessing {preset}: {' and '.join(map(str, files))} knows the preprocessing "
            "that its weights need, which differs in more than the mean colour: leave this option "
            "out"
        )
    return rule, preset


def _rule_of_files(dataset: Dataset, files: Mapping[Path, Loaded]) -> Preprocessing | None:
    """Return how the weight files want images prepared; None if they know other images only."""
    streams, rules = streams_of(dataset), [loaded.preprocessing for loaded in files.values()]
    if not rules:
        return None
    first = rules[0]
    if len(rules) == 1:
        return first if first.channels == sum(streams.values()) else None
    learned = any(not isinstance(loaded.model, Classifier) for loaded in files.values())
    if not learned or [rule.channels for rule in rules] != list(streams.values()):
        return None
    if any(rule.scale != first.scale or rule.order != "RGB" for rule in rules[1:]):
        raise TrainingError(
            f"--init {' and '.join(map(str, files))}: these nets want images prepared in ways that "
            "do not go together: all must have one scale, and only the first stream may be BGR "
            f"({'; '.join(f'{rule.order}, scale {rule.scale:g}' for rule in rules)})"
        )
    mean, std = (sum((getattr(rule, name) for rule in rules), ()) for name in ("mean", "std"))
    return Preprocessing(first.order, first.scale, mean, std)


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
    ModelError
        If there is no such net for these data.
    SurgeryError
        If the weights do not fit, or a layer's are all zero.
    RecipeError
        If a rate is for another kind of loss.
    """
    warnings = _check_classes(start, train_set, new_scores)
    if known := len(start.trained_on & read.held_out):
        warnings.append(
            f"the weights of --init were trained on {known} of the {len(val_set)} images of "
            f"{val_set.name}: the results will say too little about new images"
        )
    windows = {size for recipe in stages.values() for size in _windows(recipe, read.train_sizes)}
    cropped = any(recipe.crop is not None for recipe in stages.values())
    height, width = max(windows, key=lambda size: size[0] * size[1])
    streams, heads = streams_of(train_set), heads_of(train_set)
    counts = {name: len(head.classes) for name, head in heads.items()}
    finest: FCN | LateFusion | None = None
    for number, (name, recipe) in enumerate(stages.items()):
        check_rate(recipe, height * width)
        # Random weights are drawn only where the starting weights are put among them.
        init = start.init if number == 0 else None
        rng = Undrawn() if init is None else None
        net = models.for_data(
            name, counts, streams, backbone=start.backbone, rng=rng, **start.options
        )
        if init is not None:
            transplant(net, init, widen_input=True, new_scores=new_scores)
            check_loaded(net)
        _check_sizes(net, windows, "--crop" if cropped else train_set.name)
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


def _windows(recipe: Recipe, sizes: Sizes) -> Sizes:
    """Return the heights and widths that a net is trained on: of the images, or of their parts."""
    if recipe.crop is not None:
        return {(recipe.crop, recipe.crop)}
    scaled = {
        (max(1, round(factor * height)), max(1, round(factor * width)))
        for factor in recipe.scale or (1,)
        for height, width in sizes
    }
    largest = max(h for h, _ in scaled), max(w for _, w in scaled)
    return scaled | {largest} if recipe.sizes == "pad" and recipe.batch_size > 1 else scaled


def _check_classes(start: Start, dataset: Dataset, new_scores: bool) -> list[str]:
    if new_scores or not start.classes:
        return []  # no scores are taken over
    there = start.classes
    here = {name: tuple(head.classes) for name, head in heads_of(dataset).items()}
    if len(here) == 1:  # the head of a net for one kind of labels has no name
        here = {"": next(iter(here.values()))}
    if {n: len(names) for n, names in there.items()} != {n: len(c) for n, c in here.items()}:
        raise TrainingError(
            f"the weights of --init are for {_in_words(there)}, but {dataset.name} has "
            f"{_in_words(here)}: --new-scores starts the score layers anew, and keeps all other "
            "weights"
        )
    pairs = [pair for name in here for pair in zip(there[name], here[name], strict=True)]
    other = ", ".join(f"{a} / {b}" for a, b in pairs if a != b)
    warning = (
        f"the weights of --init are for classes with other names than those of {dataset.name} "
        f"({other}): if they are others, --new-scores starts the score layers anew"
    )
    return [warning] if other else []


def _in_words(classes: Classes) -> str:
    """Return the classes of each head as text.

    >>> _in_words({"": ("sea", "land")}), _in_words({"kind": ("sea", "land")})
    ('2 classes (sea, land)', '2 kind classes (sea, land)')
    """
    return " and ".join(
        f"{len(names)} {head} classes ({', '.join(names)})".replace("  ", " ")
        for head, names in classes.items()
    )


def _check_sizes(net: FCN | LateFusion, sizes: Sizes, source: str) -> None:
    channels = sum(net.streams.values())
    for height, width in sorted(sizes):
        try:
            net.check_image((1, channels, height, width))
        except ShapeError as error:
            raise TrainingError(f"{source}: {error}") from error
