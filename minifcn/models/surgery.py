"""Net surgery: a classifier becomes a convolution, and parameters move from net to net.

A fully connected layer that reads maps of h x w pixels is a convolution with an h x w kernel that
fits only once: its rows of weights, C·h·w numbers in the order (channel, row, column), are kernels
(C, h, w). Turned into convolutions, a classifier takes images of any size and answers with a map of
scores (Long, Shelhamer and Darrell 2015, section 3.1).

Nothing here repeats or cuts off numbers to make them fit, and every function says what it did.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from .. import nn
from ..autograd import Tensor
from ..backend import Array, Error, is_array, on_device, overwrite, xp_of
from .classifier import Classifier
from .geometry import output_size

LISTED = 8  # of many parameters that do not fit, so many are named in a message


class SurgeryError(Error, ValueError):
    """Parameters that do not fit where they are to go. Nothing was changed."""


class Line(NamedTuple):
    """What happened to one parameter."""

    name: str
    what: str  # copied, reshaped, widened, expanded, new or dropped
    detail: str  # its shape, or both shapes


class Report(NamedTuple):
    """What surgery did: one line for each parameter of the target, then the source's unused ones.

    ``str(report)`` is a table of them.

    >>> report = Report((Line("fc7.bias", "copied", "(8,)"), Line("fc8.bias", "dropped", "(4,)")))
    >>> report.names("dropped")
    ['fc8.bias']
    >>> print(report)
    fc7.bias  copied   (8,)
    fc8.bias  dropped  (4,)
    1 copied, 1 dropped
    """

    lines: tuple[Line, ...]

    def names(self, what: str) -> list[str]:
        """Return the parameters to which this happened."""
        return [line.name for line in self.lines if line.what == what]

    def counts(self) -> dict[str, int]:
        """Return how often each thing happened."""
        return dict(Counter(line.what for line in self.lines))

    def __str__(self) -> str:
        first, second = (max((len(line[i]) for line in self.lines), default=0) for i in range(2))
        rows = [f"{name:<{first}}  {what:<{second}}  {rest}" for name, what, rest in self.lines]
        return "\n".join([*rows, self.summary()])

    def summary(self) -> str:
        """Return the counts as one line of text."""
        return ", ".join(f"{count} {what}" for what, count in self.counts().items())


def convolutionalize(classifier: Classifier) -> nn.Sequential:
    """Return a classifier as a chain of convolutions, which takes images of any size.

    The first fully connected layer becomes a convolution whose kernel is the size that the maps
    before it have on the training images, the others 1x1 convolutions; Flatten is left out.
    Parameters are copies: the two nets can be trained apart. Auxiliary heads are left out.

    On images of the training size, (N, 3, S, S), the result is (N, classes, 1, 1), the classifier's
    scores. On larger ones it is a heat map: where no convolution or pooling is padded, its pixel
    (i, j) is the classifier's answer to the S x S patch that starts at (i, j) times the stride.
    Padding makes a difference: the classifier sees zeros around each patch, the heat map sees what
    is there.

    Parameters
    ----------
    classifier
        A net of `models.vgg16`, `models.googlenet` and so on.

    Raises
    ------
    SurgeryError
        If a fully connected layer does not fit the maps before it.

    Examples
    --------
    >>> import numpy as np
    >>> from minifcn import models
    >>> net = convolutionalize(models.vgg16(4, width=0.125, image_size=64))
    >>> net.fc6
    Conv2d(64 -> 512, kernel 2, stride 1)
    >>> net.eval()(np.zeros((1, 3, 64, 96), np.float32)).shape
    (1, 4, 1, 2)
    """
    memo: dict[int, Any] = {}  # dropout layers that share a generator share its copy
    layers: dict[str, nn.Module] = {}
    side = 1  # of the maps that the next fully connected layer reads
    for name, layer in classifier.chain().items():
        if isinstance(layer, nn.Flatten):
            side = output_size(layers.values(), classifier.image_size)
        elif isinstance(layer, nn.Linear):
            layers[name] = _as_convolution(name, layer, side)
            side = 1
        else:
            layers[name] = copy.deepcopy(layer, memo)
    return nn.Sequential(layers).train(classifier.training)


def _as_convolution(name: str, layer: nn.Linear, side: int) -> nn.Conv2d:
    channels, rest = divmod(layer.in_features, max(1, side * side))
    if rest or side < 1:
        raise SurgeryError(
            f"{name}: its {layer.in_features} inputs are not a whole number of maps of {side} x "
            f"{side} pixels, which is what training images become before it: check image_size"
        )
    bias = layer.bias
    # With one output first: the others' starting weights would only be drawn to be overwritten.
    conv = nn.Conv2d(channels, 1, side, bias=bias is not None, dtype=layer.weight.dtype)
    conv.out_channels = layer.out_features
    # (O, C*h*w) -> (O, C, h, w); in memory (h, w, C, O), as all weights of convolutions
    kernels = layer.weight.data.reshape(-1, channels, side, side).transpose(2, 3, 1, 0)
    with on_device(kernels):
        conv.weight = nn.Parameter(xp_of(kernels).ascontiguousarray(kernels).transpose(3, 2, 0, 1))
        conv.bias = None if bias is None else nn.Parameter(bias.data.copy())
    return conv


def transplant(
    target: nn.Module,
    source: nn.Module | Mapping[str, Array],
    *,
    widen_input: bool = False,
    new_scores: bool = False,
) -> Report:
    """Copy parameters from one net to another by name: all that are checked to fit, or none.

    Parameters
    ----------
    target
        The net that is changed. Of its parameters, those that the source does not have stay as
        they are ("new").
    source
        A net, or its parameters by name. What the target does not have is left out ("dropped"): the
        last layer of a classifier, for example.
    widen_input
        Let the first convolution have more input channels than the source's: each new channel
        starts as the mean of the old ones, as for the colour-and-depth nets of the paper.
    new_scores
        Leave the target's score and upsampling layers as they are, for other classes.

    Returns
    -------
    Report
        Every parameter of the target, and every one of the source.

    Raises
    ------
    SurgeryError
        If a shape or an element type differs, both are named. Only a fully connected layer's
        weight (O, C·h·w) may become a convolution's (O, C, h, w).

    Examples
    --------
    >>> from minifcn import models
    >>> classifier = models.vgg16(10, width=0.125, image_size=64)
    >>> net = models.fcn32s(4, **models.trunk_options(classifier.config))
    >>> report = transplant(net, classifier)
    >>> report.names("reshaped"), report.names("new")[:2]
    (['fc6.weight', 'fc7.weight'], ['score_fr.weight', 'score_fr.bias'])
    """
    theirs, ours = _arrays(source), dict(target.named_parameters())
    first = next((name for name, p in ours.items() if p.ndim == 4), None)
    lines, values, wrong = [], {}, []
    for name, parameter in ours.items():
        if name not in theirs or (new_scores and is_score(name)):
            start = "zeros" if _is_zero(parameter.data) else "as it was"
            lines.append(Line(name, "new", f"{parameter.shape}, {start}"))
            continue
        array, what = theirs[name], ""
        if parameter.dtype != array.dtype:
            wrong.append(f"{name} is {parameter.dtype} here, {array.dtype} in the source")
        elif parameter.shape == array.shape:
            what = "copied"
        elif _flattened(parameter.shape) == array.shape:
            what, array = "reshaped", array.reshape(parameter.shape)  # (O, C*h*w) -> (O, C, h, w)
        elif name == first and _is_wider(parameter.shape, array.shape) and widen_input:
            what, array = "widened", _widened(array, parameter.shape[1])
        else:
            wrong.append(_unfit(name, parameter.shape, array.shape, name == first))
        if what:
            lines.append(_line(name, what, theirs[name].shape, parameter.shape))
            values[name] = array
    if not values and not wrong:
        raise SurgeryError(
            "none of the source's parameters fits this net: it has "
            f"{_some(list(ours))}, the source has {_some(list(theirs))}"
        )
    _raise_if_any(wrong)
    lines += [Line(n, "dropped", str(a.shape)) for n, a in theirs.items() if n not in values]
    _write(ours, values)
    return Report(tuple(lines))


def expand_score(target: nn.Module, source: nn.Module | Mapping[str, Array]) -> Report:
    """Copy the scores of a net's k classes into one that has more; those of the others are zero.

    All score layers that both nets have are copied, and the upsampling layers between them, which
    keep the classes apart unless they were learned: so, with the trunk of the source (`transplant`
    with ``new_scores=True``), the target gives the first k classes the source's scores. Other
    parameters are not touched.

    Returns
    -------
    Report
        The score and upsampling layers of both nets.

    Raises
    ------
    SurgeryError
        If no score layer is in both, if the target has fewer classes, or if the layers differ in
        more than the number of classes; nothing was changed.

    Examples
    --------
    >>> from minifcn import models
    >>> few, more = models.fcn32s(3, "small"), models.fcn32s(5, "small")
    >>> few.score_fr.bias.data[:] = [1, 2, 3]
    >>> report = expand_score(more, few)
    >>> more.score_fr.bias.numpy().tolist()
    [1.0, 2.0, 3.0, 0.0, 0.0]
    """
    theirs = {name: array for name, array in _arrays(source).items() if is_score(name)}
    ours = {name: p for name, p in target.named_parameters() if is_score(name)}
    lines, values, wrong = [], {}, []
    for name, parameter in ours.items():
        if name not in theirs:
            lines.append(Line(name, "new", f"{parameter.shape}, as it was"))
            continue
        array = theirs[name]
        if _is_expansion(name, parameter, array):
            what = "copied" if parameter.shape == array.shape else "expanded"
            lines.append(_line(name, what, array.shape, parameter.shape))
            values[name] = array
        else:
            here, there = (f"{x.dtype} {x.shape}" for x in (parameter, array))
            wrong.append(f"{name} is {here} here, {there} in the source")
    _raise_if_any(wrong, ": the target needs as many classes or more, and all else alike")
    if not any(name.rpartition(".")[0].rpartition(".")[2][:5] == "score" for name in values):
        raise SurgeryError(
            f"no score layer is in both nets: this one has {_some(list(ours))}, the source has "
            f"{_some(list(theirs))}"
        )
    lines += [Line(n, "dropped", str(a.shape)) for n, a in theirs.items() if n not in values]
    for name, array in values.items():
        parameter = ours[name]
        if not _is_upsampling(name):  # that keeps its own interpolation for the other classes
            overwrite(parameter.data, 0)
        corner = tuple(slice(size) for size in array.shape)
        overwrite(parameter.data[corner], array)
    return Report(tuple(lines))


def check_loaded(model: nn.Module) -> None:
    """Raise if a layer of the trunk has only zeros for weights: it could never learn.

    Zeros put out zeros and pass back zeros. The usual cause is weights that were never loaded.
    Score layers do start at zero, and are not looked at.

    Raises
    ------
    SurgeryError
        With the names of the layers.

    Examples
    --------
    >>> from minifcn import models
    >>> net = models.fcn32s(4, "small")
    >>> check_loaded(net)
    >>> net.conv3_1.weight.data[...] = 0
    >>> check_loaded(net)
    Traceback (most recent call last):
    ...
    minifcn.models.surgery.SurgeryError: all weights of conv3_1 are zero, ...
    """
    zero = [
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and not is_score(name) and _is_zero(parameter.data)
    ]
    if zero:
        raise SurgeryError(
            f"all weights of {_some(zero)} are zero, so nothing behind would ever learn: load "
            "trained weights, or start from random ones (a new net does)"
        )


def is_score(name: str) -> bool:
    """Tell whether a parameter belongs to a score layer, or to the upsampling of scores.

    >>> is_score("score_pool4.bias"), is_score("upscore2.weight"), is_score("fc7.weight")
    (True, True, False)
    """
    return _layer(name).startswith(("score", "upscore"))


def _layer(name: str) -> str:
    """Return the layer's own name: ``score_fr`` of ``colour.score_fr.weight``."""
    return name.split(".")[-2] if "." in name else ""


def _is_upsampling(name: str) -> bool:
    return _layer(name).startswith("upscore")


def _arrays(source: nn.Module | Mapping[str, Array]) -> dict[str, Array]:
    """Return a source's parameters by name; raise if it is something else."""
    state = source.state_dict() if isinstance(source, nn.Module) else source
    if not isinstance(state, Mapping) or not all(is_array(array) for array in state.values()):
        raise SurgeryError(
            f"the source is a {type(source).__name__}: give a net, or a mapping of names to arrays "
            "such as net.state_dict()"
        )
    return dict(state)


def _flattened(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape (O, C*h*w) that a convolution's weight (O, C, h, w) has as a linear one."""
    return (shape[0], shape[1] * shape[2] * shape[3]) if len(shape) == 4 else ()


def _is_wider(ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """Tell whether two convolutions' weights differ in that ours has more input channels."""
    return (
        len(ours) == len(theirs) == 4
        and ours[1] > theirs[1]
        and ((ours[0], *ours[2:]) == (theirs[0], *theirs[2:]))
    )


def _widened(weight: Array, channels: int) -> Array:
    """Return a weight (O, I, h, w) with further input channels, each the mean of the old ones."""
    with on_device(weight):
        mean = weight.mean(axis=1, keepdims=True, dtype=weight.dtype)
        return xp_of(weight).concatenate([weight] + [mean] * (channels - weight.shape[1]), axis=1)


def _is_zero(array: Array) -> bool:
    with on_device(array):
        return not array.any()


def _is_expansion(name: str, parameter: Tensor, array: Array) -> bool:
    """Tell whether an array is a score layer's parameter, for the same classes or for fewer."""
    axes = range(2 if _is_upsampling(name) else 1)  # the axes of classes
    sizes = list(enumerate(zip(parameter.shape, array.shape, strict=False)))
    return (
        parameter.dtype == array.dtype
        and parameter.ndim == array.ndim
        and all(there <= here if i in axes else there == here for i, (here, there) in sizes)
        and len({array.shape[i] for i in axes}) == 1
    )


def _unfit(name: str, ours: tuple[int, ...], theirs: tuple[int, ...], first: bool) -> str:
    """Say how a parameter's two shapes differ, and what may be done about it."""
    text = f"{name} is {ours} here, {theirs} in the source"
    if is_score(name):
        return (
            f"{text}: the nets tell other numbers of classes apart; with new_scores=True the score "
            "layers stay as they are, and expand_score copies those of the first classes"
        )
    if first and _is_wider(ours, theirs):
        return f"{text}: widen_input=True starts the new input channels at the mean of the old ones"
    return text


def _raise_if_any(wrong: list[str], rule: str = "") -> None:
    if wrong:
        rest = [f"... and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        lines = "".join(f"\n  {line}" for line in wrong[:LISTED] + rest)
        raise SurgeryError(f"parameters that do not fit{rule}; nothing was changed{lines}")


def _write(parameters: Mapping[str, Tensor], values: Mapping[str, Array]) -> None:
    """Put arrays into parameters, which keep their place in memory, device and all."""
    for name, array in values.items():
        overwrite(parameters[name].data, array)


def _line(name: str, what: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> Line:
    return Line(name, what, str(ours) if ours == theirs else f"{theirs} -> {ours}")


def _some(names: list[str]) -> str:
    return (", ".join(names[:3]) + ", ..." * (len(names) > 3)) or "none"
