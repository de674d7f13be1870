"""Writing safetensors files: whole or not at all, and, if wanted, sealed with a checksum."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..backend import Array
from ..files import replacing, why_not_written
from .header import DTYPES, WeightsError
from .pieces import Progress, in_order

SEAL = "sha256"  # the name of the last tensor of a sealed file
PIECE = 1 << 20  # bytes read at a time


def check_place(path: str | Path) -> None:
    """Raise a WeightsError if a path cannot become a file: better now than after a training.

    >>> check_place("net.safetensors")
    """
    path = Path(path)
    if not path.parent.is_dir():
        found = "is not a folder" if path.parent.exists() else "does not exist: make it first"
        raise WeightsError(f"{path}: cannot be written: {path.parent} {found}")
    if path.is_dir():
        raise WeightsError(f"{path}: cannot be written: it is a folder; add a file name")


@contextlib.contextmanager
def saying_why(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn the system's error about a file into a WeightsError with the reason and what to do.

    ``needed`` are the bytes that it will have, where they are known.

    >>> with saying_why(Path("missing/a.npz")):
    ...     open("missing/a.npz", "wb")
    Traceback (most recent call last):
    minifcn.weights.header.WeightsError: missing/a.npz: cannot be written: No such file or \
directory: the folder missing is not there any more, or never was
    """
    try:
        yield
    except OSError as error:
        why = why_not_written(error, path, needed)
        raise WeightsError(f"{path}: cannot be written: {why}") from error


def write_tensors(
    path: Path,
    tensors: Mapping[str, Array],
    metadata: dict[str, str],
    progress: Progress | None = None,
    sealed: bool = False,
) -> None:
    """Write a safetensors file under a temporary name in the same folder, then rename.

    safetensors' own function would first copy all tensors, twice where their axes lie in another
    order, so the file is written here: it is a JSON text with the places, and the numbers.

    Parameters
    ----------
    path
        The file.
    tensors
        Of float types, by name.
    metadata
        Texts for the header.
    progress
        Called with the bytes written, and all of them.
    sealed
        Add a last tensor `SEAL`: the checksum of all bytes before it. See `is_sealed`.

    Raises
    ------
    WeightsError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.safetensors"
    ...     write_tensors(path, {"a": np.ones(3)}, {}, sealed=True)
    ...     is_sealed(path)
    True
    """
    check_place(path)
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        entry = {"dtype": codes[array.dtype.name], "shape": array.shape}
        header[name] = {**entry, "data_offsets": (start, end)}
    checksum = hashlib.sha256() if sealed else None
    if checksum:
        size = checksum.digest_size
        header[SEAL] = {"dtype": "U8", "shape": (size,), "data_offsets": (end, end + size)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers lie where processors like them

    def write(content: Any) -> None:
        file.write(content)
        if checksum:
            checksum.update(content)

    done = 0
    with (
        saying_why(path, end + len(text)),
        replacing(path, durable=True) as temporary,
        temporary.open("wb") as file,
    ):
        write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            for piece in in_order(array):
                write(piece.astype(piece.dtype.newbyteorder("<"), copy=False).data)
                done += piece.nbytes
                if progress is not None:
                    progress(done, end)
        if checksum:
            file.write(checksum.digest())


def is_sealed(path: Path) -> bool:
    """Tell whether a file ends in the right checksum of all that stands before it.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    checksum = hashlib.sha256()
    left = path.stat().st_size - checksum.digest_size
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, PIECE))):
            checksum.update(piece)
            left -= len(piece)
        return left == 0 and file.read() == checksum.digest()
