"""Ctrl-C, and being asked to end: a run finishes its step first, and saves what it has."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what kill and batch systems send


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop, and did, after it had saved what it learned.

    Attributes
    ----------
    signal
        What it was asked by: 2 (SIGINT, Ctrl-C) or 15 (SIGTERM).
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.signal = number


class Stopping:
    """While it is entered, the first SIGINT or SIGTERM only sets `signal`; a second one ends all.

    Signals reach the main thread only: in another one nothing changes.

    Attributes
    ----------
    signal
        The number of the signal that came; 0: none.

    Examples
    --------
    >>> with Stopping() as stopping:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stopping.signal
    15
    """

    def __init__(self) -> None:
        self.signal = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                # nohup's SIG_IGN stays; None is a handler that is not Python's.
                if handler not in (signal.SIG_IGN, None):
                    self.before[number] = handler
                    signal.signal(number, self._asked)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
