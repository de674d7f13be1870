"""The command ``minifcn export``: a net as a file for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import CommandError, Weights, check_new, height_and_width

if TYPE_CHECKING:
    from .weights import Loaded

EXAMPLES = (
    "Examples: [cyan]minifcn export net.safetensors net.onnx[/], "
    "[cyan]minifcn export net.safetensors net.npz --style chainer[/], "
    "[cyan]minifcn export net.safetensors net.caffemodel --size 375x500[/]"
)
ENDINGS = (".onnx", ".npz", ".caffemodel", ".prototxt")


class Style(StrEnum):
    """Whose names the arrays of an archive have."""

    minifcn = "minifcn"
    chainer = "chainer"


def export(
    weights: Weights,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The file: .onnx, .npz, or .caffemodel, which gets a .prototxt beside it.",
            show_default=False,
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Height and width of the images. If not given, .onnx takes images of any size, "
            "and .caffemodel of 500 x 500 pixels; classifiers have their own.",
        ),
    ] = None,
    style: Annotated[
        Style | None,
        typer.Option(
            help="Names in .npz: conv1_1.weight, or Chainer's conv1_1/W.",
            show_default="minifcn",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Compare an .onnx file with the net, if onnxruntime is installed.",
        ),
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Write a net for onnxruntime, NumPy and Chainer, or Caffe and OpenCV."""
    from . import weights as files

    ending = out.suffix.lower()
    if ending not in ENDINGS:
        raise CommandError(
            f"{out}: its ending says what to write: it must be one of {', '.join(ENDINGS)}"
        )
    if size is not None and ending == ".npz":
        raise CommandError(f"--size {size}: {out} holds arrays alone, which fit all sizes")
    if style is not None and ending != ".npz":
        raise CommandError(f"--style {style}: is for .npz files only, not for {out}")
    pixels = None if size is None else height_and_width(size)
    caffe = ending in (".caffemodel", ".prototxt")
    made = [out.with_suffix(e) for e in (".prototxt", ".caffemodel")] if caffe else [out]
    for path in made:
        check_new(path, overwrite)
    loaded = files.load(weights)
    names = " and ".join(map(str, made))
    print(f"{weights}: {files.title(loaded.model.config)}")
    if ending == ".onnx":
        facts = _write_onnx(loaded, out, pixels, check)
    elif ending == ".npz":
        facts = _write_npz(loaded, out, style or Style.minifcn)
    else:
        facts = _write_caffe(loaded, made[1], pixels)
    total = sum(path.stat().st_size for path in made)
    print(f"{names}: {total / 1e6:.1f} MB; {facts}")


def _write_onnx(loaded: Loaded, out: Path, size: tuple[int, int] | None, check: bool) -> str:
    """Write an ONNX file; return what is to say of it."""
    from .weights.writers.facts import in_words
    from .weights.writers.onnx import OPSET, write_onnx
    from .weights.writers.onnx_check import check_with_onnxruntime, onnxruntime_is_there

    facts: dict[str, Any] = {
        "preprocessing": loaded.preprocessing,
        "classes": loaded.classes,
        "palette": loaded.palette,
        "origin": loaded.origin,
    }
    graph = write_onnx(loaded.model, out, size=size, **facts)
    arrays = [("image", graph.image), *graph.scores.items()]
    image, *scores = (f"{name} ({', '.join(map(str, dims))})" for name, dims in arrays)
    lines = [
        f"ONNX, opset {OPSET}",
        f"  input   {image}: {in_words(loaded.preprocessing)}",
        *(f"  output  {score}" for score in scores),
    ]
    if not check:
        lines.append("  not checked")
    elif onnxruntime_is_there():
        difference = check_with_onnxruntime(loaded.model, graph, out)
        lines.append(f"  checked with onnxruntime: scores as here, to {difference:.0e}")
    else:
        lines.append("  not checked: onnxruntime is not installed (pip install onnxruntime)")
    return "\n".join(lines)


def _write_npz(loaded: Loaded, out: Path, style: Style) -> str:
    """Write an archive of arrays; return what is to say of it."""
    from .weights.writers.facts import in_words
    from .weights.writers.npz import write_npz

    names = write_npz(loaded.model, out, style=style.value)
    return (
        f"{len(names)} arrays: {names[0]}, {names[1]}, ...\n"
        f"  It has no place for the input's rule: {in_words(loaded.preprocessing)}\n"
        f"  nor for the names of the classes: {', '.join(loaded.classes)}"
    )


def _write_caffe(loaded: Loaded, out: Path, size: tuple[int, int] | None) -> str:
    """Write a net for Caffe; return what is to say of it."""
    from .weights.writers.caffe import write_caffe
    from .weights.writers.facts import in_words

    facts: dict[str, Any] = {"preprocessing": loaded.preprocessing, "classes": loaded.classes}
    write_caffe(loaded.model, out, size=size, **facts)
    return f"Caffe\n  input   data: {in_words(loaded.preprocessing)}"
