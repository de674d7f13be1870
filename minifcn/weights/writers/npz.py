"""Parameters as NumPy's archives (``.npz``), under our names or under Chainer's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...backend import to_numpy
from ...files import replacing
from ...nn import Module
from ..header import WeightsError
from ..writing import check_place, saying_why

STYLES = ("minifcn", "chainer")
CHAINER = {"weight": "W", "bias": "b"}


def write_npz(net: Module, path: str | Path, *, style: str = "minifcn") -> list[str]:
    """Write the parameters of a net, and nothing else, for NumPy or for Chainer.

    Parameters
    ----------
    net
        Any net.
    path
        The file.
    style
        ``"minifcn"``: names such as ``conv1_1.weight``, as PyTorch has them. ``"chainer"``:
        ``conv1_1/W`` and ``conv1_1/b``, as in the FCNs of wkentaro/fcn.

    Returns
    -------
    list[str]
        The names of the arrays.

    Raises
    ------
    WeightsError
        If there is no such style, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from minifcn import models
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_npz(models.fcn32s(4, "small"), folder + "/net.npz", style="chainer")[:2]
    ['conv1_1/W', 'conv1_1/b']
    """
    path = Path(path)
    if style not in STYLES:
        raise WeightsError(f"{path}: style={style!r} must be one of {', '.join(STYLES)}")
    arrays = {name: to_numpy(array) for name, array in net.state_dict().items()}
    if style == "chainer":
        arrays = {chainer_name(name): array for name, array in arrays.items()}
    check_place(path)
    with saying_why(path), replacing(path) as temporary, temporary.open("wb") as file:
        # An open file: to a name without the ending NumPy would add it.
        np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
    return list(arrays)


def chainer_name(name: str) -> str:
    """Return what Chainer calls a parameter.

    >>> chainer_name("conv1_1.bias"), chainer_name("inception_3a.1x1.weight")
    ('conv1_1/b', 'inception_3a/1x1/W')
    """
    *layers, kind = name.split(".")
    return "/".join([*layers, CHAINER.get(kind, kind)])
