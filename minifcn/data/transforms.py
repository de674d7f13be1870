"""Random changes of an image and its labels together, each drawn from a given random generator."""

from __future__ import annotations

import numpy as np

from minifcn.data.dataset import IGNORE, DataError, Sample


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
        label = np.pad(label, ((0, below), (0, right)), constant_values=IGNORE)
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
        else Sample(image[:, ::-1], label[:, ::-1], name)
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
    255 * strength; mean is the image's own. The label is left alone.
    """
    if not 0 <= strength <= 1:
        raise DataError(f"colour jitter is {strength}: it must be 0 to 1")
    contrast = 1 + strength * rng.uniform(-1, 1)
    brightness = 255 * strength * rng.uniform(-1, 1)
    mean = float(sample.image.mean())
    # All pixels of one value change alike, so compute the 256 cases once.
    table = mean + contrast * (np.arange(256) - mean) + brightness
    return sample._replace(image=np.clip(np.rint(table), 0, 255).astype(np.uint8)[sample.image])


def augment(
    sample: Sample,
    rng: np.random.Generator,
    *,
    crop: int | tuple[int, int] | None = None,
    flip: bool = False,
    flip_vertical: bool = False,
    rotate: bool = False,
    jitter: float = 0.0,
) -> Sample:
    """Apply the chosen random changes: crop, flips, rotation, colour jitter, in this order.

    >>> square = Sample(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), "black")
    >>> augment(square, np.random.default_rng(0), crop=4, flip=True).label.shape
    (4, 4)
    """
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
