"""The wire format of protocol buffers, in which Caffe writes its nets: how to read and write it.

A message is a row of fields. Each starts with a tag, the field's number times 8 plus the kind of
its value:

    0  VARINT  a whole number, 7 bits in each byte, the lowest first; the last byte is below 128
    1  EIGHT   eight bytes, such as a float64
    2  BYTES   a length (a varint), then as many bytes: a text, packed numbers, another message
    5  FOUR    four bytes, such as a float32

A field may occur many times: that is a list. Nothing says what a field means or whether a BYTES is
a message; the reader must know. Everything is little-endian. (Kinds 3 and 4 are groups, which no
Caffe file has.)

Why not the protobuf library: it copies every number at least once (551 MB of weights need 1.13 GB),
it cannot give floats that are not packed as an array, and of a damaged file it does not say where
the damage is. Here arrays are views of the mapped file, and messages name the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .header import WeightsError
from .readers.mapped import LONGEST_NAME, MappedFile

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5

MOST_FIELDS = 100_000  # of one file: the largest Caffe nets have some 20,000


class Part(NamedTuple):
    """The bytes ``start`` to ``end`` (exclusive) of a file: all of it, or a BYTES value."""

    start: int
    end: int


class Field(NamedTuple):
    """A field of a message, or many FOUR or EIGHT fields of one number that follow each other.

    Attributes
    ----------
    number, kind
        The field's number, and the kind of its value.
    value
        Of a VARINT the number, from 0 to 2**64 - 1; of a BYTES the `Part`; of FOUR and EIGHT an
        array of uint32 or uint64 (n,): view it as what the numbers are.
    """

    number: int
    kind: int
    value: Any


class WireFile(MappedFile):
    r"""A file that holds a message, mapped into memory: bytes are read when they are looked at.

    Every length that the file claims is checked against what is there before it is used, and
    `MOST_FIELDS` bounds the work, so that no file can make the reader hang or fill the memory.

    Raises
    ------
    WeightsError
        If the file is missing, empty or cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "message"
    ...     _ = path.write_bytes(bytes_field(1, b"LeNet") + b"\x18\x80\x01")
    ...     file = WireFile(path)
    ...     for number, kind, value in file.fields(file.whole):
    ...         print(number, file.text(value) if kind == BYTES else value)
    1 LeNet
    3 128
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.whole, self.count = Part(0, self.size), 0

    def fields(self, message: Part) -> Iterator[Field]:
        """Yield the fields of a message in order.

        Raises
        ------
        WeightsError
            Where the bytes cannot be those of a message.
        """
        place, end = message
        while place < end:
            start = place
            self.count += 1
            if self.count > MOST_FIELDS:
                raise self.damaged(start, f"more than {MOST_FIELDS} fields, which no net has")
            tag, place = self.varint(place, end)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise self.damaged(start, f"a field of number {number}, which there cannot be")
            value: Any
            if kind == VARINT:
                value, place = self.varint(place, end)
            elif kind == BYTES:
                length, place = self.varint(place, end)
                if length > end - place:
                    rule = f"{length} bytes should follow, but only {end - place} are left"
                    raise self.damaged(start, f"{rule} of {self._part(message)}: cut short?")
                value = Part(place, place + length)
                place += length
            elif kind in (FOUR, EIGHT):
                value, place = self._run(start, place, end, 4 if kind == FOUR else 8)
            else:
                raise self.damaged(
                    start, f"a value of kind {kind}, of which Caffe's files have none"
                )
            yield Field(number, kind, value)

    def varint(self, place: int, end: int) -> tuple[int, int]:
        """Return the whole number at a place, and the place behind it."""
        value = 0
        for i in range(10):
            if place + i >= end:
                raise self.damaged(place, "a number that does not end: cut short?")
            byte = self.map[place + i]
            value |= (byte & 127) << 7 * i
            if byte < 128:
                break
        if byte >= 128 or value >= 1 << 64:
            raise self.damaged(place, "a whole number of more than 64 bits")
        return value, place + i + 1

    def _run(self, start: int, place: int, end: int, size: int) -> tuple[np.ndarray, int]:
        """Return the values of equal fields from ``start`` on, as one array, and the place behind.

        Floats that are not packed lie as tag, value, tag, value, ...: a table with two columns.
        The first value is at ``place``.
        """
        width = place - start  # of the tag
        row = width + size
        most = (end - start) // row
        if most == 0:
            raise self.damaged(
                start, f"{size} bytes should follow, but only {end - place} are left"
            )
        tags = np.ndarray((most, width), np.uint8, self.map, start, (row, 1))
        count, step = 1, 16
        while count < most:  # look ever further ahead, so that short runs cost little
            same = (tags[count : count + step] == tags[0]).all(axis=1)
            if not same.all():
                count += int(same.argmin())
                break
            count, step = count + len(same), min(2 * step, 1 << 18)
        values = np.ndarray((count,), f"<u{size}", self.map, place, (row,))
        return values, start + count * row

    def packed_integers(self, part: Part, most: int) -> list[int]:
        """Return the whole numbers, one varint after the other, of which a value consists."""
        found: list[int] = []
        place, end = part
        while place < end:
            if len(found) == most:
                raise self.damaged(part.start, f"more than {most} sizes of an array")
            value, place = self.varint(place, end)
            found.append(value)
        return found

    def packed_floats(self, part: Part, dtype: str) -> np.ndarray:
        """Return the numbers of which a value consists: a view (n,) of the file."""
        start, end = part
        count, rest = divmod(end - start, np.dtype(dtype).itemsize)
        if rest:
            raise self.damaged(start, f"{end - start} bytes are no whole number of {dtype[1:]}")
        return np.ndarray((count,), dtype, self.map, start)

    def text(self, part: Part) -> str:
        """Return the text, UTF-8, that a value is: a name."""
        start, end = part
        if end - start > LONGEST_NAME:
            raise self.damaged(start, f"a name of {end - start} bytes; at most {LONGEST_NAME}")
        try:
            text = self.map[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(start + error.start, "a name that is not UTF-8 text") from None
        if not text.isprintable():
            raise self.damaged(start, f"{text!r}, a name that cannot be printed")
        return text

    def damaged(self, place: int, found: str) -> WeightsError:
        """Return an error that names the file, the byte and what is wrong there."""
        return self.error(f"damaged, or no Caffe file: at byte {place}: {found}")

    def _part(self, part: Part) -> str:
        return "the file" if part == self.whole else f"the part from byte {part.start} on"


def varint(value: int) -> bytes:
    r"""Return a whole number from 0 to 2**64 - 1 as it is written.

    >>> varint(300)
    b'\xac\x02'
    """
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def bytes_start(number: int, length: int) -> bytes:
    r"""Return what stands before a BYTES value of that length.

    >>> bytes_start(100, 5)
    b'\xa2\x06\x05'
    """
    return varint(number << 3 | BYTES) + varint(length)


def bytes_field(number: int, value: bytes | str) -> bytes:
    r"""Return a field that holds a text, or bytes such as those of another message.

    >>> bytes_field(1, "ReLU")
    b'\n\x04ReLU'
    """
    value = value.encode("utf-8") if isinstance(value, str) else value
    return bytes_start(number, len(value)) + value
