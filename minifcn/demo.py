"""The demo: FCN-32s, then 16s, then 8s, learnt from satellite images in about two minutes."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from . import about, viz
from .baselines import evaluate_baselines
from .data import LANDCOVER, Dataset, landcover
from .data.fingerprint import fingerprints
from .data.images import save_image
from .json_file import write_json
from .models import FCN, LateFusion
from .predict import predict
from .prepare import check_folder, clear_folder
from .progress import learned, print_table, results_table
from .recipes import NETS, Recipe, plan
from .report import Example, Report, Row, percent, read_losses, write_report
from .train import Observer, TrainingError, run

DEMO_PREPROCESSING = LANDCOVER
DEMO_OPTIONS = {"widths": (24, 48, 64, 96, 96)}
DEMO_STAGES: dict[str, Recipe] = plan(
    NETS,
    "quick",
    steps=[280, 260, 900],
    # Seen from above nothing is up: every flip and turn of a tile is as good as the tile.
    flip_vertical=True,
    rotate=True,
)
TITLES = {
    "baseline_commonest": "commonest class",
    "baseline_colour": "colour lookup",
    "fcn32s": "FCN-32s",
    "fcn16s": "FCN-16s",
    "fcn8s": "FCN-8s",
}
TILES = {
    "60n-012e": "Norway and Sweden",
    "43n-021e": "The Balkans",
    "35n-012e": "Tunisia and Sicily",
    "26n-107w": "The north west of Mexico",
    "34s-149e": "The south east of Australia",
    "69n-022w": "Greenland and Iceland",
}
"""Held-out tiles to draw. They were chosen for their many classes, not for good results."""
OVERVIEW = 4  # so many of them stand in one picture, for a quick look


def run_demo(
    out: Path, seed: int = 0, observer: Observer | None = None, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Train three nets on land cover; write nets, metrics, pictures and report; print a table.

    Parameters
    ----------
    out
        A folder. It gets ``metrics.json``, ``report.html``, ``pictures/``, ``config.json``, and
        ``STAGE/best.safetensors``, ``last.safetensors``, ``log.jsonl`` and ``start.txt``. An
        earlier demo's files are replaced.
    seed
        The same seed gives the same nets on the same machine.
    observer
        Is told how the training goes; see `minifcn.train.Observer`.
    device
        Where to compute: "cpu", "cuda" or "cuda:N".

    Returns
    -------
    dict
        What ``metrics.json`` holds: for ``"fcn32s"``, ``"fcn16s"``, ``"fcn8s"``,
        ``"baseline_commonest"`` and ``"baseline_colour"`` each the four metrics.

    Raises
    ------
    TrainingError
        If ``out`` is a file or holds another run.
    """
    start = time.perf_counter()
    earlier = check_folder(out)
    if earlier and "baseline_colour" not in earlier:
        raise TrainingError(
            f"{out}: holds another run ({', '.join(earlier)}): choose another folder for the demo"
        )
    train_set, val_set = landcover("train"), landcover("val")
    print(
        f"Land cover from satellite images: {len(train_set)} tiles to learn from, {len(val_set)} "
        f"held out, {len(val_set.classes)} classes. First two baselines, then three nets.",
        flush=True,
    )
    baselines = evaluate_baselines(train_set, val_set)
    clear_folder(out)
    results = run(
        DEMO_STAGES,
        train_set,
        val_set,
        out,
        options=DEMO_OPTIONS,
        preprocessing=DEMO_PREPROCESSING,
        seed=seed,
        device=device,
        trained_on=fingerprints(train_set),
        observer=observer,
    )
    rows = {
        "baseline_commonest": Row(TITLES["baseline_commonest"], baselines["commonest class"]),
        "baseline_colour": Row(TITLES["baseline_colour"], baselines["colour lookup"]),
    }
    for name, result in results.items():
        rows[name] = Row(TITLES[name], result.matrix, result.seconds)
    metrics = {name: rows[name].matrix.summary() for name in (*results, *rows)}
    write_json(out / "metrics.json", metrics)
    nets = {name: result.model for name, result in results.items()}
    examples = draw(nets, val_set)
    write_pictures(examples, val_set, out / "pictures")
    command = shlex.join(["minifcn", "demo", "--out", str(out), "--seed", str(seed)])
    facts = {"command": command, "seed": str(seed), "device": device}
    facts |= {TITLES[name]: _told(recipe, nets[name]) for name, recipe in DEMO_STAGES.items()}
    facts["time"] = f"{time.perf_counter() - start:.0f} seconds in all"
    facts |= about.machine() | {"processor": about.processor()}
    facts["data"] = f"{len(train_set)} tiles to learn from, {len(val_set)} held out"
    report = Report(
        title="Land cover from satellite images",
        summary=_summary(rows),
        rows=list(rows.values()),
        classes=val_set.classes,
        palette=val_set.palette,
        losses={TITLES[name]: read_losses(out / name / "log.jsonl") for name in results},
        examples=examples,
        facts=facts,
    )
    write_report(out / "report.html", report)
    print_table(results_table(list(rows.values())))
    best = out / "fcn8s" / "best.safetensors"
    print(
        f"Next: open {out / 'report.html'}; label an image of yours with 'minifcn predict "
        f"{shlex.quote(str(best))} IMAGE --out labelled'; or train longer, for better results, as "
        "'minifcn train --help' shows."
    )
    return metrics


def draw(nets: Mapping[str, FCN | LateFusion], val_set: Dataset) -> list[Example]:
    """Return image, truth and each net's answer for the tiles to draw."""
    samples = {sample.name: sample for sample in val_set}  # type: ignore[attr-defined]
    examples = []
    for tile, place in TILES.items():
        image, label, _ = samples[tile]
        pictures = {"image": Image.fromarray(image)}
        pictures["truth"] = viz.colour_label(label, val_set.palette)
        for name, net in nets.items():
            answer = predict(net, image, DEMO_PREPROCESSING)
            pictures[TITLES[name]] = viz.colour_label(answer, val_set.palette)
        examples.append(Example(tile, place, pictures))
    return examples


def write_pictures(examples: Sequence[Example], val_set: Dataset, folder: Path) -> None:
    """Write a PNG for each example, and ``overview.png`` with the first few of them."""
    folder.mkdir(exist_ok=True)
    titles = list(examples[0].pictures)
    legend = viz.legend(val_set.classes, val_set.palette, ignored=True, max_width=1000)
    files = {f"{example.name}.png": [example] for example in examples}
    for name, shown in {**files, "overview.png": examples[:OVERVIEW]}.items():
        rows = [list(example.pictures.values()) for example in shown]
        names = [example.name for example in shown]
        save_image(folder / name, viz.panel(rows, titles, names=names, legend=legend))


def _summary(rows: Mapping[str, Row]) -> str:
    """Say in a few sentences what came out."""
    last, colour = rows["fcn8s"].matrix, rows["baseline_colour"].matrix
    return (
        "Three fully convolutional networks learnt to name the land cover of every pixel: FCN-32s, "
        "then FCN-16s and FCN-8s, each starting from the one before and adding a finer skip. On "
        f"tiles that none of them had seen, FCN-8s gives {percent(last.pixel_accuracy())} of the "
        f"pixels their true class, at a mean IU of {percent(last.mean_iu())}. A lookup by colour, "
        f"which sees one pixel at a time, reaches {percent(colour.pixel_accuracy())} and "
        f"{percent(colour.mean_iu())}."
    )


def _told(recipe: Recipe, net: FCN | LateFusion) -> str:
    return (
        f"{learned(net):,} parameters, {recipe.steps} steps of {recipe.batch_size} images, "
        f"learning rate {recipe.lr:g}"
    )
