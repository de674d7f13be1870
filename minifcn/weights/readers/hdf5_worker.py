"""A program of its own that lists what is in HDF5 files; `minifcn.weights.readers.hdf5` runs it.

The HDF5 library is large, written in C, and trusts what it reads: a file with one wrong byte can
make it crash, loop for ever or ask for all memory. So it runs in a process of its own, which may be
ended at any time, with a bound on its memory. Arrays that lie in the file in one piece are only
listed, with their place, for the other process to map; all others are read here and sent.

Called as ``python hdf5_worker.py LIMIT FILE...``, LIMIT being the memory in bytes. For each file it
prints a line of JSON, and then the bytes of the arrays that it read, as many as the line says.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

# An extra; without it, other programs may still read what stands here.
h5py: Any = importlib.import_module("h5py") if importlib.util.find_spec("h5py") else None

ATTRIBUTES = re.compile(r"(layer|weight)_names\d*|nb_(layers|params)|backend|keras_version|name")
MOST_OBJECTS = 50_000
LONGEST_ATTRIBUTE = 1 << 24  # bytes
EXPANSION, SMALL = 16, 1 << 20  # as in minifcn.weights.readers.mapped


def main() -> None:
    """Describe each file of the command line."""
    bound_memory(int(sys.argv[1]))
    for path in sys.argv[2:]:
        pieces: list[bytes] = []
        try:
            with h5py.File(path, "r") as file:
                described = describe(file, Path(path).stat().st_size, pieces)
        except Exception as error:  # of any kind: the library raises many; all are reported
            described, pieces = {"error": str(error) or type(error).__name__}, []
        described["sent"] = sum(len(piece) for piece in pieces)
        sys.stdout.buffer.write(json.dumps(described).encode() + b"\n")
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def bound_memory(limit: int) -> None:
    """Have requests for more memory fail, where the system can do that."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def describe(file: h5py.File, size: int, pieces: list[bytes]) -> dict[str, Any]:
    """Return the groups' attributes and the datasets' places; add what was read to ``pieces``."""
    groups: dict[str, dict[str, Any]] = {}
    datasets: dict[str, dict[str, Any]] = {}
    seen = set()
    waiting: list[tuple[str, h5py.Group]] = [("", file)]
    while waiting:
        prefix, group = waiting.pop()
        groups[prefix.rstrip("/")] = {
            name: attribute(group, name) for name in group.attrs if ATTRIBUTES.fullmatch(name)
        }
        inner = []
        for key in group:
            name = prefix + key
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!a} is a link to another place or file")
            thing = group[key]
            address = h5py.h5o.get_info(thing.id).addr
            if address in seen:
                raise ValueError(f"{name!a} is in the file under two names")
            seen.add(address)
            if len(seen) > MOST_OBJECTS:
                raise ValueError(f"more than {MOST_OBJECTS} groups and datasets")
            if isinstance(thing, h5py.Group):
                inner.append((name + "/", thing))
            elif isinstance(thing, h5py.Dataset):
                datasets[name] = dataset(thing, size, pieces)
        waiting += reversed(inner)
    return {"groups": groups, "datasets": datasets}


def attribute(group: h5py.Group, name: str) -> str | list[str]:
    """Return an attribute as a text or a list of texts."""
    found = h5py.h5a.open(group.id, name.encode())
    if math.prod(found.shape) * found.dtype.itemsize > LONGEST_ATTRIBUTE:
        raise ValueError(f"an attribute {name!a} of {found.shape} texts")
    value = group.attrs[name]
    if isinstance(value, h5py.Empty):
        return []
    return [text(item) for item in value.tolist()] if getattr(value, "shape", ()) else text(value)


def text(value: Any) -> str:
    """Return a text that may be stored as bytes, or a number as text."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def dataset(data: h5py.Dataset, size: int, pieces: list[bytes]) -> dict[str, Any]:
    """Return what is to be known of a dataset: its shape, type and place, or why it is not read."""
    if data.shape is None or data.dtype.kind not in "fiub":
        return {"refused": f"is of type {data.dtype}, not of numbers"}
    if data.external or data.is_virtual:
        return {"refused": "has its numbers in another file"}
    described = {"shape": data.shape, "dtype": data.dtype.str}
    layout = data.id.get_create_plist().get_layout()
    as_stored = data.id.get_type().equal(h5py.h5t.py_create(data.dtype, logical=True))
    length = data.size * data.dtype.itemsize
    if layout == h5py.h5d.CONTIGUOUS and as_stored:
        place = data.id.get_offset()
        if place is None and length:
            return {"refused": "has no numbers: it was never written"}
        return described | {"place": place or 0}
    chunk = math.prod(data.chunks or ()) * data.dtype.itemsize
    sent = sum(len(piece) for piece in pieces)
    if max(sent + length, chunk) > SMALL + EXPANSION * size:
        return {"refused": f"unpacks to {length} bytes, from a file of {size}"}
    pieces.append(data[()].tobytes())
    return described | {"sent": sent}


if __name__ == "__main__":
    main()
