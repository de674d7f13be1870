"""Checkpoints of a training: one file holds all that a run needs to go on, bit for bit.

A checkpoint is a safetensors file. Its arrays are the net's parameters (``model/NAME``) and the
momenta (``momenta/NAME``); its header holds the rest as JSON; its last 32 bytes are a checksum of
all before them. A file is written whole or not at all, and the checkpoints before it are removed
only when it is on the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from ._version import __version__
from .backend import Array, Error
from .plain_text import one_line
from .step import TrainingError
from .weights.pieces import in_order
from .weights.writing import is_sealed, write_tensors

FORMAT, VERSION = "minifcn checkpoint", 1
WRONG = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
GROUPS = ("model", "momenta")
"""The parts of a training's state that are arrays; the others become JSON."""


class SnapshotError(TrainingError):
    """A checkpoint that is damaged, or was written by another program."""


class LostBestError(SnapshotError):
    """The best weights of a stage, which a checkpoint speaks of, are nowhere any more."""


class Snapshot(NamedTuple):
    """What a checkpoint holds.

    Attributes
    ----------
    path
        The file.
    stage
        The net that was being trained.
    state
        See `minifcn.loop.Training.state`.
    facts
        What the run knows besides, such as its configuration and the best step so far.
    """

    path: Path
    stage: str
    state: dict[str, Any]
    facts: dict[str, Any]


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Turn errors about what a checkpoint holds, as of a name that is not there, into one kind.

    >>> with sound(Path("a.safetensors")):
    ...     {}["momenta"]
    Traceback (most recent call last):
    minifcn.snapshot.SnapshotError: a.safetensors: what it holds is no state of a run: KeyError: ...
    """
    try:
        yield
    except Error:
        raise
    except WRONG as error:
        told = f"{type(error).__name__}: {one_line(str(error))}"
        raise SnapshotError(f"{path}: what it holds is no state of a run: {told}") from error


def save_snapshot(
    path: Path, stage: str, state: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """Write a checkpoint; see `Snapshot` for what there is in it.

    Raises
    ------
    WeightsError
        If it cannot be written. A file that was there before is still there then.

    Examples
    --------
    >>> import tempfile
    >>> state = {"done": 3, "model": {"w": np.ones(2)}, "momenta": {}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "fcn8s-00000003.safetensors"
    ...     save_snapshot(path, "fcn8s", state, {"seed": 0})
    ...     found = load_snapshot(path)
    >>> found.stage, found.state["done"], found.state["model"]["w"].tolist(), found.facts
    ('fcn8s', 3, [1.0, 1.0], {'seed': 0})
    """
    arrays = {f"{group}/{name}": a for group in GROUPS for name, a in state[group].items()}
    rest = {name: value for name, value in state.items() if name not in GROUPS}
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "stage": stage,
        "state": json.dumps(rest, default=_listed),
        "facts": json.dumps(dict(facts)),
    }
    write_tensors(path, arrays, metadata, sealed=True)


def _listed(value: Any) -> Any:
    """Return an array or a NumPy number, as some random generators hold, for JSON."""
    return value.tolist()


def load_snapshot(path: Path) -> Snapshot:
    """Return what a checkpoint holds, after a look at its checksum.

    Raises
    ------
    SnapshotError
        If the file is missing, damaged, or no checkpoint that this version can read.
    """
    try:
        if not is_sealed(path):
            size = path.stat().st_size
            raise SnapshotError(
                f"{path}: damaged: its {size} bytes do not have the checksum that they end in"
            )
        metadata, arrays = _opened(path, with_arrays=True)
        with sound(path):
            state: dict[str, Any] = json.loads(metadata["state"])
            for group in GROUPS:
                begin = f"{group}/"
                named = {n.removeprefix(begin): a for n, a in arrays.items() if n.startswith(begin)}
                state[group] = named
            return Snapshot(path, metadata["stage"], state, json.loads(metadata["facts"]))
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror or error}") from error


def _opened(path: Path, with_arrays: bool) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Return the header's texts and, if wanted, the arrays."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise SnapshotError(f"{path}: not a checkpoint of a training run")
            if metadata.get("format_version") != str(VERSION):
                raise SnapshotError(
                    f"{path}: a checkpoint of format {metadata.get('format_version')}, this is "
                    f"minifcn {__version__}, which reads format {VERSION}"
                )
            names = file.keys() if with_arrays else []
            return metadata, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise SnapshotError(f"{path}: damaged: {error}") from error


class Snapshots:
    """The checkpoints of a run: a folder with files ``STAGE-STEP.safetensors``.

    Parameters
    ----------
    folder
        Is made when the first one is saved.
    stages
        The nets in the order in which they are trained.
    keep
        How many are kept, the latest ones. Beside these, for each of them, the one of its best step
        is kept: ``facts["best"]["step"]``.

    Raises
    ------
    SnapshotError
        If none would be kept.
    """

    def __init__(self, folder: Path, stages: Sequence[str], keep: int) -> None:
        if keep < 1:
            raise SnapshotError(f"keep={keep}: at least one checkpoint must be kept")
        self.folder, self.stages, self.keep = folder, list(stages), keep

    def path(self, stage: str, step: int) -> Path:
        """Return where the checkpoint of a step is.

        >>> Snapshots(Path("checkpoints"), ["fcn8s"], keep=3).path("fcn8s", 12).name
        'fcn8s-00000012.safetensors'
        """
        return self.folder / f"{stage}-{step:08}.safetensors"

    def save(self, stage: str, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Write a checkpoint; when it is on the disk, remove those that are not kept.

        Raises
        ------
        WeightsError
            If it cannot be written. The others are left as they are then.
        """
        self.folder.mkdir(exist_ok=True)
        path = self.path(stage, state["done"])
        save_snapshot(path, stage, state, facts)
        self._remove_others(path)

    def _remove_others(self, latest: Path) -> None:
        """Remove all but the latest ones and those of their best steps."""
        found = self.found()
        # Later ones are of a past that was gone back behind, because they were damaged.
        last = found[: found.index(latest) + 1][-self.keep :]
        kept = set(last)
        for path in last:
            try:
                with sound(path):
                    best = json.loads(_opened(path, with_arrays=False)[0]["facts"])["best"]
                    if best:
                        kept.add(self.path(path.name.rpartition("-")[0], best["step"]))
            except (SnapshotError, OSError):
                continue  # it is damaged, and nothing can be said of its best step
        for path in found:
            if path not in kept:
                path.unlink(missing_ok=True)

    def found(self) -> list[Path]:
        """Return the files, in the order of the training."""
        places = [
            (self.stages.index(stage), int(step), path)
            for path in self.folder.glob("*-*.safetensors")
            for stage, _, step in [path.stem.rpartition("-")]
            if stage in self.stages and step.isdecimal()
        ]
        return [path for *_, path in sorted(places)]

    def clear(self) -> None:
        """Remove all checkpoints: those of an earlier run, whatever its stages were called."""
        for path in self.folder.glob("*-*.safetensors"):
            if path.stem.rpartition("-")[2].isdecimal():
                path.unlink(missing_ok=True)

    def newest(
        self, check: Callable[[Snapshot], None], warned: Callable[[str], None]
    ) -> Snapshot | None:
        """Return the latest checkpoint that is whole; None if there is none at all.

        Parameters
        ----------
        check
            Raises a `SnapshotError` if a run cannot go on from a checkpoint.
        warned
            Is told of each one that is damaged.

        Raises
        ------
        SnapshotError
            If there are checkpoints, but all are damaged, or the best weights are lost.
        """
        wrong: dict[str, SnapshotError] = {}
        for path in reversed(self.found()):
            try:
                snapshot = load_snapshot(path)
                check(snapshot)
            except SnapshotError as error:
                warned(f"{error}; going back to the checkpoint before it")
                wrong[path.name] = error
            else:
                return snapshot
        if not wrong:
            return None
        told, fix = f"{self.folder}: no checkpoint is whole ({', '.join(wrong)})", ""
        if lost := [error for error in wrong.values() if isinstance(error, LostBestError)]:
            told, fix = str(lost[0]), "put that file back from a copy, or "
        raise SnapshotError(
            f"{told}: {fix}begin anew with --overwrite; --init takes the weights of an earlier "
            "best.safetensors or last.safetensors"
        )


def digest(arrays: Mapping[str, Array]) -> str:
    """Return a checksum of arrays, their names, types and shapes, whatever their order.

    >>> digest({"a": np.ones(2), "b": np.zeros(1)}) == digest({"b": np.zeros(1), "a": np.ones(2)})
    True
    """
    checksum = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        checksum.update(f"{name} {array.dtype} {array.shape}".encode())
        for piece in in_order(array):
            checksum.update(piece.data)
    return checksum.hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the `digest` of a weight file's arrays; "" if it is missing or damaged.

    >>> digest_of_file(Path("not-made-yet.safetensors"))
    ''
    """
    try:
        with safe_open(path, "numpy") as file:
            return digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError):
        return ""
