"""Labelling images with a trained net: one array, files, or the images of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .backend import Error, to_device
from .data import (
    Dataset,
    Preprocessing,
    channels_in_words,
    read_image,
    save_label,
    streams_of,
)
from .data.folder import IMAGE_ENDINGS
from .data.images import save_image
from .data.names import check_inside, file_parts, same_file_key
from .display import Labelled
from .labelling import PredictionError, most_likely, read_meanwhile
from .nn import Module
from .parallel import ALONE, Ranks
from .sample_pictures import first_picture
from .tiling import Tile, TileSize, cut
from .viz import annotated
from .weights import Loaded

Source: TypeAlias = Path | Dataset  # of images: a file, or all those of a data set


class Prediction(NamedTuple):
    """An image, and the files made of it: two for each head of the net.

    Attributes
    ----------
    image
        The file that was read, or the data set and the name of the image.
    labels
        PNGs of class numbers, in the classes' colours, by head.
    overlays
        PNGs of the image under the colours, with a legend, by head.
    tiles
        The parts of the image that the net saw, one if it saw it as a whole.
    """

    image: Path | str
    labels: dict[str, Path]
    overlays: dict[str, Path]
    tiles: tuple[Tile, ...] = ()


class Job(NamedTuple):
    """What is to be done for an image."""

    result: Prediction
    read: Callable[[], np.ndarray]  # returns the image, (H, W, C)


def predict(
    model: Module,
    image: np.ndarray,
    preprocessing: Preprocessing,
    device: str | None = None,
    *,
    tile: TileSize = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Return the most likely class of each pixel of an image.

    Parameters
    ----------
    model
        A net from (1, C, H, W) to scores (1, K, H, W), or to a dictionary of these by head.
    image
        uint8 (H, W, 3), red, green, blue, of any size (`minifcn.data.read_image` gives this); for
        nets that take other channels as in a `minifcn.data.Sample`.
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
        uint8 (H, W), class numbers. A net with several heads gives a dictionary of these.

    Raises
    ------
    PredictionError
        If the image is not one image, does not fit into memory, or makes the scores overflow.
    DataError
        If the image has not the type or the channels that the net was trained with.
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
            f"image has shape {image.shape}: it must be (H, W, {preprocessing.channels}), with at "
            "least one pixel"
        )
    _move(model, device)
    parts = cut(model, image.shape[0], image.shape[1], tile)
    labels = most_likely(model, image, preprocessing, parts, progress)
    return labels.get("", labels)


def labelled(
    loaded: Loaded,
    image: np.ndarray,
    device: str | None = None,
    *,
    tile: TileSize = "auto",
) -> Any:
    """Label an image, as `predict` does, and return what a notebook shows in colours.

    Parameters
    ----------
    loaded
        The net and its facts, from `minifcn.weights.load`.
    image, device, tile
        As for `predict`.

    Returns
    -------
    minifcn.display.Labelled
        Its ``label`` holds the class numbers. A net with several heads gives a dictionary of these.

    Examples
    --------
    >>> from minifcn import data, models
    >>> colours = np.array([(0, 0, 255), (0, 128, 0)], np.uint8)
    >>> net = Loaded(models.fcn8s(2, "small"), ("sea", "land"), colours, data.UNIT, "")
    >>> labelled(net, np.zeros((30, 50, 3), np.uint8))
    Labelled(30 x 50 pixels: sea 100.0 %)
    """
    found = predict(loaded.model, image, loaded.preprocessing, device, tile=tile)
    by_head = found if isinstance(found, dict) else {"": found}
    picture = first_picture(image, loaded.model.streams)
    shown = {
        name: Labelled(picture, by_head[name], head.classes, head.palette)
        for name, head in loaded.heads.items()
    }
    return shown.get("", shown)


def _move(model: Module, device: str | None) -> None:
    """Move a net to a device, if one is named; the error for a wrong name is that of a device."""
    if device:
        to_device(np.zeros(1), device)
        model.to(device)


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


def plan(sources: Sequence[Source], out: Path, heads: Sequence[str] = ("",)) -> list[Job]:
    """Return what would be done, after checking that no result overwrites another or an image.

    The results of the first head are called NAME.png and NAME_overlay.png, those of the others
    NAME_HEAD.png and NAME_HEAD_overlay.png.

    Raises
    ------
    PredictionError
        If two images would have results of one name, capitals aside, or a result would replace an
        image.
    UnsafeNameError
        If the name of an image leads out of the folder, or no file can be called so.
    """
    wanted: dict[str, Path | str] = {}
    jobs, originals = [], set()
    for image, name, files, read in _images(sources):
        labels, overlays = {}, {}
        for number, head in enumerate(heads):
            *folders, last = file_parts(f"{name}_{head}" if number else name)
            place = out.joinpath(*folders)
            check_inside(out, place / last)
            labels[head], overlays[head] = place / f"{last}.png", place / f"{last}_overlay.png"
        jobs.append(Job(Prediction(image, labels, overlays), read))
        originals |= {file.resolve() for file in files}
    for result, _ in jobs:
        for file in (*result.labels.values(), *result.overlays.values()):
            other = wanted.setdefault(same_file_key(file), result.image)
            if other != result.image:
                raise PredictionError(
                    f"{other} and {result.image} would both be written to {file}: rename one of "
                    "them, or write them to different folders"
                )
            if file.resolve() in originals:
                raise PredictionError(
                    f"{file} is one of the images, and the result of {result.image} would replace "
                    "it: choose another folder for the results"
                )
    return jobs


def _images(
    sources: Sequence[Source],
) -> Iterator[tuple[Path | str, str, Iterable[Path], Callable[[], np.ndarray]]]:
    """Yield each image once: what it is, the name for its results, its files, how to read it."""
    seen: set[Path] = set()
    for source in sources:
        if isinstance(source, Path):
            if source not in seen:
                seen.add(source)
                yield source, source.stem, [source], partial(read_image, source)
            continue
        items = getattr(source, "items", None)
        for index in range(len(source)):
            # Names and files are known without reading, where a data set is one of files.
            name = items[index].name if items else source[index].name
            files = (*items[index].images, *items[index].labels) if items else ()
            yield f"{source.name}: {name}", name, files, partial(_image_of, source, index)


def _image_of(dataset: Dataset, index: int) -> np.ndarray:
    return dataset[index].image


def check_channels(loaded: Loaded, sources: Iterable[Source]) -> None:
    """Make sure that a net takes the channels that images have.

    Raises
    ------
    PredictionError
        With the channels of both.
    """
    takes = loaded.model.streams
    for source in sources:
        if isinstance(source, Path):
            if list(takes.values()) != [3]:
                raise PredictionError(
                    f"{source}: the net takes images with {channels_in_words(takes)} channels, "
                    "and an image file is read as three (red, green, blue): name the data set that "
                    "has all of them, such as nyud:PATH?split=test&input=color+hha"
                )
        elif streams_of(source) != takes:
            raise PredictionError(
                f"{source.name}: its images have {channels_in_words(streams_of(source))} channels, "
                f"the net takes {channels_in_words(takes)}: choose the data that it was trained for"
            )


def predict_files(
    loaded: Loaded,
    images: Sequence[Source],
    out: str | Path,
    *,
    device: str | None = None,
    tile: TileSize = "auto",
    progress: Callable[[float, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> list[Prediction]:
    """Label images: write NAME.png and NAME_overlay.png into a folder for each.

    NAME.png holds class numbers and shows them in the classes' colours. NAME_overlay.png shows the
    image under the colours, with a legend of the classes that occur and their shares. For further
    heads of the net see `plan`.

    Parameters
    ----------
    loaded
        The net and its facts, from `minifcn.weights.load`.
    images
        Files in any image format and colour mode (`find_images` lists those in a folder), and data
        sets; of these only the images are used.
    out
        The folder, made if it is not there. Results of an earlier run are replaced, images never.
    device, tile
        As for `predict`.
    progress
        Is called as ``progress(done, total)`` after each image, and after each tile of it, when
        ``done`` is not a whole number.
    ranks
        Of several processes, each labels its share of the images; all return all results.

    Raises
    ------
    PredictionError
        Before anything is written, if images have other channels than the net takes, if results
        would collide (see `plan`) or the folder cannot be made. After all others are done, if
        several images cannot be read.
    DataError
        The same, if a single image cannot be read.
    WriteError
        If a result cannot be written.
    """
    out, heads = Path(out), loaded.heads
    check_channels(loaded, images)
    jobs = plan(images, out, list(heads))
    for folder in {file.parent for job in jobs for file in job.result.labels.values()} | {out}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise PredictionError(f"{folder}: this folder cannot be made: {reason}") from error
    _move(loaded.model, device)
    done: dict[int, Prediction] = {}
    unreadable: dict[int, Error] = {}

    def read(number: int) -> tuple[int, np.ndarray | Error]:
        try:
            return number, jobs[number].read()
        except Error as error:  # one bad file must not cost the work on the others
            return number, error

    with closing(read_meanwhile(loaded.model, read, ranks.share(len(jobs)))) as images_read:
        for number, image in images_read:
            if isinstance(image, Error):
                unreadable[number] = image
            else:
                result = jobs[number].result
                parts = cut(loaded.model, image.shape[0], image.shape[1], tile)
                by_tile = _within(progress, number, len(jobs))
                found = most_likely(loaded.model, image, loaded.preprocessing, parts, by_tile)
                picture = first_picture(image, loaded.model.streams)
                for (name, head), label in zip(heads.items(), found.values(), strict=True):
                    save_label(result.labels[name], label, head.palette)
                    save_image(result.overlays[name], annotated(picture, label, *head), quick=True)
                done[number] = result._replace(tiles=tuple(parts))
            if progress:
                progress(number + 1, len(jobs))
    for theirs, errors in ranks.gather((done, unreadable)):
        done |= theirs
        unreadable |= errors
    if len(unreadable) == 1:
        raise next(iter(unreadable.values()))
    if unreadable:
        several = PredictionError(f"{len(unreadable)} of {len(jobs)} images could not be read")
        for _, each in sorted(unreadable.items()):
            several.add_note(str(each))
        raise several
    return [done[number] for number in sorted(done)]


def _within(
    progress: Callable[[float, int], None] | None, number: int, images: int
) -> Callable[[int, int], None]:
    """Return a function that is told about an image's tiles, and tells about all images."""

    def tell(done: int, tiles: int) -> None:
        if progress and done < tiles:  # the last tile is not yet a finished image
            progress(number + done / tiles, images)

    return tell
