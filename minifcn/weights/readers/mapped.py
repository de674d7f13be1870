"""A file as an array of bytes that is read when it is looked at, and arrays that lie in it."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..header import WeightsError

LONGEST_NAME = 500  # characters
MOST_AXES = 32
MOST_NUMBERS = 1 << 48
EXPANSION = 16
"""Compressed arrays may be so many times larger than their file.

Trained numbers hardly shrink at all, bilinear kernels and zeros do; a bomb grows a thousandfold.
"""
SMALL = 1 << 20  # bytes: below this, nothing that is unpacked is too large


class MappedFile:
    r"""A file, mapped into memory; every place in it is checked before it is used.

    Attributes
    ----------
    path
        The file, for messages.
    map
        The mapping, which can also be read like an open file.
    size
        In bytes.

    Raises
    ------
    WeightsError
        If the file is missing, empty or cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "numbers"
    ...     _ = path.write_bytes(b"\x05\x00\x06\x00")
    ...     print(MappedFile(path).array("<i2", (2,), 0, "counts"))
    [5 6]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise WeightsError(f"{path}: no such file") from None
        except IsADirectoryError:
            raise WeightsError(f"{path}: a folder, not a weight file") from None
        except ValueError:
            raise WeightsError(f"{path}: the file is empty; copy it again") from None
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.size = len(self.map)

    def error(self, problem: str) -> WeightsError:
        """Return an error that names the file; the caller raises it."""
        return WeightsError(f"{self.path}: {problem}")

    def array(self, dtype: str, shape: Sequence[int], offset: int, name: str) -> np.ndarray:
        """Return the array at a place of the file: a view, not to be written to.

        Parameters
        ----------
        dtype
            Element type with byte order, such as ``"<f4"``.
        shape
            The sizes that the file claims.
        offset
            Where in the file it starts, in bytes.
        name
            For messages.

        Raises
        ------
        WeightsError
            If the sizes make no sense, or the array is not wholly in the file.
        """
        count = check_shape(self.path, shape, name)
        length = count * np.dtype(dtype).itemsize
        if offset < 0 or offset + length > self.size:
            raise self.error(
                f"{shown(name)} of shape {tuple(shape)} should lie in bytes {offset} to "
                f"{offset + length}, but the file has {self.size}: cut short or damaged; copy it "
                "again"
            )
        if count == 0:  # frombuffer knows no empty arrays
            return np.empty(shape, dtype)
        return np.frombuffer(self.map, dtype, count, offset).reshape(shape)


def check_shape(path: Path, shape: Sequence[int], name: str) -> int:
    """Return the number of elements of a claimed shape, if it is one.

    >>> check_shape(Path("a"), (3, 4), "weight")
    12
    """
    if (
        len(shape) > MOST_AXES
        or any(size < 0 for size in shape)
        or math.prod(max(size, 1) for size in shape) > MOST_NUMBERS
    ):
        raise WeightsError(f"{path}: {shown(name)} is of the shape {shown(str(tuple(shape)))}")
    return math.prod(shape)


def check_name(path: Path, name: str) -> str:
    """Return a tensor's name; raise if it is none that can be printed and written.

    >>> check_name(Path("a"), "conv1_1.weight")
    'conv1_1.weight'
    """
    if not name.isprintable() or len(name) > LONGEST_NAME:
        # Undecodable bytes are not printable either.
        raise WeightsError(
            f"{path}: a tensor is named {shown(name)}: names have at most {LONGEST_NAME} "
            "characters, all of them printable"
        )
    return name


def shown(text: str) -> str:
    r"""Return a text of a file for a message: quoted, and cut if it is long.

    >>> shown("a\n" + 99 * "b")
    "'a\\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb'..."
    """
    return ascii(text[:60]) + "..." * (len(text) > 60)


def check_expansion(path: Path, unpacked: int, size: int) -> None:
    """Raise if a file's compressed arrays are too large for what they are made from.

    >>> check_expansion(Path("a"), unpacked=5_000_000, size=4_000_000)
    """
    if unpacked > SMALL + EXPANSION * size:
        raise WeightsError(
            f"{path}: {size} bytes that unpack to {unpacked}, more than {EXPANSION} times as "
            "many, which no trained weights do"
        )


def native(array: np.ndarray) -> np.ndarray:
    """Return an array in the machine's byte order, 16-bit floating-point numbers as float32.

    It is the array itself if nothing is to be done.

    >>> native(np.ones(2, ">f2")).dtype, native(np.ones(2, "<f8")).dtype
    (dtype('float32'), dtype('float64'))
    """
    half = array.dtype.kind == "f" and array.itemsize == 2
    return array.astype("f4" if half else array.dtype.newbyteorder("="), copy=False)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers, given as uint16, as float32: they are its upper halves.

    >>> from_bfloat16(np.array([0x3F80, 0xC000], np.uint16))
    array([ 1., -2.], dtype=float32)
    """
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
