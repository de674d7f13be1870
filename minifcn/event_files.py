"""TensorBoard's event files of a run, written by the package tensorboardX.

A stage has a folder of its own there, so that TensorBoard shows it as a run. The report has all of
this and more; the files are for those who watch many runs in TensorBoard anyway.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from .backend import Error
from .files import why_not_written
from .metrics import ConfusionMatrix
from .runs import WATCH, Run, picture_name
from .step import Step

FLUSH = 60.0  # seconds after which what was written is brought to the disk


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
    >>> event_writer().record_writer.RecordWriter  # doctest: +SKIP
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

    The package's own `SummaryWriter` writes in a thread, which ends at the first error, as on a
    full disk; then it waits for that thread for ever. So its files are written here, one event
    after the other; an error is a warning, and there are no further events of the stage.

    Parameters
    ----------
    folder
        Gets a folder for each stage.
    warned
        Is called with a text if events cannot be written.

    Raises
    ------
    EventFileError
        If the package tensorboardX is not installed.
    """

    def __init__(self, folder: Path, warned: Callable[[str], None] | None = None) -> None:
        self.folder, self.stage = folder, ""
        self.warned = warned or (lambda text: None)
        self.writer: Any = None
        self.flushed = 0.0
        self.unknown: list[Step] = []
        self.module: Any = event_writer()

    def started(self, stage: str, at: int = 0) -> None:
        """Begin the files of a stage; TensorBoard then passes by what is there of later steps."""
        self.close()
        self.stage = stage
        folder, proto = self.folder / stage, self.module.proto.event_pb2
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
        with self._warning():
            folder.mkdir(parents=True, exist_ok=True)
            self.writer = self.module.record_writer.RecordWriter(str(folder / name))
            self._add(at + 1 if at else 0, file_version="brain.Event:2")
            if at:
                begin = proto.SessionLog(status=proto.SessionLog.START)
                self._add(at + 1, session_log=begin)

    def stepped(self, step: Step) -> None:
        """Write loss and learning rate, as soon as the loss is known without waiting."""
        if not self.writer:
            return
        self.unknown.append(step)
        with self._warning():
            self._write_known()
            if time.monotonic() - self.flushed > FLUSH:
                self._flush()

    def _write_known(self) -> None:
        while self.unknown and self.unknown[0].known:
            known = self.unknown.pop(0)
            self._scalar("loss", known.loss, known.step)
            self._scalar("learning_rate", known.lr, known.step)

    def evaluated(self, step: int, matrices: Mapping[str, ConfusionMatrix], run: Run) -> None:
        """Write the metrics, the IU of each class, and the pictures of the report."""
        if not self.writer:
            return
        with self._warning():
            self._write_known()
            for head, matrix in matrices.items():
                begin = f"{head}/" * bool(head)
                for name, value in matrix.summary().items():
                    self._scalar(f"{begin}{name}", value, step)
                classes = run.shown.heads[head].classes if run.shown else ()
                for name, value in zip(classes, matrix.iu(), strict=False):
                    self._scalar(f"{begin}IU/{name}", float(value), step)
            for path in sorted((run.folder / WATCH).glob(picture_name(self.stage, step))):
                _, _, number, head_number = path.stem.split("-")
                name = run.shown.samples[int(number)] if run.shown else number
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                tag = f"pictures/{name}" + f"/{head_number}" * (len(matrices) > 1)
                self._add(step, summary=self.module.summary.image(tag, pixels, dataformats="HWC"))
            self._flush()

    def close(self) -> None:
        """End the files of a stage."""
        if self.writer:
            with self._warning():
                self._write_known()
                self.writer.close()
        self.writer, self.unknown = None, []

    def _flush(self) -> None:
        self.writer.flush()
        self.flushed = time.monotonic()

    def _scalar(self, name: str, value: float | None, step: int) -> None:
        if value is not None and math.isfinite(value):
            self._add(step, summary=self.module.summary.scalar(name, value))

    def _add(self, step: int, **what: Any) -> None:
        event = self.module.proto.event_pb2.Event(step=step, wall_time=time.time(), **what)
        self.writer.write(event.SerializeToString())

    @contextmanager
    def _warning(self) -> Iterator[None]:
        """Turn an error of the disk into a warning, and write nothing more of the stage."""
        try:
            yield
        except OSError as error:
            if self.writer:
                with suppress(OSError):  # the same one
                    self.writer.close()
            self.writer, self.unknown = None, []
            why = why_not_written(error, self.folder / self.stage / "events")
            self.warned(f"{self.folder}: no further event files for TensorBoard: {why}")
