"""Training: the paper's stages from FCN-32s to FCN-8s.

`run` puts nets, starting weights and stages together; a stage, `minifcn.stage.Stage`, puts logs,
evaluations and files around the loop, which is `minifcn.loop.Training`. The numbers come from a
`minifcn.recipes.Recipe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import models
from .backend import Array
from .data import UNIT, Dataset, Loader, Preprocessing, check_alike, heads_of, streams_of
from .data.fingerprint import unpack
from .data.unreadable import OnError
from .event_files import event_writer
from .files import remove_leftovers
from .json_file import write_json
from .kernels import precision
from .loop import OnNaN, Training, fit
from .nn import Module
from .observer import Observer
from .parallel import ALONE, Ranks
from .recipes import Recipe
from .run_folder import CHECKPOINTS, can_go_on, check_same, other_versions
from .run_lock import locked
from .snapshot import Snapshot, Snapshots, sound
from .stage import Shared, Stage, check_weights
from .stage_result import Best, StageResult, summaries
from .step import Step, TrainingError
from .stopping import Stopped, Stopping
from .watch import NoWatch, Watch

__all__ = [
    "Observer",
    "StageResult",
    "Step",
    "Stopped",
    "TrainingError",
    "check_weights",
    "fit",
    "run",
    "summaries",
]


def run(
    stages: dict[str, Recipe],
    train_set: Dataset,
    val_set: Dataset,
    out: Path,
    *,
    backbone: str = "small",
    options: dict[str, Any] | None = None,
    preprocessing: Preprocessing = UNIT,
    init: Module | Mapping[str, Array] | None = None,
    new_scores: bool = False,
    eval_every: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 0,
    trained_on: Iterable[int] = (),
    observer: Observer | None = None,
    resume: bool = False,
    save_every: int | None = 500,
    keep: int = 3,
    on_nan: OnNaN = "stop",
    on_bad_image: OnError = "stop",
    tensorboard: bool = False,
    record: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, StageResult]:
    """Train stage after stage, each starting from the best weights of the one before.

    The nets have a head for each kind of labels of the data, and take each kind of its images: see
    `minifcn.models.for_data`. "Best" is by the mean IU of the first head.

    Parameters
    ----------
    stages
        Model name to recipe, in order, for example ``{"fcn32s": ..., "fcn16s": ...}``.
    train_set, val_set
        What to learn from, and what to measure on.
    out
        A folder for the run: each stage leaves ``STAGE/best.safetensors``, ``last.safetensors``,
        ``log.jsonl`` and ``start.txt`` (which parameters it took over) there, and the run
        ``config.json``, ``metrics.json`` and ``checkpoints/``.
    backbone, options
        The net, as for `minifcn.models.build`.
    init, new_scores
        A net or its parameters by name to start from, an FCN or a classifier, and whether the score
        layers shall start anew; see `minifcn.models.surgery.transplant`. If its images have fewer
        channels, the first layer is widened.
    eval_every
        Steps between two evaluations; each stage ends with one in any case.
    seed
        Decides starting weights, order of images and random changes: the same seed gives the same
        net on the same machine.
    workers
        Processes that read images ahead: see `minifcn.data.Loader`.
    trained_on
        Fingerprints of the images that the nets will have been trained on, for their files.
    observer
        Is told about every step and evaluation; see `Observer`.
    resume
        Go on from the latest checkpoint in ``out`` that is whole; begin, if there is none. On the
        CPU all that comes out is then bit for bit as if the run had never stopped. What was asked
        for must be the same but for ``device``, ``workers``, ``save_every``, ``keep``, ``on_nan``,
        ``on_bad_image`` and ``tensorboard``.
    save_every
        Steps between two checkpoints; None: only with evaluations, which have one in any case.
    keep
        How many checkpoints are kept.
    on_nan, on_bad_image
        What to do about a loss that is not a finite number, and about an image that cannot be read:
        ``"stop"`` or ``"skip"``. See `minifcn.loop.Training` and `minifcn.data.Loader`.
    tensorboard
        Write event files for TensorBoard, too.
    record
        What ``config.json`` is to say besides, for example how the run was called.
    ranks
        The processes that train together: see `minifcn.parallel`. Each call must be the same.

    Raises
    ------
    TrainingError
        If the loss diverges; with ``resume``, if the checkpoints of the run there are gone.
    DataError
        If the two data sets do not go together.
    RecipeError
        If a rate is for another kind of loss.
    SurgeryError
        If ``init`` does not fit the net, or a layer's weights are all zero.
    FolderInUseError
        If another run is at work in ``out``.
    EventFileError
        If ``tensorboard`` is asked for, and the package that writes event files is missing.
    Stopped
        If the process was asked to stop (SIGINT, which is Ctrl-C, or SIGTERM): the step is finished
        and all is saved then. A second signal stops at once. In threads beside the main one,
        signals are not seen.
    """
    if tensorboard:
        event_writer()  # complains before anything is written
    observer = observer or Observer()
    options = options or {}
    check_alike(train_set, val_set)
    streams = streams_of(train_set)
    counts = {name: len(head.classes) for name, head in heads_of(train_set).items()}
    config = {
        "data": train_set.name,
        "val": val_set.name,
        "images": [len(train_set), len(val_set)],
        "heads": counts,
        "streams": streams,
        "backbone": backbone,
        "options": options,
        "preprocessing": preprocessing.to_dict(),
        "started_from_weights": init is not None,
        "new_scores": new_scores,
        "eval_every": eval_every,
        "seed": seed,
        "device": device,
        "precision": precision.current(),
        "workers": workers,
        "stages": {name: asdict(recipe) for name, recipe in stages.items()},
        **(record or {}),
    }

    def build(name: str, rng: np.random.Generator | None = None) -> Any:
        """Return the net of a stage."""
        rng = rng or np.random.default_rng()
        return models.for_data(name, counts, streams, backbone=backbone, rng=rng, **options)

    if ranks.leads:
        out.mkdir(parents=True, exist_ok=True)
    lock = locked(out, observer.warned) if ranks.leads else nullcontext()
    with lock, Stopping() as stopping:
        shared = Shared(
            out=out,
            config=config,
            train_set=train_set,
            val_set=val_set,
            preprocessing=preprocessing,
            device=device,
            eval_every=eval_every,
            save_every=save_every,
            trained_on=frozenset(trained_on),
            observer=observer,
            snapshots=Snapshots(out / CHECKPOINTS, list(stages), keep),
            stopping=stopping,
            build=build,
            ranks=ranks,
        )
        found = ranks.first(lambda: _begin(shared, resume))
        if found:
            shared.finished = found.facts["finished"]
        results: dict[str, StageResult] = {}
        watched = NoWatch()
        if ranks.leads:
            watched = Watch(
                out,
                val_set,
                preprocessing,
                device,
                finished=shared.finished,
                tensorboard=tensorboard,
                warned=observer.warned,
            )
        with watched as shared.watch:
            for number, (name, recipe) in enumerate(stages.items()):
                if name in shared.finished:
                    results[name] = shared.result(name)
                    continue
                model = build(name, np.random.default_rng([seed, number]))
                loader = Loader(
                    train_set,
                    recipe.batch_size,
                    preprocessing,
                    seed=seed + number,
                    crop=recipe.crop,
                    sizes=recipe.sizes,
                    sampling=recipe.sampling,
                    workers=workers,
                    on_error=on_bad_image,
                    shard=(ranks.rank, ranks.number),
                    **recipe.changes,
                )
                training = Training(model, loader, recipe, device, ranks=ranks, on_nan=on_nan)
                stage = Stage(shared, name, training)
                if found and found.stage == name:
                    with sound(found.path):
                        stage.load(found)
                elif results:
                    stage.start_from(next(reversed(results.values())).model)
                elif init is not None:
                    stage.start_from(init, new_scores)
                results[name] = stage.train(first=found is None and not results)
                if ranks.leads:
                    metrics = {n: r.summary() for n, r in results.items()}
                    write_json(out / "metrics.json", metrics)
    return results


def _begin(shared: Shared, resume: bool) -> Snapshot | None:
    """Make the folder ready; return the checkpoint to go on from, None if there is none."""
    remove_leftovers(shared.out)
    found = _go_on(shared) if resume and can_go_on(shared.out) else None
    if not found:
        shared.snapshots.clear()
    if not found or not (shared.out / "config.json").exists():
        write_json(shared.out / "config.json", shared.config)
    return found


def _go_on(shared: Shared) -> Snapshot | None:
    """Return the checkpoint from which a run goes on; None if there is none yet."""

    def check(snapshot: Snapshot) -> None:
        """Raise unless a checkpoint is of this run, and the best weights so far are there."""
        facts = snapshot.facts
        with sound(snapshot.path):
            check_same(shared.out, facts["config"], shared.config)
            shared.trained_on = frozenset(unpack(facts["trained_on"]))
            bests = {name: done["best"] for name, done in facts["finished"].items()}
            bests[snapshot.stage] = facts["best"]
            for stage, best in bests.items():
                if best is not None:
                    shared.mend_best(stage, Best.from_json(best))
            if warning := other_versions(facts["versions"], shared.versions()):
                shared.observer.warned(warning)

    return shared.snapshots.newest(check, shared.observer.warned)
