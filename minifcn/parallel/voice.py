"""One command in several processes speaks with one voice, and ends as a whole."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from ..stopping import Stopped
from .launch import join, launched

GRACE = 2.0  # seconds in which rank 0 ends all, if it has the same error
HEARD = 0.5  # seconds in which the launcher passes on what was printed, before all are ended


@contextmanager
def one_voice() -> Iterator[None]:
    """Let rank 0 alone print, and others only an error that rank 0 does not have.

    >>> with one_voice():
    ...     print("heard")
    heard
    """
    told = launched()
    try:
        if told.rank == 0:
            yield
            return
        with (
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            yield
    except SystemExit as end:  # all ranks agreed to stop, unless a command was never begun
        if end.code and told.number > 1 and not join.cache_info().currsize:
            if told.rank:
                _let_rank_0_speak()
                print(f"minifcn: rank {told.rank} cannot use its arguments", file=sys.stderr)
            leave(int(end.code))
        raise
    except Exception:
        if told.rank:
            _let_rank_0_speak()
            print(f"minifcn: rank {told.rank} of {told.number} ends all:", file=sys.stderr)
        raise


def _let_rank_0_speak() -> None:
    """Give rank 0 the time to end all ranks, if it has the same error; for that all must meet."""
    if _mpi() is None:
        sys.exit(2)  # as rank 0 does
    time.sleep(GRACE)


def end_all(
    show: Callable[[type[BaseException], BaseException, TracebackType | None], object],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """Show an error that nobody caught, and end all processes: `sys.excepthook` of each rank."""
    if launched().rank:
        time.sleep(GRACE)
    show(kind, error, trace)
    if not isinstance(error, Stopped):  # to stop all ranks have agreed
        leave(130 if isinstance(error, KeyboardInterrupt) else 1)


def leave(code: int) -> NoReturn:
    """End this process and all others that it works with, which might wait for it for ever."""
    mpi = _mpi() if launched().number > 1 else None
    if mpi is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(HEARD)
        mpi.COMM_WORLD.Abort(code)
    sys.exit(code)


def _mpi() -> Any:
    """Return MPI, which all ranks meet in; None if there is none."""
    try:
        from mpi4py import MPI
    except ImportError:
        return None
    return MPI
