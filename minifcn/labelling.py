"""What a net makes of an image: the most likely class of each pixel.

Large images are seen in tiles, one after the other. A net may also look at an image in several
sizes, and mirrored; then the mean of what it says decides (`averaged`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from . import functional as F
from .autograd import Tensor
from .backend import FEWER_IMAGES, Array, Error, is_numpy, on_device, to_device, to_numpy, xp_of
from .data import Preprocessing
from .data.ahead import by_threads
from .nn import Module, evaluation_mode
from .tiling import Tile, cut

ROWS = 64  # whose classes are found at a time
AHEAD = 2  # images that are read while a GPU works

Read = TypeVar("Read")


class PredictionError(Error, ValueError):
    """Images that cannot be labelled, or results that must not be written."""


def most_likely(
    model: Module,
    image: np.ndarray,
    preprocessing: Preprocessing,
    parts: Sequence[Tile],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return the most likely class of each pixel, by head; the name is "" if there is only one.

    Parameters
    ----------
    model
        A net from (1, C, H, W) to scores (1, K, H, W), or to a dictionary of scores by head.
    image
        (H, W, C), as in a `minifcn.data.Sample`.
    preprocessing
        What the net was trained with.
    parts
        What the net sees at a time: see `minifcn.tiling.cut`.
    progress
        Is called as ``progress(done, total)`` after each part.

    Returns
    -------
    dict of numpy.ndarray
        uint8 (H, W) each, class numbers.

    Raises
    ------
    PredictionError
        If the image does not fit into memory, or makes the scores overflow.

    Examples
    --------
    >>> from minifcn import data, models
    >>> net = models.fcn8s({"sky": 2, "kind": 5}, "small")
    >>> labels = most_likely(net, np.zeros((30, 50, 3), np.uint8), data.UNIT, cut(net, 30, 50))
    >>> labels["kind"].shape
    (30, 50)
    """
    labels: dict[str, np.ndarray] = {}
    for done, tile in enumerate(parts, start=1):
        x = preprocessing(image[tile.rows.seen, tile.columns.seen])  # (h, w, C) -> (C, h, w)
        for head, scores in _scores(model, x, tile).items():
            label = labels.setdefault(head, np.empty(image.shape[:2], np.uint8))
            kept = label[tile.rows.kept, tile.columns.kept]
            # argmax takes memory for a copy, and for 64 bits a pixel: so by a few rows. A GPU has
            # it to spare, and would be waited for each time.
            rows = ROWS if is_numpy(scores) else len(kept)
            with on_device(scores):
                for top in range(0, len(kept), rows):
                    some = slice(top, top + rows)
                    # (K, h, w) -> (h, w)
                    kept[some] = to_numpy(scores[:, some].argmax(axis=0).astype(np.uint8))
            del scores  # before those of the next tile
        if progress:
            progress(done, len(parts))
    return labels


def read_meanwhile(
    model: Module, read: Callable[[int], Read], numbers: Iterable[int]
) -> Generator[Read, None, None]:
    """Yield ``read(number)`` for each number in turn, for a net that is to label what was read.

    While a GPU computes, a thread reads the next images: decoding a photograph takes about as long
    as a net there. On a CPU each is read when it is its turn: the net has all processors at work,
    and loses more to the thread than that would gain.

    >>> from minifcn import models
    >>> list(read_meanwhile(models.fcn32s(4, "small"), lambda number: f"{number}.png", range(2)))
    ['0.png', '1.png']
    """
    on_cpu = is_numpy(next(iter(model.parameters())).data)
    return by_threads(read, numbers, 0 if on_cpu else AHEAD)


def averaged(
    model: Module,
    image: np.ndarray,
    preprocessing: Preprocessing,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> dict[str, np.ndarray]:
    """Return mean probabilities of each class over several views of an image, by head.

    A view is the image enlarged by one of the ``scales`` and, with ``flip``, its mirror image::

        p(image) = mean over views v of  v⁻¹( softmax( net( v(image) ) ) )

    Here v⁻¹ brings the probabilities back to the image's pixels: it mirrors them exactly, and
    enlarges them bilinearly (where it makes them smaller, it takes the mean of what lies together).

    Returns
    -------
    dict of numpy.ndarray
        float32 (K, H, W) each. The class of a pixel is that of the largest probability.

    Raises
    ------
    PredictionError
        If the image does not fit into memory, or makes the scores overflow.
    ShapeError
        If a view is too small for the net.

    Examples
    --------
    >>> from minifcn import data, models
    >>> image = np.zeros((30, 50, 3), np.uint8)
    >>> found = averaged(models.fcn8s(4, "small"), image, data.UNIT, scales=(1, 1.5), flip=True)
    >>> found[""].shape, found[""][:, 0, 0].tolist()
    ((4, 30, 50), [0.25, 0.25, 0.25, 0.25])
    """
    total: dict[str, np.ndarray] = {}
    count = 0
    for mirrored in (False, True)[: 1 + flip]:
        x = preprocessing(np.ascontiguousarray(image[:, ::-1]) if mirrored else image)
        for scale in scales:
            height, width = (max(1, round(scale * side)) for side in x.shape[1:])
            for head, likely in _probabilities(model, resized(x, (height, width))).items():
                likely = resized(likely, image.shape[:2])
                likely = likely[:, :, ::-1] if mirrored else likely
                total[head] = total[head] + likely if head in total else likely
            count += 1
    return {head: likely / np.float32(count) for head, likely in total.items()}


def resized(maps: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return maps (C, H, W) in another size (height, width), each bilinearly, as float32.

    >>> resized(np.array([[[0.0, 1.0]]]), (1, 4)).tolist()
    [[[0.0, 0.25, 0.75, 1.0]]]
    """
    if maps.shape[1:] == tuple(size):
        return maps
    height, width = size
    bilinear = Image.Resampling.BILINEAR
    pictures = (Image.fromarray(np.ascontiguousarray(each, np.float32)) for each in maps)
    return np.stack([np.asarray(p.resize((width, height), bilinear)) for p in pictures])


def _probabilities(model: Module, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return the probabilities (K, h, w), by head, of a net's input (C, h, w)."""
    whole: dict[str, np.ndarray] = {}
    for tile in cut(model, x.shape[1], x.shape[2]):
        for head, scores in _scores(model, x[:, tile.rows.seen, tile.columns.seen], tile).items():
            likely = to_numpy(F.softmax(scores, 0)).astype(np.float32, copy=False)
            there = whole.setdefault(head, np.empty((len(likely), *x.shape[1:]), np.float32))
            there[:, tile.rows.kept, tile.columns.kept] = likely
    return whole


def _scores(model: Module, x: np.ndarray, tile: Tile) -> dict[str, Array]:
    """Return the scores (K, h, w), by head, of those pixels of a tile's input that are kept."""
    found = outputs(model, x)
    return {head: scores[:, tile.rows.inner, tile.columns.inner] for head, scores in found.items()}


def outputs(model: Module, x: np.ndarray) -> dict[str, Array]:
    """Return what a net puts out for one input, by head; the name is "" if there is only one.

    Parameters
    ----------
    model
        The net; nothing is recorded and nothing dropped out.
    x
        (C, H, W), what the preprocessing makes of an image.

    Returns
    -------
    dict of arrays
        Scores (K, H, W), or (K,) of a classifier, where the net is.

    Raises
    ------
    PredictionError
        If the memory does not suffice, or the scores are not finite.

    Examples
    --------
    >>> from minifcn import models
    >>> outputs(models.fcn32s(4, "small"), np.zeros((3, 30, 50), np.float32))[""].shape
    (4, 30, 50)
    """
    first = next(iter(model.parameters()))
    try:
        # With the net's kind of numbers, where the net is: (C, H, W) -> (1, C, H, W)
        batch = to_device(x[None].astype(first.dtype, copy=False), first.device)
        with evaluation_mode(model):
            output: Any = model(Tensor(batch))
    except MemoryError as error:
        what = str(error).removesuffix(f": {FEWER_IMAGES}")  # there is better advice here
        told = PredictionError(
            f"an image of {x.shape[1]} x {x.shape[2]} pixels (height x width) needs more memory "
            f"than there is ({what}): make it smaller, or use (smaller) tiles"
        )
        for note in getattr(error, "__notes__", ()):  # which layer it was
            told.add_note(note)
        raise told from error
    heads = output if isinstance(output, dict) else {"": output}
    found = {head: scores.data[0] for head, scores in heads.items()}
    with on_device(next(iter(found.values()))):
        finite = all(xp_of(scores).isfinite(scores.max()) for scores in found.values())
    if not finite:
        raise PredictionError(
            "the net's scores are not finite: its weights have overflowed, or it was trained with "
            "another preprocessing"
        )
    return found
