"""TensorBoard's event files of a run, written by the package tensorboardX.

A stage has a folder of its own there, so that TensorBoard shows it as a run. The report has all of
this and more; the files are for those who watch many runs in TensorBoard anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from .backend import Error
from .metrics import ConfusionMatrix
from .runs import WATCH, Run
from .step import Step


class EventFileError(Error, RuntimeError):
    """Event files that cannot be written for want of a package."""


def event_writer() -> ModuleType:
    """Return the package that writes event files.

    Raises
    ------
    EventFileError
        If it is not installed.

    Examples
    --------
    >>> event_writer().SummaryWriter  # doctest: +SKIP
    """
    try:
        return import_module("tensorboardX")
    except ImportError as error:
        raise EventFileError(
            "TensorBoard's event files need the package tensorboardX, which is not installed: "
            "pip install 'minifcn[tensorboard]', or leave out --tensorboard"
        ) from error


class EventFiles:
    """Writes losses, rates, metrics and pictures as event files.

    Parameters
    ----------
    folder
        Gets a folder for each stage.

    Raises
    ------
    EventFileError
        If the package tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.stage = folder, ""
        self.writer: Any = None
        self.unknown: list[Step] = []
        self.module = event_writer()

    def started(self, stage: str, at: int = 0) -> None:
        """Begin the files of a stage; TensorBoard then passes by what is there of later steps."""
        self.flush()
        self.stage = stage
        folder = self.folder / stage
        self.writer = self.module.SummaryWriter(str(folder), purge_step=at + 1 if at else None)

    def stepped(self, step: Step) -> None:
        """Write loss and learning rate, as soon as the loss is known without waiting."""
        self.unknown.append(step)
        self._write_known()

    def _write_known(self) -> None:
        while self.unknown and self.unknown[0].known:
            known = self.unknown.pop(0)
            self._scalar("loss", known.loss, known.step)
            self._scalar("learning_rate", known.lr, known.step)

    def evaluated(self, step: int, matrices: Mapping[str, ConfusionMatrix], run: Run) -> None:
        """Write the metrics, the IU of each class, and the pictures of the report."""
        self._write_known()
        for head, matrix in matrices.items():
            begin = f"{head}/" * bool(head)
            for name, value in matrix.summary().items():
                self._scalar(f"{begin}{name}", value, step)
            classes = run.shown.heads[head].classes if run.shown else ()
            for name, value in zip(classes, matrix.iu(), strict=False):
                self._scalar(f"{begin}IU/{name}", float(value), step)
        for path in sorted((run.folder / WATCH).glob(f"{self.stage}-{step:08}-*.png")):
            _, _, number, head_number = path.stem.split("-")
            name = run.shown.samples[int(number)] if run.shown else number
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            tag = f"pictures/{name}" + f"/{head_number}" * (len(matrices) > 1)
            self.writer.add_image(tag, pixels, step, dataformats="HWC")
        self.writer.flush()

    def flush(self) -> None:
        """End the files of a stage."""
        if self.writer:
            self._write_known()
            self.writer.close()
        self.writer, self.unknown = None, []

    def _scalar(self, name: str, value: float, step: int) -> None:
        if math.isfinite(value):
            self.writer.add_scalar(name, value, step)
