"""Modules with parameters, the layers of fully convolutional networks, and their starting values.

Read module.py first, then sequential.py, branches.py and layers.py; init.py has the formulas of the
starting values.
"""

from . import init
from .branches import Branches
from .layers import (
    AvgPool2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    ReLU,
)
from .module import (
    LayerError,
    Module,
    Parameter,
    StateError,
    Unmatched,
    evaluation_mode,
    naming_layers,
)
from .sequential import Sequential, in_turn

__all__ = [
    "AvgPool2d",
    "Branches",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "LayerError",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "StateError",
    "Unmatched",
    "evaluation_mode",
    "in_turn",
    "init",
    "naming_layers",
]
