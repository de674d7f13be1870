"""From what a PyTorch pickle describes to named arrays: unwrapped, and every view checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..foreign import Foreign
from ..header import WeightsError
from .mapped import LONGEST_NAME, check_name, check_shape, from_bfloat16, native, shown
from .unpickler import StorageNote, TensorNote

WRAPPERS = ("model_state_dict", "state_dict", "model")
"""The keys under which training programs put the net's own dict, beside epoch and optimizer."""


def foreign_of(
    content: Any, path: Path, storage_of: Callable[[StorageNote], np.ndarray]
) -> Foreign:
    """Return the tensors of an unpickled state dict or checkpoint.

    Parameters
    ----------
    content
        From `unpickle`.
    path
        The file.
    storage_of
        Gives the numbers (length,) of a storage; asked once for each.

    Returns
    -------
    Foreign
        Of format ``"torch"``; ``info`` has the texts and numbers that stand beside the tensors.

    Raises
    ------
    WeightsError
        If there are no tensors, or one is not a part of its storage.
    """
    if type(content) is not dict:
        kind = "one tensor" if isinstance(content, TensorNote) else f"a {type(content).__name__}"
        raise WeightsError(
            f"{path}: holds {kind}, not a state dict: in PyTorch, torch.save(model.state_dict(), "
            "file)"
        )
    info: dict[str, str] = {}
    for wrapper in WRAPPERS:
        if type(content.get(wrapper)) is dict:
            info = _texts(content)
            content = content[wrapper]
            break
    notes = {name: thing for name, thing in content.items() if isinstance(thing, TensorNote)}
    if not notes:
        keys = ", ".join(shown(str(key)) for key in list(content)[:5]) or "none"
        raise WeightsError(
            f"{path}: holds no tensors by name; its keys are {keys}: save the net's state_dict() "
            "itself, or under the key 'state_dict'"
        )
    storages: dict[str, np.ndarray] = {}
    tensors = {}
    for key, note in notes.items():
        name = check_name(path, str(key))
        if note.storage.key not in storages:
            storages[note.storage.key] = _numbers(note.storage, storage_of)
        tensors[name] = _view(storages[note.storage.key], note, path, name)
    return Foreign(path, "torch", tensors, info | _texts(content))


def _numbers(note: StorageNote, storage_of: Callable[[StorageNote], np.ndarray]) -> np.ndarray:
    """Return a storage's numbers in a type that NumPy computes with."""
    numbers = storage_of(note)
    return from_bfloat16(numbers) if note.kind == "BFloat16Storage" else native(numbers)


def _texts(content: dict[Any, Any]) -> dict[str, str]:
    """Return the texts and numbers of a dict, as texts."""
    return {
        str(name): str(value)
        for name, value in content.items()
        if type(value) in (str, int, float, bool)
        and len(str(name)) <= LONGEST_NAME >= len(str(value))
    }


def _view(numbers: np.ndarray, note: TensorNote, path: Path, name: str) -> np.ndarray:
    """Return the part of a storage that a tensor is."""
    count = check_shape(path, note.shape, name)
    if count > len(numbers):
        raise WeightsError(
            f"{path}: {shown(name)} is of the shape {shown(str(note.shape))}, more than the "
            f"{len(numbers)} numbers of its storage: repeated (expanded) or damaged; save a "
            "contiguous() copy"
        )
    first = note.storage.start + note.offset
    last = first + sum((s - 1) * step for s, step in zip(note.shape, note.strides, strict=True))
    if count and last >= len(numbers):
        raise WeightsError(
            f"{path}: damaged: {shown(name)} should reach number {last} of a storage of "
            f"{len(numbers)}"
        )
    if count == 0:
        return np.empty(note.shape, numbers.dtype)
    return np.lib.stride_tricks.as_strided(
        numbers[first:],
        note.shape,
        [step * numbers.itemsize for step in note.strides],
        writeable=False,
    )
