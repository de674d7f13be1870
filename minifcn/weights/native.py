"""minifcn's own weight files: safetensors, with all that is needed to use the net in the header.

A safetensors file is a JSON header, then the bytes of the arrays. Its header has room for texts of
one's own. Ours say how to build the net, what the classes are called and how they are drawn, and
how pixels become the net's input: a net that is fed other colours than in training fails silently,
so this must not be left to memory. Reading such a file runs no code from it, unlike a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from .. import models
from .._version import __version__
from ..backend import Error, to_device, to_numpy
from ..data import Preprocessing
from ..files import replacing
from ..models import FCN
from .header import DTYPES, FORMAT, VERSION, Header, WeightsError, opened, title

LISTED = 6  # of many differing tensors, so many are named in a message


class Loaded(NamedTuple):
    """A net from a file, and what is needed to use it; see `Header` for the fields."""

    model: FCN
    classes: tuple[str, ...]
    palette: np.ndarray
    preprocessing: Preprocessing
    origin: str


def save(
    model: FCN,
    path: str | Path,
    *,
    classes: Sequence[str],
    palette: np.ndarray,
    preprocessing: Preprocessing,
    origin: str = "",
) -> None:
    """Write a net to a file, complete or not at all: a file of that name is replaced at the end.

    Parameters
    ----------
    model
        A net of `minifcn.models.build` (or fcn8s, ...), whose ``config`` tells how to rebuild it.
    path
        The file; ``.safetensors`` is the customary ending.
    classes
        A name for each of the model's classes.
    palette
        uint8 (K, 3), a colour for each class.
    preprocessing
        What the net was trained with.
    origin
        Where the weights come from, for whoever finds the file.

    Raises
    ------
    WeightsError
        If something does not fit the model, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from minifcn import data
    >>> net, shapes = models.fcn32s(4, "small"), data.shapes("val")
    >>> facts = {"classes": shapes.classes, "palette": shapes.palette, "preprocessing": data.UNIT}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(net, folder + "/net.safetensors", **facts)
    ...     load(folder + "/net.safetensors").classes
    ('background', 'circle', 'square', 'triangle')
    """
    path = Path(path)
    if not model.config:
        raise WeightsError(
            f"{path}: the model does not know how it was built (its config is empty), so the file "
            "could not be loaded again: make it with models.build, fcn32s, fcn16s or fcn8s"
        )
    _check_classes(path, classes, np.asarray(palette), model.num_classes)
    # safetensors writes an array's memory as it lies there, so the axes must lie in their order.
    tensors = {n: np.ascontiguousarray(to_numpy(a)) for n, a in model.state_dict().items()}
    dtypes = {array.dtype.name for array in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES.values()):
        raise WeightsError(f"{path}: parameters of {', '.join(sorted(dtypes))}: use one float type")
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "minifcn": __version__,
        "model": _to_json(path, model.config),
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "palette": json.dumps(np.asarray(palette).tolist()),
        "preprocessing": json.dumps(preprocessing.to_dict()),
        "origin": origin,
    }
    _write(path, tensors, metadata)


def load(path: str | Path) -> Loaded:
    """Return the net in a file, on the CPU, with its classes, palette and preprocessing.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, of another kind or of a newer version, or if its tensors do
        not fit the net that it describes, or hold numbers that are not finite.

    Notes
    -----
    Tensors are read one at a time, and the net takes them over without a copy.
    """
    with opened(path) as (file, header):
        try:
            model = models.build(**header.config)
        except (Error, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: its net cannot be built: {error}") from error
        _check_classes(path, header.classes, header.palette, model.num_classes)
        if difference := _difference(header, model):
            raise WeightsError(
                f"{path}: says that it holds {title(header.config)}, but its tensors are not those "
                f"of this net in minifcn {__version__}: damaged, or an older net (written by "
                f"{header.minifcn})\n{difference}"
            )
        _fill(model, file, path)
    return Loaded(model, header.classes, header.palette, header.preprocessing, header.origin)


def load_into(model: FCN, path: str | Path) -> Header:
    """Replace the parameters of a net by those of a file; return what the file says of itself.

    Raises
    ------
    WeightsError
        As `load`, and if the file holds another net: the message names both, and how they differ.
        The net is unchanged then.
    """
    with opened(path) as (file, header):
        if difference := _difference(header, model):
            raise WeightsError(
                f"{path}: holds {title(header.config)}, which does not fit the model "
                f"{title(model.config)}; nothing was loaded\n{difference}"
            )
        here = {array.dtype.name for array in model.state_dict().values()}
        if here != {header.dtype}:
            raise WeightsError(
                f"{path}: holds {header.dtype} numbers, the model {', '.join(sorted(here))}: "
                f"convert the model first, with .to(np.{header.dtype})"
            )
        for _ in _tensors(file, path):  # raises for a bad one before any is replaced
            pass
        _fill(model, file, path)
    return header


def _check_classes(
    path: str | Path, classes: Sequence[str], palette: np.ndarray, count: int
) -> None:
    if len(classes) != count or palette.shape != (count, 3) or palette.dtype != np.uint8:
        raise WeightsError(
            f"{path}: the net has {count} classes, but there are {len(classes)} class names and "
            f"a palette of {palette.dtype} {palette.shape}: it takes {count} names and uint8 "
            f"({count}, 3)"
        )


def _difference(header: Header, model: FCN) -> str:
    """Return how the tensors of a file and of a model differ, in lines; empty if they agree."""
    there = header.shapes
    here = {name: array.shape for name, array in model.state_dict().items()}
    lines = [f"  not in the file: {n} {here[n]}" for n in here if n not in there]
    lines += [f"  only in the file: {n} {there[n]}" for n in there if n not in here]
    lines += [
        f"  {n} is {there[n]} in the file, {here[n]} in the model"
        for n in here
        if n in there and there[n] != here[n]
    ]
    rest = [f"  ... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "\n".join(lines[:LISTED] + rest)


def _tensors(file: Any, path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Read one tensor after the other, and make sure that all numbers are finite."""
    for name in file.keys():  # noqa: SIM118 (an open file, no dictionary)
        array = file.get_tensor(name)
        finite = np.isfinite(array)
        if not finite.all():
            place = tuple(np.argwhere(~finite)[0].tolist())
            raise WeightsError(
                f"{path}: {name} holds {int((~finite).sum())} numbers that are not finite "
                f"({array[place]} at {place}): the training went wrong before it was saved; "
                "use an earlier file"
            )
        yield name, array


def _fill(model: FCN, file: Any, path: str | Path) -> None:
    parameters = dict(model.named_parameters())
    for name, array in _tensors(file, path):
        parameters[name].data = to_device(array, parameters[name].device)


def _to_json(path: Path, config: dict[str, Any]) -> str:
    try:
        return json.dumps(config)
    except TypeError as error:
        raise WeightsError(
            f"{path}: the model's config {config} cannot be saved: {error}"
        ) from None


def _write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write under a temporary name in the same folder, then rename."""
    if not path.parent.is_dir():
        found = "is not a folder" if path.parent.exists() else "does not exist: make it first"
        raise WeightsError(f"{path}: cannot be written: {path.parent} {found}")
    if path.is_dir():
        raise WeightsError(f"{path}: cannot be written: it is a folder; add a file name")
    try:
        with replacing(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(tensors, temporary, metadata)
            temporary.chmod(mode)  # safetensors may make files that only their owner can read
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from error
