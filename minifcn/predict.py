"""Labelling images with a trained net: one array, or files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .autograd import Tensor
from .backend import Error, to_device, to_numpy, xp_of
from .data import Preprocessing, read_image, save_label
from .data.folder import IMAGE_ENDINGS
from .data.images import save_image
from .nn import Module, evaluation_mode
from .tiling import Tile, TileSize, cut
from .viz import annotated
from .weights import Loaded

ROWS = 64  # whose classes are found at a time


class PredictionError(Error, ValueError):
    """Images that cannot be labelled, or results that must not be written."""


class Prediction(NamedTuple):
    """An image file, and the two files made of it.

    Attributes
    ----------
    image
        What was read.
    label
        PNG of class numbers, in the classes' colours.
    overlay
        PNG of the image under the colours, with a legend.
    tiles
        The parts of the image that the net saw, one if it saw it as a whole.
    """

    image: Path
    label: Path
    overlay: Path
    tiles: tuple[Tile, ...] = ()


def predict(
    model: Module,
    image: np.ndarray,
    preprocessing: Preprocessing,
    device: str | None = None,
    *,
    tile: TileSize = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the most likely class of each pixel of an image.

    Parameters
    ----------
    model
        A net from (1, 3, H, W) to scores (1, K, H, W).
    image
        uint8 (H, W, 3), red, green, blue, of any size (`minifcn.data.read_image` gives this).
    preprocessing
        What the net was trained with; a weight file holds it.
    device
        Where to compute: the model is moved there, and stays. None: where it is.
    tile
        How much of the image the net sees at a time: see `minifcn.tiling.cut`.
    progress
        Is called as ``progress(done, total)`` after each tile.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W), class numbers.

    Raises
    ------
    PredictionError
        If the image is not one image, does not fit into memory, or makes the scores overflow.
    DataError
        If the image is not uint8 with three channels.
    TilingError
        If this net cannot be given such tiles.

    Examples
    --------
    >>> from minifcn import data, models
    >>> net = models.fcn8s(4, "small")
    >>> predict(net, np.zeros((30, 50, 3), np.uint8), data.UNIT).shape
    (30, 50)
    """
    if image.ndim != 3 or image.size == 0:
        raise PredictionError(
            f"image has shape {image.shape}: it must be (H, W, 3), with at least one pixel"
        )
    _move(model, device)
    parts = cut(model, image.shape[0], image.shape[1], tile)
    return _label(model, image, preprocessing, parts, progress)


def _move(model: Module, device: str | None) -> None:
    """Move a net to a device, if one is named; the error for a wrong name is that of a device."""
    if device:
        to_device(np.zeros(1), device)
        model.to(device)


def _label(
    model: Module,
    image: np.ndarray,
    preprocessing: Preprocessing,
    parts: Sequence[Tile],
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Return the most likely class of each pixel, part by part: see `predict`."""
    label = np.empty(image.shape[:2], np.uint8)
    for done, tile in enumerate(parts, start=1):
        _label_part(model, image, preprocessing, tile, label)
        if progress:
            progress(done, len(parts))
    return label


def _label_part(
    model: Module, image: np.ndarray, preprocessing: Preprocessing, tile: Tile, label: np.ndarray
) -> None:
    """Write the classes of a tile to label (H, W); the scores end here, before the next tile's."""
    rows, columns = tile
    seen = image[rows.seen, columns.seen]
    first = next(iter(model.parameters()))
    try:
        # (h, w, 3) -> (1, 3, h, w), with the net's kind of numbers, where the net is
        x = preprocessing(seen)[None].astype(first.dtype, copy=False)
        with evaluation_mode(model):
            scores = model(Tensor(to_device(x, first.device))).data
    except MemoryError as error:
        raise PredictionError(
            f"an image of {seen.shape[0]} x {seen.shape[1]} pixels (height x width) needs more "
            f"memory than there is ({error}): make it smaller, or use (smaller) tiles"
        ) from error
    scores, kept = scores[0, :, rows.inner, columns.inner], label[rows.kept, columns.kept]
    if not xp_of(scores).isfinite(scores.max()):
        raise PredictionError(
            "the net's scores are not finite: its weights have overflowed, or it was trained with "
            "another preprocessing"
        )
    for top in range(0, len(kept), ROWS):  # argmax takes memory for a copy, and for 64 bits a pixel
        some = slice(top, top + ROWS)
        kept[some] = to_numpy(
            scores[:, some].argmax(axis=0).astype(np.uint8)
        )  # (K, h, w) -> (h, w)


def find_images(inputs: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Return the image files among files and folders, and what was passed over in the folders.

    Of a folder, all images directly in it are taken, in the order of their names. A file that is
    named itself is taken whatever its ending. Hidden files are left out silently.

    Raises
    ------
    PredictionError
        If a path does not exist, or a folder holds no image.
    """
    images: list[Path] = []
    skipped: list[Path] = []
    for path in map(Path, inputs):
        if not path.exists():
            raise PredictionError(f"{path}: no such file or folder")
        if not path.is_dir():
            images.append(path)
            continue
        files = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
        found = [f for f in files if f.suffix.lower() in IMAGE_ENDINGS and f.is_file()]
        if not found:
            raise PredictionError(
                f"{path}: no images in this folder (files ending in {' '.join(IMAGE_ENDINGS)})"
            )
        images += found
        skipped += [file for file in files if file not in found]
    return images, skipped


def plan(images: Sequence[Path], out: Path) -> list[Prediction]:
    """Return which files would be made, after checking that none overwrites another or an image.

    Raises
    ------
    PredictionError
        If two images would have results of one name, or a result would replace an image.
    """
    wanted: dict[Path, Path] = {}
    originals = {image.resolve() for image in images}
    jobs = [
        Prediction(image, out / f"{image.stem}.png", out / f"{image.stem}_overlay.png")
        for image in dict.fromkeys(images)
    ]
    for job in jobs:
        for result in (job.label, job.overlay):
            other = wanted.setdefault(result, job.image)
            if other != job.image:
                raise PredictionError(
                    f"{other} and {job.image} would both be written to {result}: rename one of "
                    "them, or write them to different folders"
                )
            if result.resolve() in originals:
                raise PredictionError(
                    f"{result} is one of the images, and the result of {job.image} would replace "
                    "it: choose another folder for the results"
                )
    return jobs


def predict_files(
    loaded: Loaded,
    images: Sequence[Path],
    out: str | Path,
    *,
    device: str | None = None,
    tile: TileSize = "auto",
    progress: Callable[[float, int], None] | None = None,
) -> list[Prediction]:
    """Label image files: write NAME.png and NAME_overlay.png into a folder for each.

    NAME.png holds class numbers and shows them in the classes' colours. NAME_overlay.png shows the
    image under the colours, with a legend of the classes that occur and their shares.

    Parameters
    ----------
    loaded
        The net and its facts, from `minifcn.weights.load`.
    images
        Files in any image format and colour mode; `find_images` lists those in a folder.
    out
        The folder, made if it is not there. Results of an earlier run are replaced, images never.
    device, tile
        As for `predict`.
    progress
        Is called as ``progress(done, total)`` after each image, and after each tile of it, when
        ``done`` is not a whole number.

    Raises
    ------
    PredictionError
        Before anything is written, if results would collide (see `plan`) or the folder cannot be
        made. After all others are done, if several images cannot be read.
    DataError
        The same, if a single image cannot be read; and if a result cannot be written.
    """
    out = Path(out)
    jobs = plan(images, out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PredictionError(
            f"{out}: this folder cannot be made: {error.strerror or error}"
        ) from error
    _move(loaded.model, device)
    done, unreadable = [], []
    for number, job in enumerate(jobs):
        try:
            image = read_image(job.image)
        except Error as error:  # one bad file must not cost the work on the others
            unreadable.append(error)
        else:
            parts = cut(loaded.model, image.shape[0], image.shape[1], tile)
            by_tile = _within(progress, number, len(jobs))
            label = _label(loaded.model, image, loaded.preprocessing, parts, by_tile)
            save_label(job.label, label, loaded.palette)
            save_image(job.overlay, annotated(image, label, loaded.classes, loaded.palette))
            done.append(job._replace(tiles=tuple(parts)))
        if progress:
            progress(number + 1, len(jobs))
    if len(unreadable) == 1:
        raise unreadable[0]
    if unreadable:
        several = PredictionError(f"{len(unreadable)} of {len(jobs)} images could not be read")
        for each in unreadable:
            several.add_note(str(each))
        raise several
    return done


def _within(
    progress: Callable[[float, int], None] | None, number: int, images: int
) -> Callable[[int, int], None]:
    """Return a function that is told about an image's tiles, and tells about all images."""

    def tell(done: int, tiles: int) -> None:
        if progress and done < tiles:  # the last tile is not yet a finished image
            progress(number + done / tiles, images)

    return tell
