"""How pixels become the numbers that a net was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from minifcn.data.dataset import DataError, Dataset, streams_of
from minifcn.plain_text import one_line

COLOURS = 3  # channels of a picture: red, green, blue


@dataclass(frozen=True)
class Preprocessing:
    """The rule ``(scale * pixel - mean) / std``, per channel, in the net's channel order.

    A net fed with other colours than it was trained on fails silently, so this rule is stored
    inside every weight file.

    Parameters
    ----------
    order
        ``"RGB"`` or ``"BGR"``: the order in which the net sees the first three channels. Further
        ones, as depth, stay where they are.
    scale
        What the pixel values are multiplied with first: 1 or 1/255 for colours from 0 to 255.
    mean, std
        A number for each channel, in the net's channel order, in units of the scaled pixels.

    Examples
    --------
    >>> image = np.zeros((2, 2, 3), np.uint8)
    >>> CAFFE(image)[:, 0, 0].tolist() == [-np.float32(m) for m in CAFFE.mean]
    True
    >>> UNIT(image).shape
    (3, 2, 2)
    """

    order: Literal["RGB", "BGR"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.order not in ("RGB", "BGR"):
            raise DataError(f"preprocessing: order is {self.order!r}: it must be 'RGB' or 'BGR'")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise DataError(
                f"preprocessing: scale is {self.scale}: it must be above 0, as 1 or 1/255"
            )
        for name in ("std", "mean"):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)  # a list from JSON becomes a tuple
            if not values:
                raise DataError(f"preprocessing: {name} is (): it must have a number per channel")
            if len(values) != self.channels or not all(map(math.isfinite, values)):
                count = {1: "one number", 3: "three numbers"}.get(self.channels)
                count = count or f"{self.channels} numbers"
                raise DataError(f"preprocessing: {name} is {values}: it must be {count}")
        if min(self.std) <= 0:
            raise DataError(f"preprocessing: std is {self.std}: each must be above 0")
        if self.order == "BGR" and self.channels < COLOURS:
            raise DataError(
                f"preprocessing: order is 'BGR' with mean {self.mean}: it turns three channels "
                "around: with fewer the order must be 'RGB'"
            )

    @property
    def channels(self) -> int:
        """How many channels an image must have."""
        return len(self.std)

    @property
    def channel_order(self) -> str:
        """The order of the channels in words.

        >>> UNIT.channel_order, Preprocessing("BGR", 1, (0,) * 4, (1,) * 4).channel_order
        ('RGB', 'BGR and 1 more')
        """
        if self.channels < COLOURS:
            return "1 channel" if self.channels == 1 else f"{self.channels} channels"
        more = self.channels - COLOURS
        return f"{self.order} and {more} more" if more else self.order

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the net's input for an image, or for a stack of images of one size.

        Parameters
        ----------
        image
            (..., H, W, C): uint8 (..., H, W, 3), red, green, blue; for another number of channels
            uint8 or, where one is no colour, float32.

        Returns
        -------
        numpy.ndarray
            float32 (..., C, H, W), stored channels-last (a view of a (..., H, W, C) buffer).

        Raises
        ------
        DataError
            If the image is of another type or shape.
        """
        # Float colours would be of unknown range (0 to 1?), so three channels must be uint8.
        types = (np.uint8,) if self.channels == COLOURS else (np.uint8, np.float32)
        if image.dtype not in types or image.ndim < 3 or image.shape[-1] != self.channels:
            kinds = " or ".join(np.dtype(kind).name for kind in types)
            raise DataError(
                f"preprocessing: got an image of {image.dtype}, shape {image.shape}: "
                f"it must be {kinds} of shape (H, W, {self.channels})"
            )
        *lead, height, width, channels = image.shape
        image = self._turned(image)
        # One long row of pixels after the other: NumPy is slow on an innermost axis of length 3.
        rows = image.reshape(*lead, height, width * channels).astype(np.float32)
        if self.scale != 1:
            rows *= np.float32(self.scale)
        rows -= np.tile(np.asarray(self.mean, np.float32), width)
        rows /= np.tile(np.asarray(self.std, np.float32), width)
        # (..., H, W*C) -> (..., H, W, C) -> (..., C, H, W)
        return np.moveaxis(rows.reshape(*lead, height, width, channels), -1, -3)

    def invert(self, x: np.ndarray) -> np.ndarray:
        """Return the image (..., H, W, C) of which ``x`` (..., C, H, W) is the input.

        It is uint8 with three channels; float32 with another number, as some may be no colours.
        """
        pixels = np.moveaxis(np.asarray(x, np.float64), -3, -1) * self.std + self.mean
        pixels = self._turned(pixels / self.scale)
        if self.channels != COLOURS:
            return pixels.astype(np.float32)
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

    def _turned(self, image: np.ndarray) -> np.ndarray:
        """Return (..., H, W, C) with the first three channels turned around, if the order is BGR.

        Done twice, it gives the image back.
        """
        if self.order == "RGB":
            return image
        if self.channels == COLOURS:
            return image[..., ::-1]
        return image[..., [2, 1, 0, *range(COLOURS, self.channels)]]

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as plain values, fit for JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Return the rule that :meth:`to_dict` gave; wrong keys or values are a DataError."""
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise DataError(
                f"preprocessing: got the keys {sorted(values)}: they must be {sorted(expected)}"
            )
        try:
            return cls(**values)
        except DataError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"preprocessing: {one_line(str(values))}: {error}") from None


CAFFE = Preprocessing(
    order="BGR", scale=1.0, mean=(104.00699, 116.66877, 122.67892), std=(1.0, 1.0, 1.0)
)
"""What the published Caffe nets expect: BGR, 0-255, minus the mean colour of ImageNet."""

CAFFE_VGG = Preprocessing(
    order="BGR", scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0)
)
"""What VGG16 expects as its authors released it, and in Keras; the mean differs by 1 at most."""

CAFFE_GOOGLENET = Preprocessing(
    order="BGR", scale=1.0, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0)
)
"""What Caffe's GoogLeNet expects."""

TORCHVISION = Preprocessing(
    order="RGB", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
"""What torchvision's classifiers expect: RGB, about -2 to 2.6."""

TORCHVISION_GOOGLENET = Preprocessing(
    order="RGB", scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
"""What torchvision's GoogLeNet computes of images prepared by `TORCHVISION`, first of all."""

NYUD = Preprocessing(order="BGR", scale=1.0, mean=(116.190, 97.203, 92.318), std=(1.0, 1.0, 1.0))
"""What the published FCNs for the colour images of NYUDv2 expect."""

NYUD_HHA = Preprocessing(
    order="RGB", scale=1.0, mean=(132.431, 94.076, 118.477), std=(1.0, 1.0, 1.0)
)
"""What those for its depth, coded as three channels (HHA), expect."""

SIFTFLOW = Preprocessing(
    order="BGR", scale=1.0, mean=(114.578, 115.294, 108.353), std=(1.0, 1.0, 1.0)
)
"""What the published FCNs for SIFT Flow expect."""

UNIT = Preprocessing(order="RGB", scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
"""For nets trained from scratch: RGB, -2 to 2."""

LANDCOVER = Preprocessing(
    order="RGB", scale=1 / 255, mean=(0.28, 0.30, 0.25), std=(0.15, 0.13, 0.13)
)
"""For land cover: minus the mean colour of the training tiles.

``std`` is about 0.6 of the spread measured there (0.24, 0.20, 0.21): with these larger inputs a new
net learns faster (FCN-8s after 600 steps: mean IU 0.544 against 0.521; one seed).
"""

PRESETS = {"unit": UNIT, "caffe": CAFFE, "landcover": LANDCOVER}


def presets_of(dataset: Dataset) -> dict[str, Preprocessing]:
    """Return the rules for the images of a data set, by name.

    These are its own, among them ``"published"`` where nets for it have been published, and those
    of `PRESETS` for as many channels. ``"unit"`` is always there, for nets trained from scratch;
    for images with other channels than colours it is the data set's own.

    >>> from minifcn.data import shapes
    >>> list(presets_of(shapes("val")))
    ['unit', 'caffe', 'landcover']
    """
    own: Mapping[str, Preprocessing] = getattr(dataset, "presets", None) or {}
    channels = sum(streams_of(dataset).values())
    fitting = {name: rule for name, rule in PRESETS.items() if rule.channels == channels}
    return fitting | dict(own)
