"""Chains of layers that read the same input, with their outputs put side by side as channels."""

from __future__ import annotations

from typing import Any

from .. import functional as F
from .module import LayerError, Module
from .sequential import in_turn


class Branches(Module):
    """A layer made of several chains: all read one input, and their channels are concatenated.

    A subclass assigns its layers as attributes and lists them in `chains`. Whoever plans with
    layers (sizes, receptive fields, memory) follows the chains too. All must put out maps of the
    same height and width, whose pixels sit at the same places.

    Examples
    --------
    >>> import numpy as np
    >>> from minifcn import nn
    >>> class Pair(nn.Branches):
    ...     def __init__(self):
    ...         self.small, self.large = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 5, 3, padding=1)
    ...
    ...     def chains(self):
    ...         return {"small": self.small}, {"large": self.large}
    >>> Pair()(np.zeros((1, 3, 4, 4), np.float32)).shape
    (1, 7, 4, 4)
    """

    def chains(self) -> tuple[dict[str, Module], ...]:
        """Return the chains, each as name to layer in the order of computation."""
        raise LayerError(f"{type(self).__name__} does not define chains(): it has no branches")

    def forward(self, x: Any) -> Any:
        """Compute every chain from x, (N, C, H, W), and return all their channels in order."""
        outputs = []
        for chain in self.chains():
            y = x
            for _, output in in_turn(chain, x):
                y = output
            outputs.append(y)
        return F.cat(outputs, 1)
