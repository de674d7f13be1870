"""A convolution and the ReLU behind it, with the ReLU done while the numbers are in the cache.

Most convolutions of a net have a ReLU behind them, which by itself would only read and write
memory: a twentieth to a sixth of the convolution's forward pass. So the kernel that computes
z = conv2d(x) leaves y = max(z, 0) in the array, block by block. Two operations are recorded all the
same, and each gradient comes from one rule:

- conv2d's rules need x, the weight and g, but never z. They do not notice that z is gone.
- relu's rule needs only where y is above zero. It masks g once, for all three gradients of the
  convolution: to mask in each of them takes longer (docs/performance.md).
"""

from __future__ import annotations

from typing import Any

from .activation import relu
from .conv import Size, conv2d


def conv2d_relu(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Any:
    """Return relu(conv2d(x, weight, ...)), to the bit: y = max(b + sum of x · w, 0).

    Parameters
    ----------
    x, weight, bias, stride, padding, dilation, groups
        Arrays or Tensors and settings, as for `conv2d`.

    Returns
    -------
    (N, O, Ho, Wo)
        Nothing in it is below zero. NaN stays NaN.

    Raises
    ------
    ShapeError
        If channels, groups or sizes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[[[-2.0, 3.0]]]])
    >>> conv2d_relu(x, np.ones((1, 1, 1, 1)))
    array([[[[0., 3.]]]])
    """
    z = conv2d(x, weight, bias, stride, padding, dilation, groups, relu_follows=True)
    return relu(z, done=True)
