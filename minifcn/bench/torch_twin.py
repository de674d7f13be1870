"""The same FCN in PyTorch, built from ours layer by layer, in the form that is fastest there.

ReLU works in place. Bilinear upsampling is a convolution of each class by itself, which crops its
own border: with the full weight, where all classes meet, it takes up to nine times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import nn
from ..models import FCN
from .works import BenchError


class Twin:
    """An FCN in PyTorch, with copies of its parameters; call it with images (N, 3, H, W).

    Parameters
    ----------
    net
        Any FCN whose layers have a counterpart in PyTorch.
    layout
        How images and weights lie in memory: ``"contiguous"`` or ``"channels_last"``.
    device
        Where the parameters are.

    Attributes
    ----------
    parameters
        PyTorch's, those to be learnt.

    Raises
    ------
    BenchError
        If a layer has no counterpart.
    """

    def __init__(self, net: FCN, layout: str, device: str = "cpu") -> None:
        self.parameters: list[Any] = []
        self.layout, self.device = layout, device
        self.skips, self.offset = net.skips, net.offset
        self.trunk = {name: self._counterpart(getattr(net, name)) for name in net.trunk_names}
        scores = ["score_fr", *(skip.score for skip in net.skips)]
        self.scores = {name: self._counterpart(getattr(net, name)) for name in scores}
        enlarging = [net.last, *(skip.upsample for skip in net.skips)]
        self.enlarging = {name: self._upsampling(getattr(net, name)) for name in enlarging}
        self.last = net.last

    def __call__(self, x: Any) -> Any:
        """Return a score for each class at each pixel: the steps of `FCN.forward`."""
        tapped, h = {}, x
        for name, layer in self.trunk.items():
            h = layer(h)
            if any(name == skip.tap for skip in self.skips):
                tapped[name] = h
        score = self.scores["score_fr"](h)
        for skip in self.skips:
            enlarge, finer = self.enlarging[skip.upsample], tapped.pop(skip.tap)
            finer = self.scores[skip.score](finer if skip.scale == 1 else finer * skip.scale)
            if skip.crop_finer:
                up = enlarge(score)
                finer = _crop(finer, skip.offset, up.shape[2:])
            else:
                up = enlarge(score, skip.offset, finer.shape[2:])
            score = up + finer
        return self.enlarging[self.last](score, self.offset, x.shape[2:])

    def _counterpart(self, layer: nn.Module) -> Callable[[Any], Any]:
        """Return a function that computes on PyTorch's tensors what a layer computes on ours."""
        import torch.nn.functional as T

        if isinstance(layer, nn.Sequential):
            chain = [self._counterpart(inner) for inner in layer]
            return lambda x: _through(chain, x)
        if isinstance(layer, nn.Conv2d):
            weight, bias = self._take(layer.weight), self._take(layer.bias)
            geometry = layer.stride, layer.padding, layer.dilation, layer.groups
            return lambda x: T.conv2d(x, weight, bias, *geometry)
        if isinstance(layer, nn.ReLU):
            return partial(T.relu, inplace=True)
        if isinstance(layer, nn.MaxPool2d):
            window = layer.kernel_size, layer.stride, layer.padding, layer.dilation
            return lambda x: T.max_pool2d(x, *window, ceil_mode=layer.ceil_mode)
        if isinstance(layer, nn.LocalResponseNorm):
            numbers = layer.size, layer.alpha, layer.beta, layer.k
            return lambda x: T.local_response_norm(x, *numbers)
        if isinstance(layer, nn.Dropout):
            return partial(T.dropout, p=layer.p, training=layer.training)
        raise BenchError(f"the benchmark knows no counterpart in PyTorch of {layer!r}")

    def _take(self, parameter: nn.Parameter | None) -> Any:
        """Return a copy of a parameter, and list it if it is learnt; None for none."""
        import torch

        if parameter is None:
            return None
        copy = placed(parameter.numpy(), self.layout, self.device)
        if parameter.requires_grad:
            copy = torch.nn.Parameter(copy)
            self.parameters.append(copy)
        return copy

    def _upsampling(self, layer: nn.ConvTranspose2d) -> Callable[..., Any]:
        """Return ``enlarge(x, offset, size)``, which crops to a size, or not if none is given."""
        import torch.nn.functional as T

        weight, stride = layer.weight.numpy(), layer.stride
        C, _, *kernel_size = weight.shape
        if layer.weight.requires_grad or weight[~np.eye(C, dtype=bool)].any():
            kernel, groups = self._take(layer.weight), 1
        else:
            alone = weight[np.arange(C), np.arange(C), None]  # (C, C, kh, kw) -> (C, 1, kh, kw)
            kernel, groups = placed(alone, self.layout, self.device), C

        def enlarge(x: Any, offset: Sequence[int] = (0, 0), size: Sequence[int] = ()) -> Any:
            full = [
                s * (n - 1) + k for s, n, k in zip(stride, x.shape[2:], kernel_size, strict=True)
            ]
            size = size or full
            # PyTorch's padding crops at both ends: no more than there is to crop at the far one.
            pads = [min(o, f - n - o) for o, f, n in zip(offset, full, size, strict=True)]
            y = T.conv_transpose2d(x, kernel, stride=stride, padding=pads, groups=groups)
            return _crop(y, [o - p for o, p in zip(offset, pads, strict=True)], size)

        return enlarge


def placed(array: np.ndarray, layout: str, device: str = "cpu") -> Any:
    """Return a copy of an array as a PyTorch tensor, in the memory order of a layout."""
    import torch

    four = array.ndim == 4 and layout == "channels_last"
    order = torch.channels_last if four else torch.contiguous_format
    empty = torch.empty(array.shape, memory_format=order, device=device)
    return empty.copy_(torch.from_numpy(array))


def _through(chain: Sequence[Callable[[Any], Any]], x: Any) -> Any:
    for layer in chain:
        x = layer(x)
    return x


def _crop(x: Any, offset: Sequence[int], size: Sequence[int]) -> Any:
    (top, left), (height, width) = offset, size
    return x[:, :, top : top + height, left : left + width]
