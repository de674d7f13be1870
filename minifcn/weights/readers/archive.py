"""Zip archives, in which PyTorch and NumPy keep one member for each array.

Nothing is unpacked to disk, so a member's name can lead nowhere.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from .mapped import MappedFile, check_expansion, check_name, shown

MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # of an archive, and of one without members
LONGEST_LIST = 4 << 20  # bytes of the list of members: some 50,000 arrays
LOCAL_HEADER = struct.Struct("<4s22xHH")  # stands before each member's bytes
PIECE = 1 << 20  # bytes that are unpacked at once


class Member(NamedTuple):
    """A file in an archive.

    Attributes
    ----------
    offset, length
        Where its bytes are in the archive.
    size
        How many they are when unpacked; as ``length`` if they are stored as they are.
    packed
        If they are compressed (deflated).
    crc
        The checksum of the unpacked bytes; 0 if whoever wrote it left it out.
    """

    offset: int
    length: int
    size: int
    packed: bool
    crc: int


class Archive:
    """The members of a zip archive.

    Attributes
    ----------
    file
        The archive.
    members
        By name.

    Raises
    ------
    WeightsError
        If the archive is damaged, or says of its members what cannot be.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(folder + "/a", "w") as writer:
    ...         writer.writestr("greeting", b"hello")
    ...     archive = Archive(MappedFile(folder + "/a"))
    ...     print(list(archive.members), archive.bytes("greeting").tobytes())
    ['greeting'] b'hello'
    """

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.members: dict[str, Member] = {}
        try:
            listed = zipfile.ZipFile(_ListReader(self.file)).infolist()
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            struct.error,
            ValueError,
            IndexError,
            OverflowError,
        ) as error:
            raise self.file.error(
                f"a zip archive, cut short or damaged ({error}); copy it again"
            ) from error
        packed = sum(info.compress_size for info in listed)
        if packed > self.file.size:
            raise self.file.error(
                f"an archive whose members should have {packed} bytes together, in a file of "
                f"{self.file.size}: damaged"
            )
        check_expansion(self.file.path, sum(info.file_size for info in listed), self.file.size)
        for info in listed:
            name = check_name(self.file.path, info.filename)
            if name in self.members:
                raise self.file.error(f"an archive with two members {shown(name)}: damaged")
            self.members[name] = self._member(info)

    def _member(self, info: zipfile.ZipInfo) -> Member:
        """Return where a member's bytes lie: behind a header that repeats its name."""
        name = shown(info.filename)
        if info.flag_bits & 1:
            raise self.file.error(f"its member {name} is encrypted: unpack it first")
        packed = info.compress_type == zipfile.ZIP_DEFLATED
        if not packed and info.compress_type != zipfile.ZIP_STORED:
            raise self.file.error(
                f"its member {name} is compressed by method {info.compress_type}; known are stored "
                "(0) and deflated (8)"
            )
        start = info.header_offset
        header = self.file.map[start : start + LOCAL_HEADER.size] if start >= 0 else b""
        if len(header) < LOCAL_HEADER.size or not header.startswith(MAGICS[0]):
            raise self.file.error(f"its member {name} should start at byte {start}: damaged")
        _, name_length, extra_length = LOCAL_HEADER.unpack(header)
        offset = start + LOCAL_HEADER.size + name_length + extra_length
        if offset + info.compress_size > self.file.size:
            raise self.file.error(
                f"its member {name} should have {info.compress_size} bytes from {offset} on, but "
                f"the file ends at {self.file.size}: cut short; copy it again"
            )
        if not packed and info.compress_size != info.file_size:
            raise self.file.error(f"its member {name} is stored with two sizes: damaged")
        return Member(offset, info.compress_size, info.file_size, packed, info.CRC)

    def bytes(self, name: str) -> np.ndarray:
        """Return a member's bytes as uint8 (size,): a view of the file if they are not compressed.

        Raises
        ------
        WeightsError
            If there is no such member, or its bytes are not those that were written.
        """
        if name not in self.members:
            raise self.file.error(f"an archive without the member {shown(name)}: damaged")
        member = self.members[name]
        content = self.file.array("u1", (member.length,), member.offset, name)
        if member.packed:
            content = self._unpack(content, member.size, name)
        if member.crc and (found := zlib.crc32(content.data)) != member.crc:
            raise self.file.error(
                f"its member {shown(name)} is damaged (checksum {found:#010x}, not "
                f"{member.crc:#010x}); copy the file again"
            )
        return content

    def _unpack(self, packed: np.ndarray, size: int, name: str) -> np.ndarray:
        """Return deflated bytes as they were."""
        content = np.empty(size, np.uint8)  # takes memory only where it is written to
        machine, done, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, packed.data
        try:
            while not machine.eof:
                piece = machine.decompress(rest[:PIECE], PIECE)
                used = (
                    min(len(rest), PIECE) - len(machine.unconsumed_tail) - len(machine.unused_data)
                )
                if done + len(piece) > size or not (piece or used):
                    break
                content[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done, rest = done + len(piece), rest[used:]
        except zlib.error as error:
            raise self.file.error(f"its member {shown(name)} is damaged: {error}") from error
        if done != size or not machine.eof:
            raise self.file.error(
                f"its member {shown(name)} does not unpack to the {size} bytes that it should "
                "have: damaged"
            )
        return content


class _ListReader:
    """What zipfile reads the list of members through: it asks for all of the list at once.

    The list's claimed size is the only one that it believes, and a Python object per member takes
    ten times the member's bytes in the list.
    """

    def __init__(self, file: MappedFile) -> None:
        self.map, self.place = file.map, 0

    def read(self, count: int = -1) -> bytes:
        """Return the bytes from the present place on."""
        if count > LONGEST_LIST:
            raise zipfile.BadZipFile(f"a list of members of {count} bytes")
        end = len(self.map) if count < 0 else self.place + count
        content = self.map[self.place : end]
        self.place += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as files do; raise OSError before the start."""
        self.place = offset + (0, self.place, len(self.map))[whence]
        if self.place < 0:
            raise OSError("a place before its start")
        return self.place

    def tell(self) -> int:
        """Return the present place."""
        return self.place
