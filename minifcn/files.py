"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the same folder; rename it to ``path`` if all went well.

    If not, the temporary file is removed and ``path`` is as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "note.txt") as temporary:
    ...         _ = temporary.write_text("complete")
    ...     [file.name for file in Path(folder).iterdir()]
    ['note.txt']
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:  # Ctrl-C, too, must leave nothing behind
        with contextlib.suppress(OSError):  # the folder may be missing, or no folder at all
            temporary.unlink()
        raise
