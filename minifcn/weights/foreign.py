"""Weight files of other frameworks: what is in them, under the names that they use.

`open_foreign` tells the format from the file's first bytes, not from the ending of its name, which
is often wrong: ``checkpoint.pth.tar`` is no tar archive. Which of these tensors is which parameter
of a net of ours is the next step's matter; so is the order of their axes.

What all readers keep to: no file can run code, make a reader hang, or make it take much more
memory than the file has bytes. A size that a file claims is compared with what is there first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .readers.archive import Archive
    from .readers.hdf5 import Hdf5

HTML = (b"<!DOC", b"<!doc", b"<html", b"<HTML", b"<head", b"<?xml")
NOT_WEIGHTS = {
    b"\x93NUMPY": "a single array (.npy), without the names that say what it is: collect arrays "
    "with numpy.savez(file, **{name: array, ...}); if it holds a pickled dict, that is "
    "numpy.load(file, allow_pickle=True).item(), which runs code from it",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "compressed with gzip: unpack it first (gunzip)",
    b"BZh": "compressed with bzip2: unpack it first (bunzip2)",
    b"\xfd7zXZ": "compressed with xz: unpack it first (unxz)",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"version https://git-lfs": "a Git LFS pointer, not the weights themselves: git lfs pull",
    **dict.fromkeys(HTML, "a web page, as a failed download leaves it: get the file again"),
}

CAFFE_STARTS = b"\x0a\x12\x1a\x22\x42\xa2"
"""A net's name, layers or inputs: the first byte of their fields (no magic number is there)."""


class Foreign(NamedTuple):
    """What is in a weight file of another framework.

    Attributes
    ----------
    path
        The file.
    format
        ``"caffe"``, ``"caffe-hdf5"``, ``"torch"``, ``"chainer"``, ``"numpy"``, ``"keras"`` or
        ``"safetensors"``.
    tensors
        The arrays under the file's own names, as they are stored: layouts and shapes are the
        framework's. Only 16-bit floating-point numbers become float32. Most are views of the file,
        which cannot be written to.
    info
        What else the file tells, such as the net's name, the epoch or the best mean IU.
    """

    path: Path
    format: str
    tensors: dict[str, np.ndarray]
    info: dict[str, str]


def open_foreign(path: str | Path) -> Foreign:
    """Return what is in a weight file of Caffe, PyTorch, Chainer, Keras or others.

    Parameters
    ----------
    path
        A Caffe ``.caffemodel`` or ``.caffemodel.h5``, a PyTorch ``.pth`` (of any version since
        0.2), a Chainer or other NumPy ``.npz``, a Keras ``.h5`` or ``.weights.h5``, or a
        ``.safetensors``; its first bytes decide which.

    Raises
    ------
    WeightsError
        If the file cannot be read, is of no known format, or is damaged; the message says where.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(folder + "/a", **{"conv1_1/W": np.ones((2, 3)), "conv1_1/b": np.zeros(2)})
    ...     found = open_foreign(folder + "/a.npz")
    >>> found.format, {name: array.shape for name, array in found.tensors.items()}
    ('chainer', {'conv1_1/W': (2, 3), 'conv1_1/b': (2,)})
    """
    # Imported here, as the readers import this module, and most runs need one of them at most.
    from .readers import archive, hdf5, mapped, other_safetensors, torch_pickle
    from .readers.caffe import read_caffemodel

    file = mapped.MappedFile(path)
    start = file.map[:512]
    for magic, kind in NOT_WEIGHTS.items():
        if start.startswith(magic):
            raise file.error(f"not a weight file but {kind}")
    if start[257:262] == b"ustar":
        raise file.error(
            "a tar archive, as PyTorch 0.1 wrote: load it with torch.load and save its state_dict "
            "again with torch.save"
        )
    if start.startswith(archive.MAGICS):
        return _from_archive(archive.Archive(file))
    if start.startswith(hdf5.MAGIC):
        return _from_hdf5(hdf5.Hdf5(file))
    if start.startswith(b"\x80"):
        return torch_pickle.read_torch_pickle(file)
    if other_safetensors.is_safetensors(file):
        return other_safetensors.read_safetensors(file)
    if start[0] in CAFFE_STARTS or start.isascii():
        return read_caffemodel(path)  # which also knows what to say of texts
    raise file.error(
        f"of no known format: it starts with {start[:8]!r}; known are .caffemodel and "
        ".caffemodel.h5 (Caffe), .pth (PyTorch), .npz (Chainer, NumPy), .h5 (Keras), .safetensors"
    )


def _from_archive(archive: Archive) -> Foreign:
    """Return what is in a zip archive, which its members' names tell."""
    from .readers.numpy_archive import read_npz
    from .readers.torch_zip import PICKLE, read_torch_zip

    names = list(archive.members)
    if "model.weights.h5" in names:
        raise archive.file.error(
            "a Keras archive (.keras): unpack it (unzip) and take its model.weights.h5"
        )
    if any(name.rpartition("/")[2] == PICKLE for name in names):
        return read_torch_zip(archive)
    if any(name.endswith(".npy") for name in names):
        return read_npz(archive)
    some = ", ".join(map(ascii, names[:3])) + ", ..." * (len(names) > 3)
    raise archive.file.error(
        f"a zip archive, but neither PyTorch's nor NumPy's: it holds {some or 'nothing'}"
    )


def _from_hdf5(content: Hdf5) -> Foreign:
    """Return what is in an HDF5 file, which the names of its datasets tell."""
    from .readers.caffe_hdf5 import is_caffe_hdf5, read_caffe_hdf5
    from .readers.keras import is_keras, read_keras

    if is_keras(content):
        return read_keras(content)
    if is_caffe_hdf5(content):
        return read_caffe_hdf5(content)
    names = content.datasets
    if "iter" in names and any(name.startswith("history/") for name in names):
        raise content.file.error(
            "a Caffe solver state: the net itself is in the .caffemodel.h5 beside it"
        )
    some = ", ".join(map(ascii, names[:3])) + ", ..." * (len(names) > 3)
    raise content.file.error(
        f"an HDF5 file, but neither Keras's nor Caffe's: it holds {some or 'no arrays'}"
    )
