"""A stage of a run: one net learns, is measured every now and then, and is saved.

After every ``save_every`` steps and every evaluation a checkpoint is written, from which the run
can go on. After an evaluation, ``last.safetensors`` is written then, and ``best.safetensors``, if
the net was never better. The order matters: wherever a process is killed, the best weights that a
checkpoint speaks of are in ``best.safetensors`` or in the checkpoint of the best step.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import weights
from .backend import Array, Error
from .data import Dataset, Preprocessing, heads_of
from .data.fingerprint import pack
from .data.workers import LostWorkerError
from .diagnose import not_finite
from .evaluation import evaluate, one_class_warning
from .files import replace_file
from .kernels.heap import let_go
from .loop import Training
from .models import FCN, LateFusion
from .models.surgery import check_loaded, transplant
from .nn import Module
from .observer import Observer
from .parallel import ALONE, Ranks
from .run_folder import code_versions
from .snapshot import (
    LostBestError,
    Snapshot,
    SnapshotError,
    Snapshots,
    digest,
    digest_of_file,
    load_snapshot,
)
from .stage_result import Best, StageResult
from .step import NotFiniteStepError, TrainingError
from .stopping import Stopped, Stopping
from .watch import NoWatch


def check_weights(model: Module, step: int, lr: float) -> None:
    """Raise an error with advice if a weight is not a finite number.

    >>> check_weights(Module(), 0, lr=0.1)
    """
    if name := not_finite({name: p.data for name, p in model.named_parameters()}):
        raise TrainingError(
            f"the weights of {name} are not finite after step {step}: the learning rate "
            f"{lr:.3g} is probably too high; try --lr {lr / 3:.2g}"
        )


@dataclass
class Shared:
    """What the stages of a run share.

    Attributes
    ----------
    out
        The run's folder.
    config
        The run's configuration, as in its ``config.json``.
    train_set, val_set, preprocessing, device, eval_every, save_every, trained_on, observer
        As for `minifcn.train.run`.
    snapshots
        The checkpoints.
    stopping
        Tells whether the run is asked to stop.
    build
        Returns the net of a stage by its name, with any weights.
    ranks
        The processes that learn together: all but the first write nothing.
    watch
        Writes log and report.
    finished
        Of each finished stage by its name: ``"best"`` and ``"seconds"``.
    """

    out: Path
    config: dict[str, Any]
    train_set: Dataset
    val_set: Dataset
    preprocessing: Preprocessing
    device: str
    eval_every: int | None
    save_every: int | None
    trained_on: frozenset[int]
    observer: Observer
    snapshots: Snapshots
    stopping: Stopping
    build: Callable[[str], FCN | LateFusion]
    ranks: Ranks = ALONE
    watch: NoWatch = field(default_factory=NoWatch)
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save_weights(self, model: FCN | LateFusion, stage: str, file: str) -> None:
        """Write a net into a weight file of a stage."""
        if not self.ranks.leads:
            return
        heads = heads_of(self.val_set).values()
        weights.save(
            model,
            self.out / stage / file,
            classes=[each for head in heads for each in head.classes],
            palette=np.concatenate([head.palette for head in heads]),
            preprocessing=self.preprocessing,
            origin=f"{stage} trained on {self.train_set.name}",
            trained_on=self.trained_on,
        )

    def mend_best(self, stage: str, best: Best) -> None:
        """Make sure that ``best.safetensors`` holds the best weights; if not, make it anew.

        Raises
        ------
        LostBestError
            If there are no such weights any more.
        SnapshotError
            If the checkpoint that they were in is damaged.
        """
        file = self.out / stage / "best.safetensors"
        if digest_of_file(file) == best.digest:
            return
        path = self.snapshots.path(stage, best.step)
        if not path.exists():
            wrong = "holds other weights" if file.exists() else "is missing"
            raise LostBestError(
                f"{file} {wrong}, and the best ones of {stage}, those of step {best.step}, are in "
                "no checkpoint any more"
            )
        arrays = load_snapshot(path).state["model"]
        if digest(arrays) != best.digest:
            raise SnapshotError(f"{path}: not the weights that were best, those of {file}")
        file.parent.mkdir(exist_ok=True)
        model = self.build(stage)
        model.load_state_dict(arrays)
        self.save_weights(model, stage, file.name)

    def result(self, stage: str) -> StageResult:
        """Return what a finished stage left behind."""
        best = Best.from_json(self.finished[stage]["best"])
        file = self.out / stage / "best.safetensors"
        model = weights.load(file).model if self.ranks.leads else self.build(stage)
        self.ranks.spread(parameter.data for parameter in model.parameters())
        model.to(self.device)
        seconds = self.finished[stage]["seconds"]
        return StageResult(stage, model, best.matrices, best.step, seconds)

    def versions(self) -> dict[str, str]:
        """Return what the last bits of the run depend on, beside its configuration."""
        here = {"device": self.device, "processes": str(self.ranks.number)}
        return code_versions() | here

    def go_on(self, step: int) -> str:
        """Return how the run is gone on with, for messages."""
        number = self.ranks.number
        start = ["mpiexec", "-n", str(number)] if number > 1 else []
        command = shlex.join([*start, "minifcn", "train", "--out", str(self.out), "--resume"])
        how = command if "given" in self.config else "train.run(..., resume=True)"
        return f"all until step {step} is saved; {how} goes on from there"


class Stage:
    """The training of one net: `train` does all of it.

    Parameters
    ----------
    shared
        What it shares with other stages.
    name
        The net, and the folder in that of the run.
    training
        The net, its data and its recipe.
    """

    def __init__(self, shared: Shared, name: str, training: Training) -> None:
        self.shared, self.name, self.training = shared, name, training
        self.folder = shared.out / name
        if shared.ranks.leads:
            self.folder.mkdir(exist_ok=True)
        self.best: Best | None = None
        self.evaluated = self.saved = -1  # the steps after which that was done last
        self.began = time.perf_counter()

    def start_from(self, source: Module | Mapping[str, Array], new_scores: bool = False) -> None:
        """Take over parameters of another net; ``start.txt`` tells which."""
        report = transplant(self.training.model, source, widen_input=True, new_scores=new_scores)
        check_loaded(self.training.model)
        if self.shared.ranks.leads:
            replace_file(self.folder / "start.txt", f"{report}\n".encode())
        self.shared.observer.transplanted(self.name, report)

    def load(self, snapshot: Snapshot) -> None:
        """Go on from a checkpoint, whose best weights are in ``best.safetensors``."""
        facts = snapshot.facts
        self.training.load_state(snapshot.state)
        self.best = Best.from_json(facts["best"]) if facts["best"] else None
        self.evaluated, self.saved = facts["evaluated"], self.training.done
        if (loader := self.training.loader).skips:
            loader.bad.look_again(facts.get("unread", ()))
        self.began -= facts["seconds"]
        if self.evaluated == self.training.done:  # killed before that was written, perhaps
            self.shared.save_weights(self.training.model, self.name, "last.safetensors")  # type: ignore[arg-type]

    def train(self, first: bool = False) -> StageResult:
        """Train the net to the end of its recipe; return it with its best weights.

        Parameters
        ----------
        first
            Whether the run has no checkpoint yet: one of the beginning is written then. So it is
            known before the first step that it can be.

        Raises
        ------
        Stopped
            If the run was asked to stop: all is saved then.
        """
        shared, training = self.shared, self.training
        shared.observer.stage_started(self.name, training.recipe, training.model)
        if training.done:
            shared.observer.resumed(self.name, training.done)
        evaluated = self.evaluated == training.done
        shared.watch.started(self.name, training.done, evaluated)
        training.looking = shared.watch.looking
        shared.ranks.spread(parameter.data for parameter in training.model.parameters())
        if first:
            self._save()
        try:
            self._train()
        except Exception as error:
            self._rescue(error)
            asked, alone = shared.stopping.signal, shared.ranks.number == 1
            if asked and alone and isinstance(error, LostWorkerError) and self._is_saved():
                # A signal to all processes ends the workers before this one has done its step.
                raise Stopped(shared.go_on(training.done), asked) from error
            raise
        assert self.best is not None  # a recipe has at least one step, and the last is evaluated
        best, seconds = self.best.to_json(), time.perf_counter() - self.began
        shared.finished[self.name] = {"best": best, "seconds": seconds}
        return shared.result(self.name)

    def _train(self) -> None:
        shared, training = self.shared, self.training
        if self._is_due(training.done) and self.evaluated != training.done:
            self._evaluate()  # it was broken off
        self._stop_if_asked()
        told = set[str]()
        with closing(training.steps()) as steps:
            for step in steps:
                shared.watch.stepped(step)
                for text in step.events:
                    shared.watch.event(step.step, text)
                    if text not in told:  # the same file is bad in every epoch
                        told.add(text)
                        shared.observer.warned(f"step {step.step}: {text}")
                shared.observer.stepped(self.name, step)
                self._check_folder()
                if self._is_due(step.step):
                    self._evaluate()
                elif shared.save_every and step.step % shared.save_every == 0:
                    self._save_or_warn()
                self._stop_if_asked()

    def _is_due(self, step: int) -> bool:
        """Tell whether the net is measured after a step."""
        every = self.shared.eval_every
        return step == self.training.recipe.steps or bool(every and step and step % every == 0)

    def _evaluate(self) -> None:
        """Measure the net, and save it."""
        shared, step, model = self.shared, self.training.done, self.training.model
        shared.watch.flush()
        check_weights(model, step, self.training.recipe.lr)
        began = time.perf_counter()
        matrices = evaluate(
            model,
            shared.val_set,
            shared.preprocessing,
            shared.device,
            self._tell,
            ranks=shared.ranks,
        )
        seconds = time.perf_counter() - began
        now = next(iter(matrices.values())).mean_iu()
        better = self.best is None or now > next(iter(self.best.matrices.values())).mean_iu()
        if better:
            self.best = Best(step, matrices, digest(model.state_dict()))
        self.evaluated = step
        shared.watch.evaluated(step, model, matrices, seconds)
        self._save_or_warn()
        for file in ("last.safetensors", "best.safetensors")[: 2 if better else 1]:
            shared.save_weights(model, self.name, file)  # type: ignore[arg-type]
        heads = heads_of(shared.val_set)
        for head, matrix in matrices.items():
            shared.observer.evaluated(f"{self.name} {head}".strip(), step, matrix, better)
            if warning := one_class_warning(matrix, heads[head].classes):
                shared.observer.warned(warning)

    def _tell(self, done: int, total: int) -> None:
        """Tell how far an evaluation has come, and break it off if asked to."""
        self.shared.observer.evaluating(self.name, done, total)
        if self.shared.ranks.number == 1:  # several go to the end, since they must stop together
            self._stop_if_asked()

    def _save(self) -> None:
        """Write a checkpoint, after all that the log will say until there."""
        shared, training = self.shared, self.training
        if not shared.ranks.leads:
            return
        shared.watch.flush()
        if unwritten := shared.watch.unwritten():  # a log with a gap could not be gone on with
            raise weights.WeightsError(unwritten)
        check_weights(training.model, training.done, training.recipe.lr)
        facts = {
            "config": shared.config,
            "versions": shared.versions(),
            "trained_on": pack(shared.trained_on),
            "finished": shared.finished,
            "best": self.best.to_json() if self.best else None,
            "evaluated": self.evaluated,
            "unread": list(training.loader.bad.found),
            "seconds": time.perf_counter() - self.began,
        }
        shared.snapshots.save(self.name, training.state(), facts)
        self.saved = training.done

    def _save_or_warn(self) -> None:
        """Write a checkpoint; if that fails, the one before stays, and the training goes on."""
        try:
            self._save()
        except weights.WeightsError as error:
            self._check_folder()
            self.shared.observer.warned(f"{error}; the training goes on, the next one may succeed")

    def _is_saved(self) -> bool:
        """Tell whether there is a checkpoint of what was learned until now."""
        return self.saved == self.training.done

    def _check_folder(self) -> None:
        """Raise if the run's folder is gone."""
        if self.shared.ranks.leads and not self.shared.out.is_dir():
            raise TrainingError(
                f"{self.shared.out}: this folder is not there any more, after step "
                f"{self.training.done} of {self.name}: nothing can be saved, so the run stops"
            )

    def _stop_if_asked(self) -> None:
        """Save and raise if the run is asked to stop."""
        asked, ranks = self.shared.stopping.signal, self.shared.ranks
        if ranks.sum(asked):  # of any of them
            self._save()
            raise Stopped(self.shared.go_on(self.training.done), max(ranks.gather(asked)))

    def _rescue(self, error: Exception) -> None:
        """Save what was learned before an error, and note it in the error."""
        step = self.training.done
        if not (self.training.whole and self.shared.ranks.leads and self.shared.out.is_dir()):
            return
        if isinstance(error, MemoryError):
            let_go(error)  # of the arrays of the step that failed: to save takes memory, too
        try:
            if not self._is_saved():
                self._save()
        except (Error, OSError, MemoryError) as another:
            error.add_note(f"what was learned since step {self.saved} is lost: {another}")
        else:
            past = ""
            told = isinstance(error, NotFiniteStepError) and error.images
            if told and self.training.on_nan == "stop":
                past = " (past this step: --on-nan skip)"
            if isinstance(error, NotFiniteStepError) or (
                step and not isinstance(error, TrainingError)
            ):
                error.add_note(self.shared.go_on(step) + past)
