"""Output that shows every name as text: what a terminal would obey is written as a code.

Names of files and classes come from others. One with an escape in it could clear the screen, move
the cursor or, in some terminals, type a command.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from .plain_text import visible


class Shielded:
    r"""A stream that writes codes in place of control characters, ends of lines and tabs aside.

    Parameters
    ----------
    stream
        Where the text goes.

    Examples
    --------
    >>> import io
    >>> screen = io.StringIO()
    >>> print("class \x1b[2J", file=Shielded(screen))
    >>> screen.getvalue()
    'class \\x1b[2J\n'
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def rich_proxied_file(self) -> TextIO:
        """The stream itself, which Rich asks for: its own colours and bars must get through."""
        return self._stream

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        shown = visible(text, keep="\n\t")
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Shield standard output and standard error; Rich's tables are shielded where they are filled.

    >>> with shielded():
    ...     print("plain")
    plain
    """
    out: Any = Shielded(sys.stdout)
    err: Any = Shielded(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
