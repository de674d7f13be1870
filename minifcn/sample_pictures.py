"""Pictures of the samples of a data set: images with any channels, and each kind of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from .data import Dataset, Sample, heads_of, label_by_head, streams_of
from .viz import PAPER, colour_label, legend, overlay, panel


def stream_pictures(image: np.ndarray, streams: Mapping[str, int]) -> dict[str, Image.Image]:
    """Return what an image with any channels looks like, one picture or more for each stream.

    The first three channels of a stream that has as many are drawn as red, green and blue, 0 to
    255; each other channel in gray, from its lowest value (black) to its highest (white).

    Parameters
    ----------
    image
        uint8 or float32 (H, W, C).
    streams
        The channels of each stream by name, C in all: see `minifcn.data.streams_of`.

    Examples
    --------
    >>> image = np.zeros((2, 2, 4), np.float32)
    >>> list(stream_pictures(image, {"": 4})), list(stream_pictures(image[:, :, :1], {"depth": 1}))
    (['image', 'channel 4'], ['depth'])
    """
    pictures: dict[str, Image.Image] = {}
    first = 0
    for stream, count in streams.items():
        channels = image[:, :, first : first + count]
        first += count
        grays = range(count)
        if count >= 3:
            colours = np.rint(np.clip(channels[:, :, :3], 0, 255)).astype(np.uint8)
            pictures[stream or "image"] = Image.fromarray(np.ascontiguousarray(colours))
            grays = range(3, count)
        for k in grays:
            name = f"{stream} channel {k + 1}".strip() if count > 1 else stream or "image"
            pictures[name] = Image.fromarray(_stretched(channels[:, :, k])).convert("RGB")
    return pictures


def _stretched(values: np.ndarray) -> np.ndarray:
    """Return values as uint8, the lowest as 0 and the highest as 255; all alike as 0."""
    low, high = float(values.min()), float(values.max())
    return np.rint(255 * ((values - low) / ((high - low) or 1))).astype(np.uint8)


def first_picture(image: np.ndarray, streams: Mapping[str, int]) -> Image.Image:
    """Return the picture of the first stream: what predictions are shown on."""
    name, channels = next(iter(streams.items()))
    return next(iter(stream_pictures(image[:, :, :channels], {name: channels}).values()))


def sample_pictures(sample: Sample, dataset: Dataset) -> dict[str, Image.Image]:
    """Return the pictures of a sample by title: image, labels in colours, and the one on the other.

    >>> from minifcn.data import shapes
    >>> list(sample_pictures(shapes("val")[0], shapes("val")))
    ['image', 'label', 'overlay']
    """
    pictures = stream_pictures(sample.image, streams_of(dataset))
    ground = next(iter(pictures.values()))
    heads = heads_of(dataset)
    for name, label in label_by_head(sample.label, heads).items():
        pictures[f"{name} label".strip()] = colour_label(label, heads[name].palette)
        pictures[f"{name} overlay".strip()] = overlay(ground, label, heads[name].palette)
    return pictures


def sample_sheet(samples: Sequence[Sample], dataset: Dataset) -> Image.Image:
    """Return samples below each other, and a legend of the classes that occur in them.

    >>> from minifcn.data import shapes
    >>> sample_sheet([shapes("val")[0]], shapes("val")).mode
    'RGB'
    """
    rows = [sample_pictures(sample, dataset) for sample in samples]
    width = 384 if len(samples) == 1 else 256
    titles = list(rows[0])
    space = len(titles) * width
    keys = []
    heads = heads_of(dataset)
    labels = [label_by_head(sample.label, heads) for sample in samples]
    for name, head in heads.items():
        seen = np.concatenate([label[name].ravel() for label in labels])
        keys.append(legend(*head, seen, max_width=space))
    return panel(
        [list(row.values()) for row in rows],
        titles,
        names=[sample.name for sample in samples],
        legend=stacked(keys),
        width=width,
    )


def stacked(pictures: Sequence[Image.Image], gap: int = 12) -> Image.Image:
    """Return pictures below each other on one paper."""
    height = sum(picture.height + gap for picture in pictures) - gap
    paper = Image.new("RGB", (max(picture.width for picture in pictures), height), PAPER)
    y = 0
    for picture in pictures:
        paper.paste(picture, (0, y))
        y += picture.height + gap
    return paper
