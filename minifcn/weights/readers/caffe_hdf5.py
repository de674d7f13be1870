"""Caffe's other weight files, ``.caffemodel.h5``: a dataset data/LAYER/0, 1, ... for each blob."""

from __future__ import annotations

import re

from ..foreign import Foreign
from .hdf5 import Hdf5

BLOB = re.compile(r"data/(.+/\d+)")


def is_caffe_hdf5(content: Hdf5) -> bool:
    """Tell whether an HDF5 file is one of Caffe's nets."""
    return any(map(BLOB.fullmatch, content.datasets))


def read_caffe_hdf5(content: Hdf5) -> Foreign:
    """Return the blobs of a ``.caffemodel.h5``.

    Returns
    -------
    Foreign
        ``tensors`` as of a ``.caffemodel``: ``conv1_1/0`` is the layer's weights, ``conv1_1/1`` its
        biases. Gradients, if they were saved too, are left out.

    Raises
    ------
    WeightsError
        If a blob is not made of numbers.
    """
    found = {n: match[1] for n in content.datasets if (match := BLOB.fullmatch(n))}
    tensors = {short: content.array(name) for name, short in found.items()}
    return Foreign(content.file.path, "caffe-hdf5", tensors, {})
