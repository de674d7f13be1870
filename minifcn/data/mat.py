"""Label maps in MATLAB files of version 5 to 7, read through SciPy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from minifcn.backend import Error
from minifcn.data.dataset import DataError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class MissingScipyError(Error, ImportError):
    """A .mat file is to be read, and SciPy is not installed."""


def read_mat(path: str | Path, variable: str) -> np.ndarray:
    """Return a variable of a MATLAB file, as it is stored.

    SciPy reads it, which the extra ``datasets`` installs. Files of MATLAB's version 7.3 are HDF5
    files, which it does not read.

    Parameters
    ----------
    path
        The .mat file.
    variable
        The name of the variable. The others are not read.

    Returns
    -------
    numpy.ndarray
        With at least two axes, as everything has in MATLAB; a struct has named fields.

    Raises
    ------
    DataError
        If the file is missing, is no such MATLAB file, is damaged or cut short, or has no such
        variable; then the message names those that it has.
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
    try:
        import scipy.io
    except ImportError:
        raise MissingScipyError(
            f"{path}: reading .mat files needs SciPy: pip install 'minifcn[datasets]'"
        ) from None
    file = _open(Path(path))
    try:
        content = scipy.io.loadmat(file, variable_names=[variable])
    except Exception as error:  # a damaged file makes SciPy raise errors of a dozen types
        raise DataError(
            f"{path}: not a MATLAB file of version 5 to 7, or damaged or cut short: "
            f"{file.getbuffer().nbytes} bytes, {type(error).__name__}: {error}: fetch it again"
        ) from error
    if variable not in content:
        file.seek(0)
        names = ", ".join(name for name, _, _ in scipy.io.whosmat(file)) or "none"
        raise DataError(f"{path}: has no variable {variable!r}: it holds {names}")
    return np.asarray(content[variable])


def _open(path: Path) -> io.BytesIO:
    """Return the bytes of a file, if it may be a MATLAB file that SciPy reads."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if content.startswith((b"MATLAB 7.3", HDF5_SIGNATURE)):
        raise DataError(
            f"{path}: a MATLAB file of version 7.3 (HDF5), which SciPy does not read: save it "
            "again in MATLAB with save(..., '-v7')"
        )
    return io.BytesIO(content)


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
    rule = "a label map must be whole numbers of shape (H, W)"
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "uif":
        fields = f" with the fields {', '.join(array.dtype.names)}" if array.dtype.names else ""
        found = "struct" if fields else str(array.dtype)
        raise DataError(f"{source}: got {found}{fields} of shape {array.shape}: {rule}")
    if array.dtype.kind != "f":
        return array
    whole = np.isfinite(array) & (array == np.rint(array))
    if not whole.all():
        row, column = np.argwhere(~whole)[0].tolist()
        raise DataError(f"{source}: got {array[row, column]} at row {row}, column {column}: {rule}")
    return array.astype(np.int64)


def read_mat_map(path: str | Path, variable: str) -> np.ndarray:
    """Return a label map, integers (H, W), of a MATLAB file: `read_mat`, then `check_map`."""
    return check_map(f"{path}: {variable}", read_mat(path, variable))
