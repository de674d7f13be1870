"""Where a number that is not finite comes from: which operation, layer and image.

A loss that is NaN says only that something went wrong somewhere before. The step is computed again
in debugging mode, where each operation's result is looked at; it takes a few times as long, and it
happens once, at the end of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from .autograd import debug
from .backend import Array, NotFiniteError, OperationError, on_device, to_numpy, xp_of
from .data import Batch
from .nn import Module, naming_layers


class Cause(NamedTuple):
    """What was found, and whether already the weights or images were wrong, or only the step is."""

    text: str
    where: Literal["weights", "images", "step"] = "step"


def diagnose(
    model: Module, gradients: Callable[[Sequence[Batch]], object], parts: Sequence[Batch]
) -> Cause:
    r"""Say what first makes a number that is not finite in a step that went wrong.

    Parameters
    ----------
    model
        Its parameters as they were before the step. Their gradients are None afterwards.
    gradients
        Computes the loss of some batches, and adds its gradients to those of the parameters.
    parts
        The batches of the step.

    Returns
    -------
    Cause
        The weights, if these were wrong before; else the images' own pixels; else the first
        operation, with its layer, and which image does it alone.

    Examples
    --------
    >>> from minifcn import Tensor, nn
    >>> net = nn.Sequential(fc=nn.Linear(2, 1))
    >>> net.fc.weight.data[...] = 3e38
    >>> images, labels = np.array([[0, 0], [5, 5]], np.float32), np.zeros(2, np.int64)
    >>> def gradients(parts):
    ...     for part in parts:
    ...         net(Tensor(part.images)).sum().backward()
    >>> found = diagnose(net, gradients, [Batch(images, labels, ("a.png", "b.png"))])
    >>> print(found.text.replace(" and ", "\n"))
    linear made inf of x (2, 2) from 0 to 5
    weight (1, 2) from 3e+38 to 3e+38
    bias (1,) from 0 to 0 in layer 'fc': Linear(2 -> 1); of the images alone b.png does so
    """
    named = {name: parameter.data for name, parameter in model.named_parameters()}
    if (name := not_finite(named)) is not None:
        return Cause(f"the weights of {name} were not finite even before this step", "weights")
    alone = list(_one_by_one(parts))
    if bad := [one.names[0] for one in alone if not np.isfinite(one.images).all()]:
        return Cause(
            f"the pixels of {', '.join(bad)} are not finite as the net gets them", "images"
        )
    first = _first_wrong(model, gradients, parts)
    if first is None:
        return Cause("computed again, all numbers of this step are finite")
    if len(alone) == 1:
        return Cause(first)
    wrong = [one.names[0] for one in alone if _first_wrong(model, gradients, [one]) is not None]
    who = "none does so"
    if wrong:
        who = "each does so" if len(wrong) == len(alone) else f"{', '.join(wrong)} does so"
    return Cause(f"{first}; of the images alone {who}")


def _one_by_one(parts: Sequence[Batch]) -> Iterator[Batch]:
    """Yield each image as a batch of its own."""
    for part in parts:
        for i in range(len(part.images)):
            yield Batch(part.images[i : i + 1], part.labels[i : i + 1], part.names[i : i + 1])


def _first_wrong(
    model: Module, gradients: Callable[[Sequence[Batch]], object], parts: Sequence[Batch]
) -> str | None:
    """Return what makes the first number that is not finite; None if all are."""
    for parameter in model.parameters():
        parameter.grad = None
    try:
        with debug(), np.errstate(all="ignore"), naming_layers(model):
            gradients(parts)
    except NotFiniteError as error:
        return " ".join([str(error), *_layers(error)])
    finally:
        for parameter in model.parameters():
            parameter.grad = None
    return None


def _layers(error: OperationError) -> list[str]:
    """Return what the notes of an error say of layers, the innermost alone."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith("in layer")][:1]


def not_finite(named: Mapping[str, Array]) -> str | None:
    """Return the name of the first array that holds a number that is not finite; None if all do.

    A GPU is waited for, once for all arrays.

    >>> not_finite({"a": np.ones(3), "b": np.array([1.0, np.nan])})
    'b'
    """
    arrays = list(named.values())
    if not arrays:
        return None
    xp = xp_of(arrays[0])
    with on_device(arrays[0]):
        finite = to_numpy(xp.stack([xp.isfinite(array).all() for array in arrays])).tolist()
    return next((name for name, good in zip(named, finite, strict=True) if not good), None)
