"""Messages of protocol buffers, written without a copy of the arrays in them.

A message is a list of pieces, one behind the other in the file. A large message inside another is
pieces as well, after a few bytes that tell its length: see `minifcn.weights.wire`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO, TypeAlias

import numpy as np

from ..pieces import in_order
from ..wire import bytes_start

Piece: TypeAlias = bytes | np.ndarray


def field(number: int, content: Sequence[Piece]) -> list[Piece]:
    r"""Return a field that holds a message, or the numbers of arrays.

    >>> field(5, [b"abc"])
    [b'*\x03', b'abc']
    """
    return [bytes_start(number, length(content)), *content]


def length(content: Iterable[Piece]) -> int:
    """Return how many bytes pieces take.

    >>> length([b"abc", np.zeros((2, 3), np.float32)])
    27
    """
    return sum(len(piece) if isinstance(piece, bytes) else piece.nbytes for piece in content)


def write_pieces(file: BinaryIO, content: Iterable[Piece]) -> None:
    r"""Write pieces; arrays as their numbers in the order of the axes, little-endian.

    >>> import io
    >>> write_pieces(file := io.BytesIO(), [b"abc", np.array([1, 2], np.int16)])
    >>> file.getvalue()
    b'abc\x01\x00\x02\x00'
    """
    for piece in content:
        if isinstance(piece, bytes):
            file.write(piece)
            continue
        for part in in_order(np.atleast_1d(piece)):
            file.write(part.astype(part.dtype.newbyteorder("<"), copy=False).data)
