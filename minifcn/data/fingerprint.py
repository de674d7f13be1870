"""A number for each image, to tell whether two data sets, or two splits, share an image."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable

import numpy as np

from minifcn.data.dataset import DataError, Dataset

NUMBER = np.dtype("<u8")  # little-endian, whatever the machine


def fingerprint(image: np.ndarray) -> int:
    """Return a 64-bit number that stands for an image's pixels; no other image will share it.

    It is the BLAKE2b hash, cut to 8 bytes, of the element type, the shape and the values in their
    order (H, W, C). So it does not depend on the name of a file, nor on how the array lies in
    memory; an image that was compressed again, turned or resized has another number. Among a
    million images the chance that any two share one is about 3e-8.

    >>> black = np.zeros((4, 4, 3), np.uint8)
    >>> fingerprint(black) == fingerprint(black.copy())
    True
    >>> fingerprint(black) == fingerprint(black.reshape(2, 8, 3))
    False
    """
    values = np.ascontiguousarray(image)
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    content = hashlib.blake2b(f"{little.dtype.str} {little.shape} ".encode(), digest_size=8)
    content.update(little.data if little.size else b"")
    return int.from_bytes(content.digest(), "little")


def pack(numbers: Iterable[int]) -> str:
    """Return fingerprints as one line of text: sorted, 8 bytes each, in base64.

    >>> pack({2, 1})
    'AQAAAAAAAAACAAAAAAAAAA=='
    >>> sorted(unpack(pack({2, 1})))
    [1, 2]
    """
    return base64.b64encode(np.array(sorted(set(numbers)), NUMBER).tobytes()).decode()


def unpack(text: str) -> set[int]:
    """Return the fingerprints in a text that `pack` made.

    Raises
    ------
    DataError
        If it is no such text.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"packed fingerprints: not base64 text: {error}") from None
    if len(content) % NUMBER.itemsize:
        raise DataError(
            f"packed fingerprints: {len(content)} bytes: it must be a multiple of "
            f"{NUMBER.itemsize}, so the text was cut short"
        )
    return set(np.frombuffer(content, NUMBER).tolist())


def is_blank(image: np.ndarray) -> bool:
    """Tell whether all pixels of an image are alike: such images are no sign of a mix-up.

    >>> is_blank(np.zeros((4, 4, 3), np.uint8))
    True
    """
    return bool((image == image[:1, :1]).all())


def fingerprints(dataset: Dataset) -> set[int]:
    """Read all images of a data set and return their fingerprints, without those of blank ones.

    >>> from minifcn.data import shapes
    >>> len(fingerprints(shapes("val", length=3)))
    3
    """
    images = (dataset[index].image for index in range(len(dataset)))
    return {fingerprint(image) for image in images if not is_blank(image)}
