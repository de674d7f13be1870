"""NumPy's archives (``.npz``), which Chainer uses too: a zip archive of ``.npy`` arrays."""

from __future__ import annotations

import io
import tokenize
import warnings

import numpy as np
from numpy.lib import format as npy

from ..foreign import Foreign
from .archive import Archive
from .mapped import check_shape, native, shown

LONGEST_HEADER = 10_000  # bytes, NumPy's own limit
SNAPSHOT = "updater/model:main/"
"""Where a snapshot of Chainer's trainer keeps the net, beside the optimizer and the rest."""
PROGRESS = {"updater/iteration": "iteration", "updater/iterator:main/epoch": "epoch"}


def read_npz(archive: Archive) -> Foreign:
    """Return the arrays of a ``.npz`` of Chainer or others.

    Parameters
    ----------
    archive
        From ``numpy.savez``, ``numpy.savez_compressed``, ``chainer.serializers.save_npz`` or a
        snapshot of Chainer's trainer, of which only the net is read.

    Returns
    -------
    Foreign
        Of format ``"chainer"`` if the names are paths, such as ``conv1_1/W``, else ``"numpy"``. The
        names of a snapshot are shortened to those of the net, and ``info`` has its iteration and
        epoch. Stored arrays are views of the file; compressed ones are unpacked.

    Raises
    ------
    WeightsError
        If the file is damaged, or an array is not one of plain numbers.
    """
    names = {name.removesuffix(".npy"): name for name in archive.members if name.endswith(".npy")}
    if not names:
        raise archive.file.error("an archive without arrays (.npy members)")
    info = {}
    if any(name.startswith(SNAPSHOT) for name in names):
        for name, meaning in PROGRESS.items():
            if name in names:
                value = _array(archive, names[name])
                info[meaning] = str(value.item()) if value.size == 1 else ""
        names = {n.removeprefix(SNAPSHOT): m for n, m in names.items() if n.startswith(SNAPSHOT)}
    tensors = {name: _array(archive, member) for name, member in names.items()}
    format_ = "chainer" if any("/" in name for name in tensors) else "numpy"
    return Foreign(archive.file.path, format_, tensors, info)


def _array(archive: Archive, member: str) -> np.ndarray:
    """Return the array of a ``.npy`` member."""
    content = archive.bytes(member)
    start = io.BytesIO(content[: LONGEST_HEADER + 20].tobytes())
    try:
        version = npy.read_magic(start)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        with warnings.catch_warnings():
            # From Python 2, sizes such as 3L.
            warnings.filterwarnings("ignore", "Reading `.npy` or `.npz` file required additional")
            shape, by_columns, dtype = read(start, max_header_size=LONGEST_HEADER)
    except (
        ValueError,
        KeyError,
        TypeError,
        SyntaxError,
        tokenize.TokenError,
        RecursionError,
        MemoryError,
        OverflowError,
    ) as error:
        raise archive.file.error(
            f"its member {shown(member)} has no header of a plain array: damaged"
        ) from error
    if dtype.kind not in "fiub":
        what = "Python objects, which run code when read" if dtype.hasobject else f"{dtype}"
        raise archive.file.error(
            f"its member {shown(member)} is an array of {what}, not of numbers"
        )
    count = check_shape(archive.file.path, shape, member)
    numbers = content[start.tell() :]
    if len(numbers) != count * dtype.itemsize:
        raise archive.file.error(
            f"its member {shown(member)} has {len(numbers)} bytes of numbers, but its shape "
            f"{shown(str(shape))} of {dtype} needs {count * dtype.itemsize}: damaged"
        )
    return native(numbers.view(dtype).reshape(shape, order="F" if by_columns else "C"))
