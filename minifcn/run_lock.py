"""One run in a folder at a time: two would overwrite each other's files.

The lock is one of the operating system's on a file in the folder, which says who holds it. It ends
with its process, however that ends: nothing is left behind that would have to be removed by hand.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from .backend import Error
from .files import why_not_written

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # how a system says that it is held
_held: dict[tuple[Path, int], int] = {}  # how often, by folder and thread


class FolderInUseError(Error, RuntimeError):
    """A folder in which another run is at work, or nobody may write."""


@contextlib.contextmanager
def locked(folder: Path, warn: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Keep other runs out of a folder, on this machine and on others that see it.

    The thread that holds the lock may take it again. Whoever only reads the folder needs no lock.
    Of several processes of one run, only one takes it.

    Parameters
    ----------
    folder
        Must exist.
    warn
        Is told where the folder cannot be locked: on Windows, and on network drives without locks.
        Then nothing keeps a second run out.

    Raises
    ------
    FolderInUseError
        If another run holds it; the message says which: process, machine, since when, command. And
        if no file can be written there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with locked(Path(folder)):
    ...         print([file.name for file in Path(folder).iterdir()])
    ...     print(list(Path(folder).iterdir()))
    ['.lock']
    []
    """
    key = folder.resolve(), threading.get_ident()
    if key not in _held:
        opened = _taken(folder, warn)
    _held[key] = _held.get(key, 0) + 1
    try:
        yield
    finally:
        _held[key] -= 1
        if not _held[key]:
            del _held[key]
            if opened is not None:
                # Removed while it is held: who has opened it meanwhile sees that, in `_taken`.
                with contextlib.suppress(OSError):  # the whole folder may be gone
                    (folder / LOCK).unlink()
                os.close(opened)


def _taken(folder: Path, warn: Callable[[str], None]) -> int | None:
    """Return the descriptor of the file, which holds the lock; None if the system has none."""
    path = folder / LOCK
    if fcntl is None:
        warn(f"{folder}: this system has no locks: nothing keeps a second run out of the folder")
        return None
    while True:
        try:
            opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise FolderInUseError(f"{path}: {why_not_written(error, path)}") from error
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in TAKEN:
                told = _told(opened)
                os.close(opened)
                raise FolderInUseError(
                    f"{folder} is in use by another run{told}: wait until that has ended, end it, "
                    "or choose another folder"
                ) from None
            reason = error.strerror or error
            warn(
                f"{folder} cannot be locked ({reason}), as on some network drives: nothing keeps a "
                "second run out of the folder"
            )
            break  # the file tells at least that a run is at work
        if _is_at(opened, path):
            break
        os.close(opened)  # who held it has just removed it: the next one has another file
    os.ftruncate(opened, 0)
    os.pwrite(opened, json.dumps(_holder()).encode(), 0)
    return opened


def _is_at(opened: int, path: Path) -> bool:
    """Tell whether an opened file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False


def _holder() -> dict[str, str | int]:
    """Return who asks for a lock."""
    return {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "command": shlex.join(sys.argv),
    }


def _told(opened: int) -> str:
    """Return what the file says of who holds it; nothing if that is not written yet."""
    try:
        found = json.loads(os.pread(opened, 4096, 0))
        return (
            f" (process {found['process']} on {found['machine']}, since {found['since']}: "
            f"{found['command']})"
        )
    except (ValueError, TypeError, KeyError):
        return ""
