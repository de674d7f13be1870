"""The log of a stage: ``log.jsonl``, a line of JSON for each thing that happened.

::

    {"step": 1, "steps": 400, "loss": 2.08, "lr": 0.1, "seconds": 0.05, ...}    a training step
    {"step": 100, "pixel_accuracy": 0.71, ..., "iu": [...], "matrix": [[...]]}  an evaluation
    {"step": 100, "layers": {"conv1_1": {"mean": 0.2, ...}}}                    statistics of layers
    {"step": 100, "event": "an image could not be read: a.png"}                 something else

The evaluation of a net with several heads has the numbers of each below the head's name. Durations
are those of a clock that never jumps; the time of day stands nowhere.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .backend import Error
from .curve import Curve
from .files import replace_file
from .json_file import parse_json
from .metrics import METRICS, ConfusionMatrix
from .step import Step

STEP_NUMBERS = ("loss", "lr", "seconds", "wait", "images", "memory")
EVENTS = 50  # of which the texts are kept


class LogError(Error, ValueError):
    """A log with a line that no run has written."""


class Log:
    """A file with a line for each step. Losses are not read before they are known.

    Parameters
    ----------
    file
        Where lines are written.
    told
        Is called with each line, as a dictionary, when it is written.

    Attributes
    ----------
    trouble
        Why the last line is not in the file yet, as on a full disk; None: it is.

    Examples
    --------
    >>> import io
    >>> log = Log(io.StringIO())
    >>> log.add(Step(1, 10, 0.5, lr=0.1, seconds=0.0))
    >>> log.add(None, step=1, event="all went well")
    >>> print(log.file.getvalue(), end="")
    {"step": 1, "steps": 10, "loss": 0.5, "lr": 0.1, "seconds": 0.0}
    {"step": 1, "event": "all went well"}
    """

    def __init__(self, file: IO[str], told: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.file, self.told = file, told
        self.waiting = deque[tuple[Step | None, dict[str, Any]]]()
        self.trouble: OSError | None = None

    def add(self, step: Step | None, /, **more: Any) -> None:
        """Add a step, or a line without one; write what is known of it and of those before."""
        self.waiting.append((step, more))
        self.close()

    def close(self) -> None:
        """Write what is known."""
        while self.waiting and (self.waiting[0][0] is None or self.waiting[0][0].known):
            self._write_first()

    def write(self) -> None:
        """Write all, and wait for a GPU that is still computing."""
        while self.waiting:
            self._write_first()

    def to_disk(self) -> None:
        """Wait until what was written is on the disk, so that no power cut takes it away."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            self.trouble = error

    def _write_first(self) -> None:
        step, more = self.waiting[0]
        line = more if step is None else step.numbers() | more
        try:
            print(json.dumps(line), file=self.file, flush=True)
            self.trouble = None
        except OSError as error:  # the file's buffer keeps the line for the next flush
            self.trouble = error
        if self.told:
            self.told(line)
        self.waiting.popleft()


class StageLog:
    """What the log of a stage says, in little memory however long it is.

    Attributes
    ----------
    step, steps
        The last step, and how many there will be.
    seconds
        That the steps and evaluations took in all.
    curves
        The numbers of steps by name: ``"loss"``, ``"lr"``, ``"seconds"``, ``"wait"`` (for the
        images, in seconds), ``"images"``, ``"memory"`` (in bytes) and ``"time"``, the sum of
        seconds and wait.
    metrics, ious
        For each head the four metrics by name, and the IU of each class.
    matrices
        For each head the confusion matrix of the last evaluation.
    best
        The metrics of the evaluation with the highest mean IU of the first head, and its step.
    layers
        For each layer its statistics by name; see `minifcn.layer_statistics`.
    events, happened
        The last events with their steps, and how many there were.

    Examples
    --------
    >>> log = StageLog()
    >>> log.take({"step": 1, "steps": 9, "loss": 2.5, "lr": 0.1, "seconds": 0.5})
    >>> log.step, log.curves["loss"].last
    (1, 2.5)
    """

    def __init__(self) -> None:
        self.step = self.steps = self.evaluations = self.happened = 0
        self.seconds = 0.0
        self.curves = {name: Curve() for name in (*STEP_NUMBERS, "time")}
        self.metrics: dict[str, dict[str, Curve]] = {}
        self.ious: dict[str, list[Curve]] = {}
        self.matrices: dict[str, ConfusionMatrix] = {}
        self.best: dict[str, float] = {}
        self.layers: dict[str, dict[str, Curve]] = {}
        self.events = deque[tuple[int, str]](maxlen=EVENTS)

    def take(self, line: Mapping[str, Any]) -> None:
        """Take in a line.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is not a line of a log.
        """
        step = line["step"]
        if not isinstance(step, int):
            raise TypeError(f"the step is {step!r}")
        if "loss" in line:
            self.step, self.steps = step, int(line["steps"])
            spent = line["seconds"] + line.get("wait", 0.0)
            for name in STEP_NUMBERS:
                self.curves[name].add(step, line.get(name))
            self.curves["time"].add(step, spent)
            self.seconds += spent
        elif "layers" in line:
            for name, numbers in line["layers"].items():
                layer = self.layers.setdefault(name, {})
                for kind, value in numbers.items():
                    layer.setdefault(kind, Curve(40)).add(step, value)
        elif "event" in line:
            self.happened += 1
            self.events.append((step, str(line["event"])))
        else:
            self._take_evaluation(step, line)

    def _take_evaluation(self, step: int, line: Mapping[str, Any]) -> None:
        heads = {name: part for name, part in line.items() if isinstance(part, Mapping)}
        for number, (head, found) in enumerate(heads.items() if heads else [("", line)]):
            numbers = {name: _or_nan(found[name]) for name in METRICS}
            curves = self.metrics.setdefault(head, {name: Curve() for name in METRICS})
            for name, value in numbers.items():
                curves[name].add(step, value)
            if "matrix" in found:
                self.matrices[head] = ConfusionMatrix.from_counts(found["matrix"])
                ious = self.ious.setdefault(head, [Curve(60) for _ in found["iu"]])
                for curve, iu in zip(ious, found["iu"], strict=True):
                    curve.add(step, iu)
            # A mean IU of NaN is not the best, unless there is no other.
            if number == 0 and not numbers["mean_iu"] <= self.best.get("mean_iu", -1):
                self.best = {**numbers, "step": step}
        self.evaluations += 1
        self.seconds += line.get("seconds", 0.0)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def evaluation_line(
    step: int, matrices: Mapping[str, ConfusionMatrix], seconds: float
) -> dict[str, Any]:
    """Return the line of an evaluation: the metrics, the IU of each class, and the counts.

    What is not a number, such as the IU of a class that does not occur, becomes None.

    >>> evaluation_line(5, {"": ConfusionMatrix(2)}, 0.5)["iu"]
    [None, None]
    """
    told = {}
    for head, matrix in matrices.items():
        numbers: dict[str, Any] = matrix.summary()
        iu = [None if math.isnan(value) else value for value in matrix.iu().tolist()]
        told[head] = numbers | {"iu": iu, "matrix": matrix.matrix.tolist()}
    numbers = told if len(told) > 1 else next(iter(told.values()))
    return {"step": step, **numbers, "seconds": seconds}


def read_log(path: Path) -> StageLog:
    """Return what a log says. An unfinished last line, as a killed run leaves it, is passed by.

    Raises
    ------
    LogError
        If another line is not one of a log: with the file and the number of the line.
    """
    found = StageLog()
    for _ in _lines(path, found, lambda line: True):
        pass
    return found


def cut_log(path: Path, at: int, evaluated: bool = True) -> StageLog:
    """Remove from a log all that happened after a step, and an unfinished last line.

    Returns what is left of it; the file is made if there is none. If the step itself is yet to be
    ``evaluated``, an evaluation of it is removed, too.

    Raises
    ------
    LogError
        As `read_log`.
    """
    found, kept = StageLog(), []
    if at and path.exists():
        kept = list(_lines(path, found, lambda line: _stays(line, at, evaluated)))
    replace_file(path, b"".join(kept))
    return found


def _stays(line: Mapping[str, Any], at: int, evaluated: bool) -> bool:
    is_evaluation = not {"loss", "layers", "event"} & set(line)
    return line["step"] < at or (line["step"] == at and (evaluated or not is_evaluation))


def _lines(
    path: Path, found: StageLog, wanted: Callable[[Mapping[str, Any]], bool]
) -> Iterator[bytes]:
    """Yield the text of each wanted line, which ``found`` takes in."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        for number, text in enumerate(file, start=1):
            left -= len(text)
            try:
                if not text.endswith(b"\n"):
                    raise ValueError("the line has no end")
                line = parse_json(text.decode(), path)
                if stays := wanted(line):
                    found.take(line)
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
                if left <= 0:  # the last one: the run was killed while it wrote it
                    return
                raise LogError(
                    f"{path}, line {number}: not a line of a training log "
                    f"({type(error).__name__}: {error}): remove the line, or the file"
                ) from error
            if stays:
                yield text
