"""minifcn: fully convolutional networks for semantic segmentation, in NumPy and CuPy.

>>> import minifcn as mf
>>> x = mf.Tensor([3.0], requires_grad=True)
>>> (x * x).backward()
>>> x.grad.item()
6.0
"""

from . import functional
from ._version import __version__
from .autograd import Tensor, debug, grad, no_grad
from .backend import Error
from .checkpoint import checkpoint
from .kernels.precision import use_precision

__all__ = [
    "Error",
    "Tensor",
    "__version__",
    "checkpoint",
    "debug",
    "functional",
    "grad",
    "no_grad",
    "use_precision",
]
