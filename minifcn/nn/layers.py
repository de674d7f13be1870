"""The layers: modules that hold the settings (and parameters) of one function of `functional`.

Constructors check their settings once; sizes that depend on the input are checked by the function.
Weights start at He's normal numbers, biases at zero; both come from the generator ``rng``, never
from a global seed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import functional as F
from ..autograd import Tensor
from ..shapes import pair
from . import init
from .module import LayerError, Module, Parameter

Size = int | tuple[int, int] | list[int]  # one number for both axes, or (vertical, horizontal)


def _count(layer: Module, **values: int) -> None:
    """Raise unless all values are whole numbers of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise LayerError(
                f"{type(layer).__name__}: {name}={value!r} must be a whole number of at least 1"
            )


# The settings that a repr shows, and the value at which it leaves each one out.
_USUAL: dict[str, Any] = {
    "kernel_size": None,
    "stride": None,
    "padding": (0, 0),
    "output_padding": (0, 0),
    "dilation": (1, 1),
    "groups": 1,
    "ceil_mode": False,
    "count_include_pad": True,
}


def _settings(layer: Module) -> str:
    """Write the settings of a layer that are not the usual ones: ``kernel 3, stride (1, 2)``."""
    found = {n: getattr(layer, n) for n in _USUAL if getattr(layer, n, _USUAL[n]) != _USUAL[n]}
    return ", ".join(
        f"{name.removesuffix('_size')} {v[0] if isinstance(v, tuple) and v[0] == v[1] else v}"
        for name, v in found.items()
    )


class _Convolution(Module):
    """The settings that both kinds of convolution share."""

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        channels: tuple[int, int],
        kernel_size: Size,
        stride: Size,
        padding: Size,
        dilation: Size,
        groups: int,
    ) -> None:
        name = type(self).__name__
        self.in_channels, self.out_channels = channels
        self.groups = groups
        _count(self, in_channels=channels[0], out_channels=channels[1], groups=groups)
        if channels[0] % groups or channels[1] % groups:
            raise LayerError(
                f"{name}: {channels[0]} input and {channels[1]} output channels cannot both be "
                f"split into {groups} equal groups"
            )
        self.kernel_size = pair(kernel_size, f"{name}: kernel_size", least=1)
        self.stride = pair(stride, f"{name}: stride", least=1)
        self.padding = pair(padding, f"{name}: padding", least=0)
        self.dilation = pair(dilation, f"{name}: dilation", least=1)

    def _start(
        self,
        shape: tuple[int, ...],
        fan_in: float,
        bias: bool,
        rng: np.random.Generator | None,
        dtype: Any,
    ) -> tuple[Parameter, Parameter | None]:
        """Return a weight of He's normal numbers, and a bias of zeros if there is to be one."""
        # In memory (kh, kw, I, O), the order in which patches meet it: no kernel rearranges it.
        O, I, kh, kw = shape
        init.check_room(type(self).__name__, shape, dtype)
        weight = Parameter(np.empty((kh, kw, I, O), dtype).transpose(3, 2, 0, 1))
        init.normal_(weight, math.sqrt(2 / fan_in), rng or np.random.default_rng())
        return weight, Parameter(np.zeros(self.out_channels, dtype)) if bias else None

    def extra_repr(self) -> str:
        """Return channels and geometry."""
        bias = "" if self.bias is not None else ", bias False"
        return f"{self.in_channels} -> {self.out_channels}, {_settings(self)}{bias}"


class Conv2d(_Convolution):
    """Convolution over (N, in, H, W): see `functional.conv2d`.

    Parameters
    ----------
    in_channels, out_channels
        How many feature maps go in and come out.
    kernel_size, stride, padding, dilation
        One number, or (vertical, horizontal).
    groups
        Into how many groups the channels are split; each sees only its own. Divides both counts.
    bias
        Whether a number per output channel is added.
    rng
        Where the starting weights are drawn from; a fresh, unseeded generator if None.
    dtype
        The floating-point type of the parameters.

    Attributes
    ----------
    weight
        (out_channels, in_channels / groups, kh, kw), He normal.
    bias
        (out_channels,), zeros; or None.

    Raises
    ------
    LayerError, ShapeError
        For counts below 1, settings that are not whole numbers, or groups that do not divide.

    Examples
    --------
    >>> Conv2d(3, 64, 3, padding=1, rng=np.random.default_rng(0))
    Conv2d(3 -> 64, kernel 3, stride 1, padding 1)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(
            (in_channels, out_channels), kernel_size, stride, padding, dilation, groups
        )
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight, self.bias = self._start(shape, init.fans(shape)[0], bias, rng, dtype)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return the convolution of x (N, in, H, W); with ``relu``, max(it, 0)."""
        convolve = F.conv2d_relu if relu else F.conv2d
        return convolve(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class ConvTranspose2d(_Convolution):
    """Transposed convolution ("deconvolution"), which enlarges: see `functional.conv_transpose2d`.

    The parameters are those of `Conv2d`, in PyTorch's order, with ``output_padding``: how many rows
    and columns are added behind the last. `init.bilinear_` makes it an interpolation.

    Attributes
    ----------
    weight
        (in_channels, out_channels / groups, kh, kw), normal with variance 2 / fan in, where only
        the kh·kw / (stride²) kernel positions that meet in one output pixel count.
    bias
        (out_channels,), zeros; or None.

    Raises
    ------
    LayerError, ShapeError
        As `Conv2d`.

    Examples
    --------
    >>> ConvTranspose2d(21, 21, 64, stride=32, bias=False)
    ConvTranspose2d(21 -> 21, kernel 64, stride 32, bias False)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        *,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(
            (in_channels, out_channels), kernel_size, stride, padding, dilation, groups
        )
        self.output_padding = pair(output_padding, "ConvTranspose2d: output_padding", least=0)
        meeting = [max(1, k / s) for k, s in zip(self.kernel_size, self.stride, strict=True)]
        fan_in = in_channels // groups * math.prod(meeting)
        shape = (in_channels, out_channels // groups, *self.kernel_size)
        self.weight, self.bias = self._start(shape, fan_in, bias, rng, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transposed convolution of x (N, in, H, W)."""
        return F.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
            fixed=not self.weight.requires_grad,
        )


class _Pool(Module):
    """The settings that both kinds of pooling share; the stride is the kernel size if not given."""

    def __init__(
        self, kernel_size: Size, stride: Size | None, padding: Size, ceil_mode: bool
    ) -> None:
        name = type(self).__name__
        self.kernel_size = pair(kernel_size, f"{name}: kernel_size", least=1)
        self.stride = pair(
            self.kernel_size if stride is None else stride, f"{name}: stride", least=1
        )
        self.padding = pair(padding, f"{name}: padding", least=0)
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        """Return the geometry."""
        return _settings(self)


class MaxPool2d(_Pool):
    """The largest value in each window: see `functional.max_pool2d`.

    ``ceil_mode`` rounds the output size up, as Caffe does; the stride is the kernel size if None.

    >>> MaxPool2d(2, ceil_mode=True)
    MaxPool2d(kernel 2, stride 2, ceil_mode True)
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = pair(dilation, "MaxPool2d: dilation", least=1)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return the windows' maxima of x (N, C, H, W); with ``relu``, max(it, 0)."""
        pool = F.max_pool2d_relu if relu else F.max_pool2d
        return pool(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class AvgPool2d(_Pool):
    """The mean of each window: see `functional.avg_pool2d`.

    >>> AvgPool2d(7, stride=1)
    AvgPool2d(kernel 7, stride 1)
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """Return the windows' means of x (N, C, H, W)."""
        return F.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class LocalResponseNorm(Module):
    """Division by the activity of ``size`` neighbouring channels: `functional.local_response_norm`.

    >>> LocalResponseNorm(5)
    LocalResponseNorm(size 5, alpha 0.0001, beta 0.75, k 1.0)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        _count(self, size=size)
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N, C, H, W), normalised across channels."""
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """Return the constants of the formula."""
        return f"size {self.size}, alpha {self.alpha}, beta {self.beta}, k {self.k}"


class Linear(Module):
    """A fully connected layer: x Wᵀ + b, see `functional.linear`.

    ``weight`` is (out_features, in_features), He normal; ``bias`` (out_features,) zeros, or None.

    >>> layer = Linear(4, 2, rng=np.random.default_rng(0))
    >>> layer, layer.num_parameters()
    (Linear(4 -> 2), 10)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: np.random.Generator | None = None,
        dtype: Any = np.float32,
    ) -> None:
        _count(self, in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        init.check_room(type(self).__name__, (out_features, in_features), dtype)
        self.weight = Parameter(np.empty((out_features, in_features), dtype))
        init.he_normal_(self.weight, rng or np.random.default_rng())
        self.bias = Parameter(np.zeros(out_features, dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features) for x (..., in_features)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the feature counts."""
        bias = "" if self.bias is not None else ", bias False"
        return f"{self.in_features} -> {self.out_features}{bias}"


class ReLU(Module):
    """The larger of x and 0, element by element.

    >>> ReLU()
    ReLU()
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, 0)."""
        return F.relu(x)


class Dropout(Module):
    """Sets each element to zero with probability ``p`` in training; see `functional.dropout`.

    The layer draws from a generator of its own, ``rng``: unseeded if none is given. Its state
    (``rng.bit_generator.state``) belongs into a checkpoint that is to be resumed exactly.

    >>> Dropout(0.5, rng=np.random.default_rng(0))
    Dropout(p 0.5)
    """

    def __init__(self, p: float = 0.5, rng: np.random.Generator | None = None) -> None:
        if not 0 <= p < 1:
            raise LayerError(f"Dropout: p={p!r} must be at least 0 and less than 1")
        self.p, self.rng = p, rng or np.random.default_rng()

    def forward(self, x: Tensor) -> Tensor:
        """Return x with elements dropped if ``training``, x itself otherwise."""
        return F.dropout(x, self.p, self.training, self.rng)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p {self.p}"


class Flatten(Module):
    """Every image's numbers in one row, (N, C, H, W) to (N, C*H*W), in PyTorch's order.

    >>> Flatten()
    Flatten()
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C*H*W)."""
        return F.reshape(x, (x.shape[0], -1))
