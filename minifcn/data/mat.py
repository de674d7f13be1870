"""Label maps in MATLAB files of version 5 to 7, read through SciPy."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from minifcn.backend import Error
from minifcn.data.dataset import DataError
from minifcn.data.images import most_pixels
from minifcn.plain_text import one_line

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
WORKER = Path(__file__).with_name("mat_worker.py")
TIME_LIMIT = 60.0  # seconds for a file; a thousandth of it is usual
MEMORY = 2 << 30  # bytes of addresses for the process that reads; Python and SciPy take a fifth
MAP_RULE = "a label map must be whole numbers of shape (H, W)"


class MissingScipyError(Error, ImportError):
    """A .mat file is to be read, and SciPy is not installed."""


def read_mat(path: str | Path, variable: str) -> np.ndarray:
    """Return a variable of a MATLAB file that holds numbers, as it is stored.

    SciPy reads it, which the extra ``datasets`` installs, in a process of its own: see
    `minifcn.data.mat_worker`. It does not read files of MATLAB's version 7.3, which are HDF5 files.

    Parameters
    ----------
    path
        The .mat file.
    variable
        The name of the variable, or ``"NAME.FIELD"`` for a field of a struct of 1 x 1. The others
        are not read.

    Returns
    -------
    numpy.ndarray
        Of numbers, with at least two axes, as everything has in MATLAB.

    Raises
    ------
    DataError
        If the file is missing, is no such MATLAB file, is damaged or cut short, or has no such
        variable (then the message names those that it has), or it holds no numbers.
    MissingScipyError
        If SciPy is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import scipy.io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     scipy.io.savemat(f"{folder}/a.mat", {"S": np.eye(2, dtype=np.uint8)})
    ...     read_mat(f"{folder}/a.mat", "S").tolist()
    [[1, 0], [0, 1]]
    """
    if importlib.util.find_spec("scipy") is None:
        raise MissingScipyError(
            f"{path}: reading .mat files needs SciPy: pip install 'minifcn[datasets]'"
        )
    size = _check_start(Path(path))
    told, content = _reader().read(Path(path), variable)
    if "error" in told:
        raise DataError(
            f"{path}: not a MATLAB file of version 5 to 7, or damaged or cut short: "
            f"{size} bytes, {one_line(told['error'])}: fetch it again"
        )
    name, _, field = variable.partition(".")
    if "variables" in told:
        names = one_line(", ".join(told["variables"])) or "none"
        raise DataError(f"{path}: has no variable {name!r}: it holds {names}")
    fields = one_line(", ".join(told["fields"]))
    if told["name"] != variable:
        found = f"the fields {fields}" if fields else "no fields"
        raise DataError(
            f"{path}: {name} has {found} and shape {tuple(told['shape'])}: it must be one struct "
            f"with the field {field}"
        )
    if "dtype" not in told:
        found = f"struct with the fields {fields}" if fields else told["type"]
        raise DataError(
            f"{path}: {variable}: got {found} of shape {tuple(told['shape'])}: {MAP_RULE}"
        )
    return np.frombuffer(content, told["dtype"]).reshape(told["shape"]).copy()


class _Reader:
    """A process that reads one file after the other, and a new one after each that ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()

    def read(self, path: Path, variable: str) -> tuple[dict[str, Any], bytes]:
        """Return what the process says of a variable, and the bytes of its array."""
        with self._guard:
            process = self._process = self._process or _start()
            assert process.stdin is not None
            assert process.stdout is not None
            watch = threading.Timer(TIME_LIMIT, process.kill)
            watch.start()
            try:
                question = json.dumps([os.fspath(path.absolute()), variable, most_pixels()])
                process.stdin.write(question.encode("ascii") + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
                told = json.loads(line) if line.endswith(b"\n") else {}
                content = process.stdout.read(told.get("sent", 0))
                whole = bool(told) and len(content) == told["sent"]
            except BrokenPipeError:
                whole = False
            except BaseException:  # Ctrl-C in the middle: what comes next would answer this
                self._end()
                raise
            finally:
                late = not watch.is_alive()
                watch.cancel()
            if whole:
                return told, content
            status = self._end()
        if late:
            return {"error": f"it took more than {TIME_LIMIT:.0f} s"}, b""
        return {"error": f"it crashed SciPy (status {status})"}, b""

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.communicate()
        return process.returncode

    def close(self) -> None:
        """End the process, if there is one."""
        with self._guard:
            self._end()


def _start() -> subprocess.Popen[bytes]:
    """Return the process of `mat_worker`, its memory bounded where the system can do that."""
    process = subprocess.Popen(
        [sys.executable, "-P", str(WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # it has no use for threads
    )
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        limits = {resource.RLIMIT_AS: MEMORY, resource.RLIMIT_CORE: 0}
        for kind, limit in limits.items():
            resource.prlimit(process.pid, kind, (limit, limit))  # Linux has it
    return process


@functools.cache
def _reader_of(process: int) -> _Reader:
    reader = _Reader()
    atexit.register(reader.close)
    return reader


def _reader() -> _Reader:
    """Return this process's reader: one that was copied must not share that of another."""
    return _reader_of(os.getpid())


def _check_start(path: Path) -> int:
    """Return the size of a file, if it may be a MATLAB file that SciPy reads."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if start.startswith((b"MATLAB 7.3", HDF5_SIGNATURE)):
        raise DataError(
            f"{path}: a MATLAB file of version 7.3 (HDF5), which SciPy does not read: save it "
            "again in MATLAB with save(..., '-v7')"
        )
    return size


def check_map(source: object, array: np.ndarray) -> np.ndarray:
    """Return a label map from a MATLAB file as integers (H, W).

    MATLAB's numbers are floats unless said otherwise, so floats without fractions are taken, too.

    Parameters
    ----------
    source
        The file and variable, for messages.
    array
        What was read.

    Returns
    -------
    numpy.ndarray
        (H, W), of the integer type that it has; int64 if it was float.

    Raises
    ------
    DataError
        If it is not numbers, not whole numbers, or not two-dimensional and non-empty.

    Examples
    --------
    >>> check_map("a.mat: S", np.array([[1.0, 2.0]]))
    array([[1, 2]])
    """
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "uif":
        raise DataError(f"{source}: got {array.dtype} of shape {array.shape}: {MAP_RULE}")
    if array.dtype.kind != "f":
        return array
    whole = np.isfinite(array) & (array == np.rint(array))
    if not whole.all():
        row, column = np.argwhere(~whole)[0].tolist()
        raise DataError(
            f"{source}: got {array[row, column]} at row {row}, column {column}: {MAP_RULE}"
        )
    return array.astype(np.int64)


def read_mat_map(path: str | Path, variable: str) -> np.ndarray:
    """Return a label map, integers (H, W), of a MATLAB file: `read_mat`, then `check_map`."""
    return check_map(f"{path}: {variable}", read_mat(path, variable))
