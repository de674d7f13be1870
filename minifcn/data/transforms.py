"""Changes of an image and its labels together, random ones drawn from a given generator.

Images are (H, W, C), uint8 or float32, labels (H, W) or, of several kinds, (H, W, kinds). Labels
are class numbers: between 3 and 5 there is no 4, so they only ever move, and are never mixed.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from minifcn.data.dataset import IGNORE, DataError, Sample


def hflip(array: np.ndarray) -> np.ndarray:
    """Return an image or labels (H, W, ...) with left and right exchanged; twice is the same.

    >>> hflip(np.array([[1, 2, 3]])).tolist()
    [[3, 2, 1]]
    """
    return array[:, ::-1]


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image in another size, each pixel a weighted mean of the nearest ones.

    The weights fall linearly with the distance, over one pixel of the image or, if it is made
    smaller, of the result, so that no detail turns into a false pattern (Pillow's bilinear way).

    Parameters
    ----------
    image
        uint8 or float32 (H, W, C) of any number of channels: colours, depth, scores.
    size
        Height and width to have.

    Returns
    -------
    numpy.ndarray
        (height, width, C) of the same type; uint8 is rounded.

    Raises
    ------
    DataError
        If a side would be less than one pixel, or the image is of another type.

    Examples
    --------
    >>> image = np.array([[[0], [100]]], np.uint8)
    >>> resize(image, (1, 4))[:, :, 0].tolist()
    [[0, 25, 75, 100]]
    """
    height, width = _checked(size)
    if image.ndim != 3 or image.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"resize: got an image of {image.dtype}, shape {image.shape}: it must be uint8 or "
            "float32 of shape (H, W, C)"
        )
    if image.shape[:2] == (height, width):
        return image
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image[:, :, channel])).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        for channel in range(image.shape[2])
    ]
    return np.stack(channels, axis=2)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return labels (H, W) or (H, W, kinds) in another size: of each place the nearest pixel.

    >>> resize_label(np.array([[3, 5]], np.uint8), (1, 4)).tolist()
    [[3, 3, 5, 5]]
    """
    height, width = _checked(size)
    # The middle of new pixel i lies at (i + 1/2) * old / new: whole numbers find its pixel exactly.
    rows = (2 * np.arange(height) + 1) * label.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * label.shape[1] // (2 * width)
    return label[rows[:, None], columns]


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if height < 1 or width < 1:
        raise DataError(f"size is {height} x {width} (height x width): both must be at least 1")
    return height, width


def random_scale(
    sample: Sample, rng: np.random.Generator, low: float = 0.5, high: float = 2.0
) -> Sample:
    """Make image and labels larger or smaller by one factor, drawn evenly from low to high.

    Sides are rounded to whole pixels, at least 1. Labels are those of the nearest pixels.

    Raises
    ------
    DataError
        If not 0 < low <= high < infinity.
    """
    if not 0 < low <= high < math.inf:
        raise DataError(
            f"scale is {low} to {high}: it must be two factors above 0, the lower one first"
        )
    factor = rng.uniform(low, high)
    height, width = (max(1, round(side * factor)) for side in sample.image.shape[:2])
    return Sample(
        resize(sample.image, (height, width)),
        resize_label(sample.label, (height, width)),
        sample.name,
    )


def random_crop(sample: Sample, size: int | tuple[int, int], rng: np.random.Generator) -> Sample:
    """Cut out a random window of ``size`` (height, width; one number for a square).

    An image smaller than the window is first continued below and to the right: the picture with
    its last row and column, the label with 255, so that the added pixels are ignored.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise DataError(f"crop is {height} x {width}: both must be at least 1")
    image, label, name = sample
    below, right = max(0, height - label.shape[0]), max(0, width - label.shape[1])
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
        kinds = [(0, 0)] * (label.ndim - 2)
        label = np.pad(label, [(0, below), (0, right), *kinds], constant_values=IGNORE)
    y = int(rng.integers(label.shape[0] - height + 1))
    x = int(rng.integers(label.shape[1] - width + 1))
    window = np.s_[y : y + height, x : x + width]
    return Sample(image[window], label[window], name)


def random_flip(sample: Sample, rng: np.random.Generator, vertical: bool = False) -> Sample:
    """Mirror left and right with probability 1/2; with ``vertical`` mirror top and bottom."""
    if rng.random() < 0.5:
        return sample
    image, label, name = sample
    return (
        Sample(image[::-1], label[::-1], name)
        if vertical
        else Sample(hflip(image), hflip(label), name)
    )


def random_rotate90(sample: Sample, rng: np.random.Generator) -> Sample:
    """Turn by 0, 90, 180 or 270 degrees; an image that is not square by 0 or 180 degrees.

    Right for pictures from above, where no side is up; wrong for photographs.
    """
    image, label, name = sample
    square = label.shape[0] == label.shape[1]
    turns = int(rng.integers(4)) if square else 2 * int(rng.integers(2))
    return Sample(np.rot90(image, turns), np.rot90(label, turns), name)


def colour_jitter(sample: Sample, rng: np.random.Generator, strength: float = 0.1) -> Sample:
    """Change brightness and contrast: pixel -> mean + contrast * (pixel - mean) + brightness.

    Contrast is drawn from 1 - strength to 1 + strength, brightness from -255 * strength to
    255 * strength; mean is the image's own. The label is left alone. Of an image with more than
    three channels the first three, its colours, are changed.

    Raises
    ------
    DataError
        If the strength is out of range, or the image is not uint8, as depth is.
    """
    if not 0 <= strength <= 1:
        raise DataError(f"colour jitter is {strength}: it must be 0 to 1")
    if sample.image.dtype != np.uint8:
        raise DataError(
            f"{sample.name}: colour jitter is for colours, uint8 0 to 255, but this image is "
            f"{sample.image.dtype} of shape {sample.image.shape}: leave the jitter out"
        )
    contrast = 1 + strength * rng.uniform(-1, 1)
    brightness = 255 * strength * rng.uniform(-1, 1)
    colours = sample.image[:, :, :3]
    mean = float(colours.mean())
    # All pixels of one value change alike, so compute the 256 cases once.
    table = mean + contrast * (np.arange(256) - mean) + brightness
    changed = np.clip(np.rint(table), 0, 255).astype(np.uint8)[colours]
    return sample._replace(image=np.concatenate([changed, sample.image[:, :, 3:]], axis=2))


def augment(
    sample: Sample,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] | None = None,
    crop: int | tuple[int, int] | None = None,
    flip: bool = False,
    flip_vertical: bool = False,
    rotate: bool = False,
    jitter: float = 0.0,
) -> Sample:
    """Apply the chosen random changes: scale, crop, flips, rotation, colour jitter, in this order.

    >>> square = Sample(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), "black")
    >>> augment(square, np.random.default_rng(0), crop=4, flip=True).label.shape
    (4, 4)
    """
    if scale is not None:
        sample = random_scale(sample, rng, *scale)
    if crop is not None:
        sample = random_crop(sample, crop, rng)
    if flip:
        sample = random_flip(sample, rng)
    if flip_vertical:
        sample = random_flip(sample, rng, vertical=True)
    if rotate:
        sample = random_rotate90(sample, rng)
    if jitter:
        sample = colour_jitter(sample, rng, jitter)
    return sample
