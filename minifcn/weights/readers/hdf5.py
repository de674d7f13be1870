"""HDF5 files, in which Keras and Caffe keep arrays: a tree of groups, datasets and attributes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .mapped import EXPANSION, MappedFile, check_name, check_shape, native, shown

MAGIC = b"\x89HDF\r\n\x1a\n"
WORKER = Path(__file__).with_name("hdf5_worker.py")
TIME_LIMIT = 30.0  # seconds for any file
SPEED = 20e6  # bytes per second of the slowest unpacking, for which there is more time
MEMORY = 2 << 30  # bytes of addresses for Python, NumPy and the library themselves


class Hdf5:
    """What is in an HDF5 file.

    Attributes
    ----------
    file
        The file.
    groups
        For the path of each group (``""`` is the whole file) its attributes, as far as they are
        those that Keras writes; a text, or a list of texts.

    Raises
    ------
    WeightsError
        If h5py is not installed, or the file is damaged, or has links to other files.
    """

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        described, self.sent = self._describe()
        if "error" in described:
            raise file.error(f"an HDF5 file, damaged or cut short: {described['error']}")
        self.groups: dict[str, dict[str, Any]] = described["groups"]
        self._datasets: dict[str, dict[str, Any]] = described["datasets"]

    @property
    def datasets(self) -> list[str]:
        """The paths of all datasets, such as ``layers/conv2d/vars/0``, in the file's order."""
        return list(self._datasets)

    def array(self, name: str) -> np.ndarray:
        """Return a dataset's array: a view of the file if it lies there in one piece.

        Raises
        ------
        WeightsError
            If there is no such dataset, or it is none of plain numbers.
        """
        if name not in self._datasets:
            raise self.file.error(f"damaged: it speaks of {shown(name)}, but has no such dataset")
        check_name(self.file.path, name)
        found = self._datasets[name]
        if "refused" in found:
            raise self.file.error(f"its dataset {shown(name)} {found['refused']}")
        dtype, shape = found["dtype"], found["shape"]
        if "place" in found:
            return native(self.file.array(dtype, shape, found["place"], name))
        count = check_shape(self.file.path, shape, name)
        return native(np.frombuffer(self.sent, dtype, count, found["sent"]).reshape(shape))

    def _describe(self) -> tuple[dict[str, Any], bytes]:
        """Return what `hdf5_worker` says of the file, and the bytes that it sent."""
        file = self.file
        if importlib.util.find_spec("h5py") is None:
            raise file.error("an HDF5 file, which needs h5py: pip install 'minifcn[keras]'")
        memory = MEMORY + 4 * EXPANSION * file.size
        limit = TIME_LIMIT + file.size / SPEED
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(WORKER), str(memory), str(file.path.absolute())],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit,
                check=False,
                # No thread pool that it has no use for, and no plug-ins of the HDF5 library.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"},
            )
        except subprocess.TimeoutExpired:
            raise file.error(
                f"damaged: the HDF5 library was not done after {limit:.0f} s"
            ) from None
        line, _, sent = done.stdout.partition(b"\n")
        try:
            described = json.loads(line)
        except ValueError:
            described = {}
        if done.returncode or len(sent) != described.get("sent"):
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise file.error(
                f"damaged: the HDF5 library crashed on it (exit status {done.returncode}"
                f"{', ' + shown(said[0]) if said else ''})"
            )
        return described, sent
