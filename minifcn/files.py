"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .backend import Error

LEFTOVER = re.compile(r"\..+\.[0-9]+\.tmp", re.DOTALL)  # the names that `replacing` makes up


class WriteError(Error, OSError):
    """A file that cannot be written."""


def replace_file(path: str | Path, content: bytes, durable: bool = False) -> None:
    """Write a file under a temporary name in the same folder, then rename it.

    Parameters
    ----------
    path
        The file; one that is there is replaced.
    content
        All that it shall hold.
    durable
        Whether it shall be whole even if the machine loses its power.

    Raises
    ------
    WriteError
        If it cannot be written. A file that was there before is still there then.

    Examples
    --------
    >>> replace_file("missing/a.txt", b"text")
    Traceback (most recent call last):
    minifcn.files.WriteError: missing/a.txt: cannot be written: No such file or directory: the \
folder missing is not there any more, or never was
    """
    try:
        with replacing(Path(path), durable) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        why = why_not_written(error, Path(path), len(content))
        raise WriteError(f"{path}: cannot be written: {why}") from error


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary name in the same folder; rename it to ``path`` if all went well.

    If not, the temporary file is removed and ``path`` is as it was. With ``durable`` that holds
    even if the machine loses its power: the content is on the disk before the name is.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "note.txt") as temporary:
    ...         _ = temporary.write_text("complete")
    ...     [file.name for file in Path(folder).iterdir()]
    ['note.txt']
    """
    # Not the whole of a long name: with more around it, it would be too long for a file.
    temporary = path.with_name(f".{path.name[:60]}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            to_disk(temporary)
        temporary.replace(path)
    except BaseException:  # Ctrl-C, too, must leave nothing behind
        with contextlib.suppress(OSError):  # the folder may be missing, or no folder at all
            temporary.unlink()
        raise
    if durable:
        to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk.

    >>> to_disk(Path("."))
    """
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    opened = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_leftovers(folder: Path) -> list[str]:
    """Remove what `replacing` left in a folder and those below when a process was killed.

    Only to be called while nobody else writes there. Returns the names.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in (".config.json.1234.tmp", ".of-another-program.tmp"):
    ...         (Path(folder) / name).touch()
    ...     remove_leftovers(Path(folder))
    ['.config.json.1234.tmp']
    """
    hidden = sorted(folder.rglob(".*.tmp")) if folder.is_dir() else []
    found = [path for path in hidden if LEFTOVER.fullmatch(path.name)]  # not other programs' own
    for path in found:
        path.unlink(missing_ok=True)
    return [path.name for path in found]


def why_not_written(error: OSError, path: Path, needed: int = 0) -> str:
    """Say why a file could not be written, and what to do about it.

    Parameters
    ----------
    error
        What the system says.
    path
        The file.
    needed
        The bytes that it would have, if known.

    Examples
    --------
    >>> why_not_written(PermissionError(13, "Permission denied"), Path("net.safetensors"))
    'Permission denied: allow writing in this folder'
    """
    reason = error.strerror or str(error)
    folder = path.parent
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there any more, or never was"
        return f"{reason}: the folder {folder} {what}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder).free
        size = f"it needs {needed / 1e6:.1f} MB, " if needed else ""
        return f"{reason}: {size}{free / 1e6:.1f} MB are free there: make room"
    if error.errno == errno.EFBIG:
        return (
            f"{reason}: files may not become as large here ({needed / 1e6:.1f} MB; see ulimit -f)"
        )
    advice = {
        errno.EACCES: "allow writing in this folder",
        errno.EPERM: "allow writing in this folder",
        errno.EROFS: "this disk can only be read: choose a folder on another one",
    }
    return f"{reason}: {advice[error.errno]}" if error.errno in advice else reason
