"""What a weight file says about itself: its header, checked.

Every text in the header can be damaged or made up, so each is looked at before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from .._version import __version__
from ..backend import Error
from ..data import Head, Preprocessing
from ..data.fingerprint import unpack
from ..data.names import check_class_names, check_text, file_parts
from ..plain_text import one_line

FORMAT, VERSION = "minifcn weights", 1
DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64"}
LONGEST_HEADER = 10 << 20  # bytes
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as PyTorch's .pth and NumPy's .npz files are",
    b"\x80": "a Python pickle, as old PyTorch .pth files are",
    b"\x89HDF": "an HDF5 file, as Keras's .h5 files are",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
}


class WeightsError(Error, ValueError):
    """A weight file that cannot be written, read or used."""


class Header(NamedTuple):
    """What a weight file says about itself; `read_header` reads it without the tensors.

    Attributes
    ----------
    config
        Arguments of `minifcn.models.build`.
    classes
        The class names, in the order of the class numbers.
    palette
        uint8 (K, 3), the colour of each class.
    preprocessing
        How pixels become the net's input.
    origin
        Where the weights come from, in the words of whoever saved them.
    source_sha256
        The checksum of the file that they were converted from; empty if there was none.
    minifcn
        The version that wrote the file.
    dtype
        Element type of all tensors.
    shapes
        Name to shape of each tensor.
    trained_on
        `minifcn.data.fingerprint` of the images that the weights were trained on, as far as that
        was written down.
    """

    config: dict[str, Any]
    classes: tuple[str, ...]
    palette: np.ndarray
    preprocessing: Preprocessing
    origin: str
    source_sha256: str
    minifcn: str
    dtype: str
    shapes: dict[str, tuple[int, ...]]
    trained_on: frozenset[int] = frozenset()

    @property
    def heads(self) -> dict[str, Head]:
        """The classes and colours of each head of the net; the name is "" if there is only one."""
        told: Any = self.config.get("num_classes")
        several = isinstance(told, dict) and all(isinstance(count, int) for count in told.values())
        counts = told if several else {"": len(self.classes)}
        return heads_by_name(counts, self.classes, self.palette)


def heads_by_name(
    counts: Mapping[str, int], classes: tuple[str, ...], palette: np.ndarray
) -> dict[str, Head]:
    """Return the classes of each head, of those of all heads one after the other.

    >>> heads = heads_by_name({"sem": 2, "geo": 1}, ("a", "b", "c"), np.zeros((3, 3), np.uint8))
    >>> {name: head.classes for name, head in heads.items()}
    {'sem': ('a', 'b'), 'geo': ('c',)}
    """
    found, start = {}, 0
    for name, count in counts.items():
        found[name] = Head(classes[start : start + count], palette[start : start + count])
        start += count
    return found


def read_header(path: str | Path) -> Header:
    """Return what a weight file says about itself, without reading its tensors; raises as `load`.

    >>> read_header("nowhere.safetensors")
    Traceback (most recent call last):
    ...
    minifcn.weights.header.WeightsError: nowhere.safetensors: no such file
    """
    with opened(path) as (_, header):
        return header


def is_own(path: str | Path) -> bool:
    """Tell whether a file is, or was before it was damaged, one of `minifcn.weights.save`.

    >>> is_own("nowhere.safetensors")
    False
    """
    try:
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(min(length, LONGEST_HEADER))
    except OSError:
        return False
    return header.startswith(b"{") and f'"{FORMAT}"'.encode() in header


def title(config: dict[str, Any]) -> str:
    """Return a net's arguments on one line, for messages.

    >>> title({"model": "fcn8s", "num_classes": 4, "backbone": "small"})
    'fcn8s(num_classes=4, backbone=small)'
    """
    options = ", ".join(f"{name}={value}" for name, value in config.items() if name != "model")
    return f"{config.get('model', 'a net')}({options})"


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[Any, Header]]:
    """Open a weight file and check its header."""
    path = Path(path)
    if not path.is_file():
        found = "a folder, not a weight file" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {found}")
    try:
        file = safe_open(path, framework="np")
    except SafetensorError as error:
        raise WeightsError(f"{path}: {_what_it_is(path)}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    with file:
        yield file, _header(path, file)


def _what_it_is(path: Path) -> str:
    """Say why a file is not a safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        for magic, kind in OTHER_FORMATS.items():
            if start.startswith(magic):
                return f"not a safetensors file but {kind}"
        if start[8:] != b"{":  # eight bytes of length, then the JSON header
            return f"not a safetensors file, or cut short: {size} bytes that do not start like one"
        length = int.from_bytes(start[:8], "little")
        file.seek(8)
        header = file.read(min(length, size))
    if size < 8 + length:
        return f"cut short: its header has {length} bytes, the whole file {size}; copy it again"
    try:
        entries = [e for name, e in json.loads(header).items() if name != "__metadata__"]
        whole = 8 + length + max((e["data_offsets"][1] for e in entries), default=0)
    except (ValueError, AttributeError, TypeError, KeyError, IndexError, RecursionError):
        return "damaged: its header is not the JSON of a safetensors file"
    if size < whole:
        return f"cut short: {size} of {whole} bytes are there; copy it again"
    return "damaged: header and tensors do not fit together"


def _header(path: Path, file: Any) -> Header:
    """Return the checked header of an open file."""
    metadata: dict[str, str] = file.metadata() or {}
    names = sorted(file.keys())
    if metadata.get("format") != FORMAT:
        some = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        raise WeightsError(
            f"{path}: a safetensors file with {len(names)} tensors ({some}), but not one of "
            "minifcn: its header does not say which net they are for, its classes or its "
            "preprocessing; minifcn convert makes such a file of it, if you say what it is"
        )
    version = metadata.get("format_version", "")
    if not version.isdecimal() or len(version) > 9 or int(version) > VERSION:
        raise WeightsError(
            f"{path}: of format version {version or 'unknown'}, written by minifcn "
            f"{metadata.get('minifcn', 'of unknown version')}: minifcn {__version__} reads "
            f"version {VERSION}; update minifcn"
        )
    dtypes = {name: file.get_slice(name).get_dtype() for name in names}
    kinds = sorted(set(dtypes.values()))
    if len(kinds) != 1 or kinds[0] not in DTYPES:
        raise WeightsError(
            f"{path}: its tensors are of {', '.join(kinds) or 'no type, as there are none'}: "
            f"they must all be of one of {', '.join(DTYPES)}"
        )
    config = _from_json(path, metadata, "model", dict)
    palette = _from_json(path, metadata, "palette", list)
    classes = tuple(str(name) for name in _from_json(path, metadata, "classes", list))
    try:
        check_class_names("classes", classes)
        if isinstance(told := config.get("num_classes"), dict):
            for head in told:  # it becomes a part of files' names
                check_text("num_classes", "head", head)
                file_parts(head)
        colours = np.array(palette, np.uint8)
        preprocessing = Preprocessing.from_dict(_from_json(path, metadata, "preprocessing", dict))
        trained_on = frozenset(unpack(metadata.get("trained_on", "")))
    except (Error, ValueError, OverflowError, TypeError) as error:
        raise WeightsError(f"{path}: damaged header: {error}") from error
    return Header(
        config=tuples(config),
        classes=classes,
        palette=colours,
        preprocessing=preprocessing,
        origin=metadata.get("origin", ""),
        source_sha256=metadata.get("source_sha256", ""),
        minifcn=metadata.get("minifcn", ""),
        dtype=DTYPES[kinds[0]],
        shapes={name: tuple(file.get_slice(name).get_shape()) for name in names},
        trained_on=trained_on,
    )


def _from_json(path: Path, metadata: dict[str, str], name: str, kind: type) -> Any:
    try:
        value = json.loads(metadata[name])
    except KeyError:
        raise WeightsError(f"{path}: damaged header: {name!r} is missing") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: damaged header: {name!r} is not JSON: {error}") from None
    if not isinstance(value, kind):
        found = one_line(repr(value))
        raise WeightsError(f"{path}: damaged header: {name!r} is {found}, not a {kind.__name__}")
    return value


def tuples(value: Any) -> Any:
    """Return lists as tuples: JSON knows lists only, the arguments of nets are tuples.

    >>> tuples({"widths": [8, 16]})
    {'widths': (8, 16)}
    """
    if isinstance(value, dict):
        return {name: tuples(item) for name, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value
