"""A worker (see worker.py), as seen from the process that asks it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..backend import Error

PACKAGES = Path(__file__).parents[2]  # the folder that holds minifcn
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "MINIFCN_NUM_THREADS")
LAST_LINES = 3  # of what a worker wrote before it died


class WorkerError(Error, RuntimeError):
    """A worker that died, or an error inside of it."""


class MissingError(WorkerError):
    """A library that a worker could not import."""


class Worker:
    """A running worker; use it in a ``with`` block, so that none is left behind.

    Parameters
    ----------
    name
        What it does, for messages.
    threads
        How many threads its libraries may use.
    environment
        Further variables for it.

    Raises
    ------
    WorkerError
        From `ask`: if the worker died or failed. `MissingError` if it could not import a library.

    Examples
    --------
    >>> with Worker("minifcn", threads=1) as worker:
    ...     worker.ask("hello", peer="minifcn", threads=1).keys()
    dict_keys(['version', 'python', 'pid'])
    """

    def __init__(
        self, name: str, threads: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        path = os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
        limits = dict.fromkeys(LIBRARIES, str(threads))
        # A file, since a pipe that nobody empties would stop the worker when it is full.
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            # -P: the minifcn of PYTHONPATH, not another one in the folder where we happen to be.
            [sys.executable, "-P", "-m", "minifcn.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, **limits, "PYTHONPATH": path, **(environment or {})},
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> Worker:
        """Return the worker."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the worker."""
        self.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have an action of worker.py done; return its answer."""
        to, answers = self.process.stdin, self.process.stdout
        assert to, "opened as a pipe"
        assert answers, "opened as a pipe"
        try:
            to.write(json.dumps({"do": do, **arguments}) + "\n")
            to.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the process of {self.name} {self._end()} at {do!r}{self._said()}")
        answer = json.loads(line)
        if "error" in answer:
            kind = MissingError if answer["missing"] else WorkerError
            raise kind(f"{self.name} failed at {do!r}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process, and wait until it is gone."""
        self.process.kill()  # it has nothing to lose
        self.process.communicate()
        self.errors.close()

    def _end(self) -> str:
        code = self.process.wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended (code {code})"

    def _said(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().splitlines()[-LAST_LINES:]
        return ": " + " | ".join(lines) if lines else ""
