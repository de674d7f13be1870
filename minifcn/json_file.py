"""JSON that may come from anywhere: read with bounds, and with one kind of error; and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .backend import Error
from .files import replace_file

LARGEST = 256 << 20  # bytes of a file; a run's log of a million steps has half of that


class JsonError(Error, ValueError):
    """A file that is no JSON, or is too large or too deeply nested to be read."""


def read_json(path: str | Path) -> Any:
    """Return what a JSON file holds.

    Raises
    ------
    JsonError
        If it is no JSON in UTF-8, is larger than 256 MB, or its lists are nested hundreds deep.
    OSError
        If it cannot be read; FileNotFoundError if it is not there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "a.json"
    ...     _ = file.write_text('{"loss": 0.5}')
    ...     read_json(file)
    {'loss': 0.5}
    """
    return parse_json(read_text(path), path)


def read_text(path: str | Path) -> str:
    """Return a text file in UTF-8; raises as `read_json`."""
    with Path(path).open("rb") as file:
        content = bytearray()  # in pieces: read(LARGEST) would ask for so much memory at once
        while len(content) <= LARGEST and (piece := file.read(1 << 20)):
            content += piece
    if len(content) > LARGEST:
        raise JsonError(f"{path}: larger than {LARGEST >> 20} MB, which is all that is read of it")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"{path}: not UTF-8 text: byte {error.start} cannot be read") from None


def parse_json(text: str, source: object) -> Any:
    """Return what a JSON text holds; ``source`` is the file, for messages; raises as `read_json`.

    >>> parse_json("[1, 2", "a.json")
    Traceback (most recent call last):
    minifcn.json_file.JsonError: a.json: not JSON: Expecting ',' delimiter: line 1 column 6 (char 5)
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise JsonError(f"{source}: its lists or objects are nested too deeply") from None
    except ValueError as error:  # a number of more than 4300 digits, too
        raise JsonError(f"{source}: not JSON: {error}") from None


def write_json(path: str | Path, value: Any, durable: bool = True) -> None:
    """Write a value as JSON, whole or not at all; if ``durable``, even if the power fails.

    Raises
    ------
    WriteError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(f"{folder}/a.json", {"loss": 0.5})
    ...     read_json(f"{folder}/a.json")
    {'loss': 0.5}
    """
    replace_file(path, (json.dumps(value, indent=2) + "\n").encode(), durable)
