"""The command ``minifcn predict``: the classes of the pixels of images, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    CommandError,
    Device,
    Precision,
    Weights,
    check_precision,
    complain,
    join_others,
)

if TYPE_CHECKING:
    from .predict import Source

EXAMPLES = """Examples:

[cyan]minifcn predict demo/fcn8s/best.safetensors photos --out labelled[/]

[cyan]minifcn predict net.safetensors "nyud:NYUD?split=test&input=color+hha" --out labelled[/]"""


def predict(
    weights: Weights,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER|SPEC",
            help="Image files, folders of them, or data sets with a split, such as "
            "landcover?split=val.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default=False)],
    device: Device = "auto",
    precision: Precision = None,
    tile: Annotated[
        str,
        typer.Option(
            metavar="auto|off|N",
            help="Let the net see tiles of N pixels a side at most; auto: only if the memory that "
            "is free calls for it.",
        ),
    ] = "auto",
) -> None:
    """Label images: for each, write class numbers (NAME.png) and a picture (NAME_overlay.png)."""
    from .gpu_memory import taken
    from .predict import predict_files
    from .progress import show_progress
    from .weights import load_fcn

    size, ranks = _tile_size(tile), join_others()
    check_precision(precision, device)
    sources = _sources(images)
    with show_progress("reading weights") as progress:
        loaded = load_fcn(weights, progress=progress)
    with show_progress("images") as progress:
        done = predict_files(
            loaded,
            sources,
            out,
            device=ranks.device(device),
            tile=size,
            progress=progress,
            ranks=ranks,
        )
    if memory := taken(ranks.device(device)):
        complain(memory)
    for job in done:
        if len(job.tiles) > 1:
            rows, columns = job.tiles[0]
            print(
                f"{job.image}: the net saw {len(job.tiles)} tiles of at most {rows.size} x "
                f"{columns.size} pixels (height x width)"
            )
    made = [*done[0].labels.values(), *done[0].overlays.values()]
    some = ", ".join(str(file.relative_to(out)) for file in made)
    print(f"{len(done)} image{'s' * (len(done) != 1)} labelled: see {out} ({some})")


def _sources(images: list[str]) -> list[Source]:
    """Return the image files and data sets that arguments name, in their order."""
    from .data import open_dataset
    from .data.sources import SOURCES
    from .predict import find_images

    sources: list[Source] = []
    for text in images:
        kind = text.partition("?")[0].partition(":")[0]
        if kind in SOURCES and not Path(text).exists():
            sources.append(open_dataset(text))
            continue
        files, skipped = find_images([text])
        sources += files
        for path in skipped:
            complain(f"skipped {path}: {'a folder' if path.is_dir() else 'not an image'}")
    return sources


def _tile_size(text: str) -> Any:
    """Return what ``--tile`` means: "auto", None for off, or a number."""
    number = text.isdecimal() and len(text) < 10
    if text not in ("auto", "off") and not (number and int(text) > 0):
        raise CommandError(f"--tile {text}: it must be auto, off, or a number of pixels, as 1024")
    return int(text) if number else {"off": None}.get(text, text)
