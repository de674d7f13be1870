"""PyTorch's files since version 1.6: a zip archive with a pickle and the numbers beside it.

NAME/data.pkl      the pickle: for each tensor its storage, offset, sizes and strides
NAME/data/0, ...   the storages: nothing but numbers, as they lie in memory
NAME/byteorder     "little" or "big"; absent in older files, which are little-endian
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np

from ..foreign import Foreign
from .archive import Archive
from .mapped import shown
from .torch_state import foreign_of
from .unpickler import STORAGES, StorageNote, unpickle

PICKLE = "data.pkl"


def read_torch_zip(archive: Archive) -> Foreign:
    """Return the tensors of a PyTorch file (.pth, .pt) of version 1.6 or later.

    Parameters
    ----------
    archive
        A state dict that torch.save wrote, or a dict that has one under ``model_state_dict``,
        ``state_dict`` or ``model``.

    Returns
    -------
    Foreign
        ``tensors`` has the state dict's names, such as ``features.0.weight``. They are views of the
        file; only those that were 16-bit floating-point numbers are copies, of float32.

    Raises
    ------
    WeightsError
        If the file is damaged, or its pickle asks for anything but tensors of numbers.
    """
    pickles = [name for name in archive.members if name.rpartition("/")[2] == PICKLE]
    if len(pickles) != 1:
        raise archive.file.error(f"an archive with {len(pickles)} members {PICKLE}: damaged")
    folder = pickles[0].removesuffix(PICKLE)
    if f"{folder}constants.pkl" in archive.members:
        raise archive.file.error(
            "a TorchScript program: in PyTorch, torch.save(torch.jit.load(file).state_dict(), ...)"
        )
    order: Literal["<", ">"] = "<"
    if f"{folder}byteorder" in archive.members:
        text = archive.bytes(f"{folder}byteorder")[:10].tobytes()
        if text not in (b"little", b"big"):
            raise archive.file.error(f"of the unknown byte order {text!r}")
        order = ">" if text == b"big" else "<"

    def storage_of(note: StorageNote) -> np.ndarray:
        content = archive.bytes(f"{folder}data/{note.key}")
        dtype = np.dtype(STORAGES[note.kind]).newbyteorder(order)
        if len(content) != note.length * dtype.itemsize:
            raise archive.file.error(
                f"its storage {shown(note.key)} has {len(content)} bytes, but should have "
                f"{note.length} numbers of {dtype.itemsize} each: damaged"
            )
        return content.view(dtype)

    pickle = unpickle(io.BytesIO(archive.bytes(pickles[0]).tobytes()), archive.file.path)
    return foreign_of(pickle.content, archive.file.path, storage_of)
