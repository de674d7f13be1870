"""minifcn's own weight files: safetensors, with all that is needed to use the net in the header.

A safetensors file is a JSON header, then the bytes of the arrays. Its header has room for texts of
one's own. Ours say how to build the net, what the classes are called and how they are drawn, and
how pixels become the net's input: a net that is fed other colours than in training fails silently,
so this must not be left to memory. Reading such a file runs no code from it, unlike a pickle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import models
from .._version import __version__
from ..backend import Error
from ..data import Head, Preprocessing
from ..data.fingerprint import pack
from ..flow import Undrawn
from ..models import FCN, Classifier, LateFusion
from .header import DTYPES, FORMAT, VERSION, Header, WeightsError, heads_by_name, opened, title
from .pieces import Progress, check_finite, copy_rows, row_pieces
from .writing import write_tensors

LISTED = 6  # of many differing tensors, so many are named in a message


class Loaded(NamedTuple):
    """A net from a file, and what is needed to use it; see `Header` for the fields."""

    model: Any  # an FCN, a LateFusion or a Classifier
    classes: tuple[str, ...]  # those of all heads, one head after the other
    palette: np.ndarray
    preprocessing: Preprocessing
    origin: str
    trained_on: frozenset[int] = frozenset()

    @property
    def heads(self) -> dict[str, Head]:
        """The classes and colours of each head of the net; the name is "" if there is only one."""
        counts = getattr(self.model, "heads", {"": len(self.classes)})
        named = {name.removeprefix("_"): count for name, count in counts.items()}
        return heads_by_name(named, self.classes, self.palette)


def save(
    model: FCN | LateFusion | Classifier,
    path: str | Path,
    *,
    classes: Sequence[str],
    palette: np.ndarray,
    preprocessing: Preprocessing,
    origin: str = "",
    source_sha256: str = "",
    trained_on: Iterable[int] = (),
    progress: Progress | None = None,
) -> None:
    """Write a net to a file, complete or not at all: a file of that name is replaced at the end.

    Parameters
    ----------
    model
        A net of `minifcn.models.build` (or fcn8s, vgg16, ...), whose ``config`` tells how to
        rebuild it.
    path
        The file; ``.safetensors`` is the customary ending.
    classes
        A name for each of the model's classes, one head after the other.
    palette
        uint8 (K, 3), a colour for each class.
    preprocessing
        What the net was trained with.
    origin
        Where the weights come from, for whoever finds the file.
    source_sha256
        Checksum of the file that they were converted from.
    trained_on
        `minifcn.data.fingerprint` of the images that the net was trained on, so that nobody
        measures it on them by mistake.
    progress
        Called with the bytes written, and all of them.

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
    ...     load_own(folder + "/net.safetensors").classes
    ('background', 'circle', 'square', 'triangle')
    """
    path = Path(path)
    if not model.config:
        raise WeightsError(
            f"{path}: the model does not know how it was built (its config is empty), so the file "
            "could not be loaded again: make it with models.build, fcn32s, fcn16s or fcn8s"
        )
    _check_classes(path, classes, np.asarray(palette), model.num_classes)
    tensors = model.state_dict()
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
        "source_sha256": source_sha256,
    }
    if numbers := pack(trained_on):
        metadata["trained_on"] = numbers
    write_tensors(path, tensors, metadata, progress)


def load_own(path: str | Path, progress: Progress | None = None) -> Loaded:
    """Return the net in a file of `save`, on the CPU, with classes, palette and preprocessing.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, of another kind or of a newer version, or if its tensors do
        not fit the net that it describes, or hold numbers that are not finite.

    Notes
    -----
    Tensors are read a piece at a time into the net's own arrays, so it needs little more memory
    than the net.
    """
    with opened(path) as (_, header):
        model = _undrawn(path, header)
        _check_classes(path, header.classes, header.palette, model.num_classes)
        if difference := _difference(header, model):
            raise WeightsError(
                f"{path}: says that it holds {title(header.config)}, but its tensors are not those "
                f"of this net in minifcn {__version__}: damaged, or an older net (written by "
                f"{header.minifcn})\n{difference}"
            )
        _fill(model.to(header.dtype), path, progress)
    return Loaded(
        model,
        header.classes,
        header.palette,
        header.preprocessing,
        header.origin,
        header.trained_on,
    )


def planned_own(path: str | Path) -> Any:
    """Return the net that a file of `save` describes, with zeros for weights; raises as `load_own`.

    That is all that planning needs, and it takes no time.
    """
    with opened(path) as (_, header):
        return _undrawn(path, header)


class _Bounded(Undrawn):
    """Zeros for starting weights, but no more than a file has numbers."""

    def __init__(self, path: str | Path, numbers: int) -> None:
        super().__init__()
        self.path, self.left = path, numbers

    def standard_normal(self, size: Any = (), *args: Any, **kwargs: Any) -> Any:
        """Return 0, if the parameter that it is for can be in the file."""
        self.left -= math.prod(size)
        if self.left < 0:
            raise WeightsError(f"{self.path}: describes a net that is larger than the file")
        return 0.0


def _undrawn(path: str | Path, header: Header) -> Any:
    """Return the net that a file describes, its parameters not read yet.

    A description may be damaged or made up: a net is not built if it has more numbers than the
    file, or as many classes as would make its upsampling larger.
    """
    numbers = sum(math.prod(shape) for shape in header.shapes.values())
    try:
        for config in (header.config, *dict(header.config.get("streams", {})).values()):
            told = config.get("num_classes", len(header.classes))
            count = sum(told.values()) if isinstance(told, dict) else told
            _check_classes(path, header.classes, header.palette, count)
            if str(config.get("model", "")).startswith("fcn") and count**2 > numbers:
                raise WeightsError(f"{path}: describes a net that is larger than the file")
        return models.build(rng=_Bounded(path, numbers), **header.config)
    except WeightsError:
        raise
    except (Error, ArithmeticError, AttributeError, MemoryError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its net cannot be built: {error}") from error


def load_into(model: FCN | Classifier, path: str | Path) -> Header:
    """Replace the parameters of a net by those of a file; return what the file says of itself.

    Raises
    ------
    WeightsError
        As `load_own`, and if the file holds another net: the message names both, and how they
        differ. The net is unchanged then.
    """
    with opened(path) as (_, header):
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
        for name, rows, piece in _pieces(path):  # raises for a bad one before any is replaced
            check_finite(piece, name, path, rows.start)
        _fill(model, path)
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


def _difference(header: Header, model: FCN | Classifier) -> str:
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


def places(path: str | Path) -> dict[str, int]:
    """Return where in a safetensors file, which has been checked, each tensor starts."""
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}


def _pieces(path: str | Path) -> Iterator[tuple[str, slice, np.ndarray]]:
    """Yield the tensors of a file as name, rows and numbers of these rows.

    They are read, not mapped: a mapping would stay in memory beside the net.
    """
    with opened(path) as (_, header), Path(path).open("rb") as file:
        dtype = np.dtype(header.dtype).newbyteorder("<")
        for name, place in places(path).items():
            file.seek(place)
            shape = header.shapes[name]
            for rows in row_pieces(shape[0]):
                part = (rows.stop - rows.start, *shape[1:])
                yield name, rows, np.fromfile(file, dtype, math.prod(part)).reshape(part)


def _fill(model: FCN | Classifier, path: str | Path, progress: Progress | None = None) -> None:
    parameters = dict(model.named_parameters())
    done, total = 0, sum(parameter.data.nbytes for parameter in parameters.values())
    for name, rows, piece in _pieces(path):
        check_finite(piece, name, path, rows.start)
        copy_rows(parameters[name].data[rows], piece)
        done += piece.nbytes
        if progress is not None:
            progress(done, total)


def _to_json(path: Path, config: dict[str, Any]) -> str:
    try:
        return json.dumps(config)
    except TypeError as error:
        raise WeightsError(
            f"{path}: the model's config {config} cannot be saved: {error}"
        ) from None
