"""PyTorch's files before version 1.6: pickles in a row, then the numbers.

a number that no other file starts with, the protocol 1001, sizes of the writer's machine
the state dict
the names of the storages
for each storage: how many numbers it has (8 bytes), and the numbers; all little-endian
"""

from __future__ import annotations

import numpy as np

from ..foreign import Foreign
from .mapped import MappedFile, shown
from .torch_state import foreign_of
from .unpickler import STORAGES, unpickle

MAGIC = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # a step of a pickle
PROTOCOL = 1001


def read_torch_pickle(file: MappedFile) -> Foreign:
    """Return the tensors of a PyTorch file (.pth, .pt, .pth.tar) from before version 1.6.

    Parameters
    ----------
    file
        As for `read_torch_zip`; written by PyTorch 0.2 to 1.5, or later with
        ``_use_new_zipfile_serialization=False``.

    Returns
    -------
    Foreign
        As of `read_torch_zip`.

    Raises
    ------
    WeightsError
        If the file is damaged, or a pickle of it asks for anything but tensors of numbers.
    """
    if MAGIC not in file.map[:32]:  # behind the pickle's protocol
        raise file.error(
            "a Python pickle, but not one of PyTorch: only the program that wrote it knows what "
            "is in it; if you trust it, save its arrays with numpy.savez"
        )
    _, protocol, _ = (unpickle(file.map, file.path).content for _ in range(3))
    if protocol != PROTOCOL:
        raise file.error(f"of another format than PyTorch's {PROTOCOL}: damaged, or from elsewhere")
    content, notes = unpickle(file.map, file.path)
    keys = unpickle(file.map, file.path).content
    if type(keys) is not list or sorted(map(str, keys)) != sorted(notes):
        raise file.error("damaged: its list of storages does not name those of its tensors")
    storages = {}
    place = file.map.tell()
    for key in keys:
        count, dtype = notes[key].length, np.dtype(STORAGES[notes[key].kind])
        told = int(file.array("<i8", (1,), place, f"storage {key}")[0])
        if told != count:
            raise file.error(
                f"damaged: byte {place} says that the storage {shown(key)} has {told} numbers, but "
                f"its tensors say {count}"
            )
        storages[key] = file.array(dtype.str, (count,), place + 8, f"storage {key}")
        place += 8 + storages[key].nbytes
    if place != file.size:
        raise file.error(f"damaged: {file.size - place} bytes follow the last storage")
    return foreign_of(content, file.path, lambda note: storages[note.key])
