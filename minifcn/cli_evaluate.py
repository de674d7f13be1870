"""The command ``minifcn evaluate``: how good a net is on a data set, and where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    Absent,
    CommandError,
    Data,
    Device,
    Precision,
    Weights,
    check_precision,
    complain,
    join_others,
)

if TYPE_CHECKING:
    from .data import Dataset
    from .evaluation import Bands
    from .metrics import ConfusionMatrix
    from .weights import Loaded
    from .worst import Case

EXAMPLES = """Examples:

[cyan]minifcn evaluate demo/fcn8s/best.safetensors --data landcover[/]

[cyan]minifcn evaluate net.safetensors --data voc:VOC2012 --sheet worst.html --flip[/]"""
WORST = 10  # images on a sheet


class Layout(StrEnum):
    """Where saved predictions stand in their folder."""

    plain = "plain"
    voc = "voc"
    voc_comp5 = "voc-comp5"


def evaluate(
    weights: Weights,
    data: Data,
    split: Annotated[
        str | None,
        typer.Option(help="Part of the data; val if there is one, else test.", show_default=False),
    ] = None,
    absent: Annotated[
        Absent,
        typer.Option(help="In mean IU, a predicted class that is not there is 0, or left out."),
    ] = Absent.zero,
    scales: Annotated[
        str, typer.Option(help="Average over these sizes of each image, as 0.75,1,1.25.")
    ] = "1",
    flip: Annotated[
        bool, typer.Option("--flip", help="Average over each image and its mirror image.")
    ] = False,
    band: Annotated[
        str,
        typer.Option(
            metavar="WIDTHS",
            help="Score bands of 1,3,5 pixels at boundaries, too.",
            show_default=False,
        ),
    ] = "",
    worst: Annotated[
        int,
        typer.Option(
            min=0,
            help=f"List so many of the worst images; {WORST} with --sheet.",
            show_default=False,
        ),
    ] = 0,
    sheet: Annotated[
        Path | None, typer.Option(help="Draw the worst images: a .png or .html file.")
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option(help="Draw which class is taken for which: a .png file.")
    ] = None,
    save_predictions: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each image's labels here.")
    ] = None,
    layout: Annotated[
        Layout, typer.Option(help="Of that folder: NAME.png, or as PASCAL VOC's server takes it.")
    ] = Layout.plain,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file too.")
    ] = None,
    allow_trained: Annotated[
        bool, typer.Option("--allow-trained", help="Score images that the net has learnt, too.")
    ] = False,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Measure a net on a data set: four metrics, and IU by class."""
    from .data import open_dataset
    from .evaluation import Bands, add_up, is_learnt, new_matrices, score_images, sum_up
    from .gpu_memory import taken
    from .json_file import write_json
    from .prediction_folder import PredictionFolder
    from .prepare import split_of
    from .progress import show_progress
    from .weights import load_fcn
    from .worst import Worst, write_sheet

    sizes, widths = _numbers("--scales", scales, float, 100), _numbers("--band", band, int, 10_000)
    _check_files(sheet, confusion, json_file)
    check_precision(precision, device)
    ranks = join_others()
    part = split_of(data, split, "--split", ("val", "test"))
    dataset = open_dataset(data, part)
    folder = save_predictions and PredictionFolder(save_predictions, dataset, layout.value, part)
    with show_progress("reading weights") as progress:
        loaded = load_fcn(weights, progress=progress)
    check_fit(weights, loaded, dataset)

    learnt, totals, bands = 0, new_matrices(dataset), Bands(dataset, widths)
    kept = Worst(dataset, worst or WORST, absent.value)
    with show_progress("images") as progress:
        for one in score_images(
            loaded.model,
            dataset,
            loaded.preprocessing,
            ranks.device(device),
            scales=sizes,
            flip=flip,
            ranks=ranks,
        ):
            if is_learnt(one, loaded.trained_on):
                learnt += 1
                _check_allowed(allow_trained, weights, dataset, one.sample.name)
            add_up(totals, one)
            bands.add(one)
            if worst or sheet:
                kept.add(one)
            if folder:
                folder.save(one.sample.name, one.labels)
            progress(one.number + 1, len(dataset))
    learnt = ranks.sum(learnt)
    sum_up(totals.values(), ranks)
    bands.sum_up(ranks)
    kept.gather(ranks)
    _check_counted(dataset, totals)
    if not ranks.leads:
        return

    if memory := taken(ranks.device(device)):
        complain(memory)
    print(f"{weights} on {dataset.name}: {len(dataset)} images\n")
    if learnt:
        complain(
            f"warning: {weights} was trained on {learnt} of these {len(dataset)} images: the "
            "scores say little about new ones"
        )
    for head in totals:
        _print_head(dataset, head, totals, bands, absent)
    if json_file:
        facts = {"weights": str(weights), "data": data, "split": part, "images": len(dataset)}
        facts |= {"scales": sizes, "flip": flip, "trained_on": learnt}
        write_json(json_file, facts | _numbers_of(dataset, totals, bands, absent))
    if worst:
        _print_worst(kept.cases())
    if sheet:
        write_sheet(sheet, kept.cases(), dataset)
        print(f"{len(kept.cases())} images that the net does worst on: see {sheet}")
    if confusion:
        _draw_confusion(confusion, dataset, totals)


def _numbers(option: str, text: str, kind: type[int] | type[float], most: int) -> list[Any]:
    """Return the numbers above 0 of a list, none twice and none too large; of an empty text, none.

    >>> _numbers("--scales", "0.5,1", float, 100)
    [0.5, 1.0]
    """
    what = {int: "whole numbers", float: "numbers"}[kind]
    try:
        found = [kind(part) for part in text.split(",")] if text else []
        if not all(0 < number <= most for number in found) or len(set(found)) < len(found):
            raise ValueError
    except ValueError:
        raise CommandError(
            f"{option} {text}: give {what} above 0 and up to {most:,}, each once, with commas, "
            "such as 1,2"
        ) from None
    return found


def _check_files(sheet: Path | None, confusion: Path | None, json_file: Path | None) -> None:
    """Refuse files that cannot be written: better now than after the work."""
    from .weights import check_place
    from .worst import check_sheet

    for file in filter(None, (sheet, confusion, json_file)):
        check_place(file)
    if sheet:
        check_sheet(sheet)
    if confusion and confusion.suffix.lower() != ".png":
        raise CommandError(f"--confusion {confusion}: it is drawn as a .png file")


def check_fit(path: Path, loaded: Loaded, dataset: Dataset) -> None:
    """Raise unless channels and classes of a net and a data set agree; warn of other names."""
    from .data import heads_of
    from .evaluation import pair_heads
    from .predict import check_channels

    check_channels(loaded, [dataset])
    pairs = pair_heads(list(loaded.heads), dataset)
    for name, head in heads_of(dataset).items():
        ours, theirs = loaded.heads[pairs[name]].classes, head.classes
        what = f"{dataset.name} ({name})" if name else dataset.name
        if len(ours) != len(theirs):
            raise CommandError(
                f"{path} tells {len(ours)} classes apart ({', '.join(ours)}), but {what} has "
                f"{len(theirs)} ({', '.join(theirs)}): choose the data that the net was trained for"
            )
        other = [f"{a} / {b}" for a, b in zip(ours, theirs, strict=True) if a != b]
        if other:
            complain(
                f"warning: {path} and {what} have other names for {len(other)} classes: "
                + ", ".join(other)
            )


def _check_allowed(allowed: bool, path: Path, dataset: Dataset, name: str) -> None:
    """Refuse an image that the net has learnt, unless that was asked for."""
    if not allowed:
        raise CommandError(
            f"{path} was trained on {name!r} of {dataset.name}: a score on images that a net has "
            "learnt says nothing about new ones; choose held-out images, or --allow-trained"
        )


def _check_counted(dataset: Dataset, totals: dict[str, ConfusionMatrix]) -> None:
    """Raise if there was nothing to measure."""
    if not any(matrix.matrix.any() for matrix in totals.values()):
        raise CommandError(
            f"{dataset.name}: not one pixel has a class: all {len(dataset)} labels hold only "
            f"{dataset.ignore_index}, the number for pixels to ignore"
        )


def _print_head(
    dataset: Dataset, head: str, totals: dict[str, ConfusionMatrix], bands: Bands, absent: Absent
) -> None:
    """Print the four metrics of one kind of labels, those in bands, and the classes."""
    from .data import heads_of
    from .evaluation import one_class_warning
    from .metrics import METRICS
    from .progress import class_table, new_table, print_table
    from .report import percent

    matrix, classes = totals[head], heads_of(dataset)[head].classes
    if len(totals) > 1:
        print(f"{head}:\n")
    for name, title in METRICS.items():
        print(f"{title:<16}{percent(matrix.summary(absent.value)[name]):>8}")
    print_table(class_table(matrix, classes))
    if bands.matrices[head]:
        table = new_table("at boundaries", ">pixels", *(f">{title}" for title in METRICS.values()))
        for width, near in bands.matrices[head].items():
            cells = (percent(value) for value in near.summary(absent.value).values())
            table.add_row(f"{width} px a side", f"{near.matrix.sum():,}", *cells)
        print_table(table)
    if warning := one_class_warning(matrix, classes):
        complain(f"warning: {warning}")


def _print_worst(cases: Sequence[Case]) -> None:
    """Print the worst images with their own scores."""
    from .progress import new_table, print_table
    from .report import percent

    table = new_table("worst images", ">mean IU", ">pixel accuracy")
    for case in cases:
        table.add_row(case.name, percent(case.mean_iu), percent(case.accuracy))
    print_table(table)


def _draw_confusion(path: Path, dataset: Dataset, totals: dict[str, ConfusionMatrix]) -> None:
    """Write a picture for each kind of labels: NAME.png, or NAME_HEAD.png if there are several."""
    from .confusion_picture import confusion_picture
    from .data import heads_of, save_image

    for head, matrix in totals.items():
        file = path.with_stem(f"{path.stem}_{head}") if len(totals) > 1 else path
        save_image(file, confusion_picture(matrix, heads_of(dataset)[head].classes))
        print(f"confusion matrix: see {file}")


def _numbers_of(
    dataset: Dataset, totals: dict[str, ConfusionMatrix], bands: Bands, absent: Absent
) -> dict[str, Any]:
    """Return all that was measured, ready for JSON; below "heads" if there are several."""
    from .data import heads_of
    from .evaluation import results

    found = {}
    for name, head in heads_of(dataset).items():
        near = {
            str(width): results(matrix, head.classes, absent.value)
            for width, matrix in bands.matrices[name].items()
        }
        found[name] = results(totals[name], head.classes, absent.value)
        found[name] |= {"bands": near} if near else {}
    return {"heads": found} if len(found) > 1 else next(iter(found.values()))
