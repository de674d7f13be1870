"""Watching a run: its log, pictures, and the report that is written anew as the run goes.

``report.html`` is made from the files in the run folder alone. It is written after each evaluation,
else every 30 seconds at most, and so seldom that it takes less than a hundredth of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from . import runs
from .backend import Error
from .data import UNIT, DataError, Dataset, Preprocessing
from .event_files import EventFiles
from .files import WriteError, why_not_written
from .gpu_memory import held
from .layer_statistics import layer_statistics
from .metrics import ConfusionMatrix
from .nn import Module
from .optim import SGD
from .process_memory import resident
from .run_log import Log, cut_log, evaluation_line
from .run_page import write_page
from .step import Step
from .watched_pictures import WatchedPictures

REPORT = "report.html"
REPORT_EVERY = 30.0  # seconds, at least
REPORT_SHARE = 100  # of the time that may go into reports: one of so many seconds
LAYERS_EVERY = 100  # steps between two looks at the layers
MEMORY_EVERY = 10  # steps between two looks at the memory
BUFFER = 1 << 20  # bytes of the log that wait while the disk is full


class NoWatch:
    """Watches nothing: for processes beside the one that watches."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def started(self, stage: str, at: int = 0, evaluated: bool = True) -> None:
        """Tell that a stage begins, or goes on after a step, and whether that was evaluated."""

    @contextmanager
    def looking(self, model: Module, optimizer: SGD, step: int) -> Iterator[None]:
        """Look at the layers during a whole step, every now and then."""
        yield

    def stepped(self, step: Step) -> None:
        """Tell about a step of the stage."""

    def evaluated(
        self, step: int, model: Module, matrices: Mapping[str, ConfusionMatrix], seconds: float
    ) -> None:
        """Tell what an evaluation found, and how long it took."""

    def event(self, step: int, text: str) -> None:
        """Tell about something else that happened at a step of the stage."""

    def flush(self) -> None:
        """Wait until all that was told is in the log."""

    def unwritten(self) -> str:
        """Return why the last lines are not in the log yet; "" if they are."""
        return ""

    def stopped(self, reason: str) -> None:
        """Tell that the run stops before its end, and why."""


class Watch(NoWatch):
    """Writes the log, the pictures and the report of a run. Use it in a ``with`` block.

    Leaving the block tells how the run ended: finished, stopped, or failed with an error.

    Parameters
    ----------
    out
        The folder of the run, with its ``config.json``.
    val_set
        The held-out images, of which some are shown.
    preprocessing, device
        As for `minifcn.evaluation.evaluate`.
    finished
        The stages that an earlier process has finished: their logs are read.
    tensorboard
        Whether to write TensorBoard's event files, too: into ``out/tensorboard``.
    warned
        Is called with a text if the report cannot be written; training goes on then.
    every
        Seconds between two reports, at least.
    clock
        Tells the time in seconds.

    Raises
    ------
    RunError, LogError
        If the folder holds no run, or a damaged log.
    EventFileError
        If the package that writes event files is not installed.
    """

    def __init__(
        self,
        out: Path,
        val_set: Dataset,
        preprocessing: Preprocessing = UNIT,
        device: str = "cpu",
        *,
        finished: Iterable[str] = (),
        tensorboard: bool = False,
        warned: Callable[[str], None] | None = None,
        every: float = REPORT_EVERY,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.out, self.device, self.every, self.clock = out, device, every, clock
        self.warned = warned or (lambda text: None)
        self.events = EventFiles(out / "tensorboard", self.warned) if tensorboard else None
        self.run = runs.read(out, finished)
        self.pictures = WatchedPictures(out, val_set, preprocessing, device)
        self.run.shown = self.pictures.shown
        self.stage = ""
        self.log: Log | None = None
        self.file: IO[str] | None = None
        self.written, self.took = -float("inf"), 0.0
        self.waits = False  # whether lines of the log have to wait

    def started(self, stage: str, at: int = 0, evaluated: bool = True) -> None:
        """Begin a stage, or go on with it after a step; what its log has beyond that is cut off."""
        self._close()
        names = list(self.run.recipes)
        for name in names[names.index(stage) :]:
            self.run.stages.pop(name, None)
            self.pictures.cut(name, at if name == stage else 0)
            if name != stage:
                (self.out / name / "log.jsonl").unlink(missing_ok=True)
        self.stage, path = stage, self.out / stage / "log.jsonl"
        path.parent.mkdir(exist_ok=True)
        self.run.stages[stage] = told = cut_log(path, at, evaluated)
        if told.step < at:
            self.warned(f"{path}: lines are missing after step {told.step}, up to step {at}")
        self.file = path.open("a", BUFFER, encoding="utf-8")
        self.log = Log(self.file, told.take)
        if self.events:
            self.events.started(stage, at)
        self._tell(runs.State(runs.RUNNING, stage))
        if at:
            self.event(at, "the run went on from here")
        self.refresh()

    @contextmanager
    def looking(self, model: Module, optimizer: SGD, step: int) -> Iterator[None]:
        """Look at the layers during a whole step: the first, and one of every hundred."""
        if step != 1 and step % LAYERS_EVERY:
            yield
            return
        with layer_statistics(model, optimizer) as found:
            yield
        assert self.log  # a stage has begun
        self.log.add(None, step=step, layers=found)

    def stepped(self, step: Step) -> None:
        """Note a step; write the report if that is due."""
        assert self.log
        more: dict[str, Any] = {}
        if step.step == 1 or step.step % MEMORY_EVERY == 0:
            memory = resident() if self.device == "cpu" else held(self.device)
            more = {"memory": memory} if memory else {}
        self.log.add(step, **more)
        self._warn_of_log()
        if self.events:
            self.events.stepped(step)
        if self.clock() - self.written >= max(self.every, REPORT_SHARE * self.took):
            self.refresh()

    def evaluated(
        self, step: int, model: Module, matrices: Mapping[str, ConfusionMatrix], seconds: float
    ) -> None:
        """Note an evaluation, draw what the net says now, and write the report."""
        self.flush()
        assert self.log
        self.log.add(None, **evaluation_line(step, matrices, seconds))
        try:
            self.pictures.take(self.stage, step, model)
        except (DataError, OSError) as error:
            self.warned(f"the pictures of the report are not new: {error}")
        if self.events:
            self.events.evaluated(step, matrices, self.run)
        self.refresh()

    def event(self, step: int, text: str) -> None:
        """Note what happened."""
        assert self.log
        self.log.add(None, step=step, event=text)

    def flush(self) -> None:
        """Write all lines; waits for a GPU that is still computing, and for the disk."""
        if self.log:
            self.log.write()
        if self.log and not self.log.trouble:
            self.log.to_disk()

    def unwritten(self) -> str:
        """Return why the last lines are not in the log yet; "" if they are."""
        if not self.log or not self.log.trouble:
            return ""
        path = self.out / self.stage / "log.jsonl"
        return f"{path}: cannot be written: {why_not_written(self.log.trouble, path)}"

    def _warn_of_log(self) -> None:
        """Tell once that lines of the log have to wait."""
        now = self.unwritten()
        if now and not self.waits:
            self.warned(f"{now}; the last lines wait in memory")
        self.waits = bool(now)

    def stopped(self, reason: str) -> None:
        """Note why the run stops before its end."""
        self._tell(runs.State(runs.STOPPED, self.stage, reason))

    def refresh(self) -> None:
        """Write the report anew."""
        start = self.clock()
        try:
            write_page(self.out / REPORT, self.run)
        except WriteError as error:
            self.warned(f"the report is not new: {error}")
        self.written = self.clock()
        self.took = self.written - start

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Note how the run ended, and write the last report."""
        if self.run.state.name == runs.RUNNING:
            if error is None:
                self._tell(runs.State(runs.FINISHED, self.stage))
            elif isinstance(error, KeyboardInterrupt | SystemExit):
                self.stopped(str(error) or "interrupted")
            else:
                named = "" if isinstance(error, Error) else f"{type(error).__name__}: "
                self._tell(runs.State(runs.FAILED, self.stage, f"{named}{error}"))
        self._close()
        self.refresh()

    def _tell(self, state: runs.State) -> None:
        """Note how the run stands."""
        self.run.state = state
        try:
            runs.write_state(self.out, state)
        except WriteError as error:
            self.warned(f"the report will not tell how the run stands: {error}")

    def _close(self) -> None:
        """Close the log of a stage: all that is known is in it."""
        if self.log and self.file:
            self.log.close()
            try:
                self.file.close()
            except OSError as error:  # as on a full disk
                self.warned(f"the last lines of the log are not written: {error}")
        self.log = self.file = None
        if self.events:
            self.events.close()
