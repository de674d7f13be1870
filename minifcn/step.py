"""What is known after a training step: its loss above all, which a GPU may still be computing.

A program that asks a GPU for a number waits until all that was asked before is done, and the GPU
then waits for the program. So losses are read when somebody wants to see them, or a few steps late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .backend import Array, Error, is_numpy

LATE = 20  # steps after which the losses on a GPU are read in any case


class TrainingError(Error, RuntimeError):
    """A run that cannot start or cannot go on."""


class StepLoss:
    """The loss of a step, added up over the parts of its batch and over the heads of the net.

    Parameters
    ----------
    step
        Its number, for messages.
    lr
        The recipe's learning rate, for messages.

    Examples
    --------
    >>> import numpy as np
    >>> loss = StepLoss(0, lr=0.1)
    >>> loss.add(np.array(2.0), 3, 4, ["a.png"])
    >>> loss.read()
    1.5
    """

    def __init__(self, step: int, lr: float) -> None:
        self.step, self.lr = step, lr
        self.unread: list[tuple[Array, float, float, Sequence[str]]] = []
        self.sum = 0.0

    def add(self, loss: Array, factor: float, divisor: float, images: Sequence[str]) -> None:
        """Add ``loss * factor / divisor``, of some images; on a CPU it is checked at once."""
        self.unread.append((loss, factor, divisor, images))
        if is_numpy(loss):
            self.read()

    def read(self) -> float:
        """Return the sum; on a GPU this waits for all that is being computed.

        Raises
        ------
        TrainingError
            If it is not a finite number.
        """
        while self.unread:
            loss, factor, divisor, images = self.unread[0]
            value = loss.item()
            check_loss(value, self.step, images, self.lr)
            self.sum += value * factor / divisor
            del self.unread[0]
        return self.sum


class Step(NamedTuple):
    """What is known after a training step.

    >>> Step(1, 10, 0.5, lr=0.1, seconds=0.0).loss
    0.5
    """

    step: int
    steps: int
    told: float | StepLoss  # what `loss` is read from
    lr: float
    seconds: float  # on a GPU, those until it had been told what to do

    @property
    def loss(self) -> float:
        """The mean per labelled pixel, whatever the recipe's reduction is; a sum over heads.

        On a GPU this waits, unless it is `known`, and it may raise a `TrainingError`.
        """
        return self.told.read() if isinstance(self.told, StepLoss) else self.told

    @property
    def known(self) -> bool:
        """Whether the loss can be told without waiting."""
        return not isinstance(self.told, StepLoss) or not self.told.unread

    def numbers(self) -> dict[str, float]:
        """Return all of this, for a log.

        >>> Step(1, 10, 0.5, lr=0.1, seconds=0.0).numbers()
        {'step': 1, 'steps': 10, 'loss': 0.5, 'lr': 0.1, 'seconds': 0.0}
        """
        step, steps, _, lr, seconds = self
        return {"step": step, "steps": steps, "loss": self.loss, "lr": lr, "seconds": seconds}


def check_loss(value: float, step: int, images: Sequence[str], lr: float) -> None:
    """Raise an error that names the images and gives advice if a loss is not a finite number.

    >>> check_loss(1.5, 0, ["a.png"], lr=0.1)
    """
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is {value} at step {step} (images {', '.join(images)}): the "
            f"learning rate {lr:.3g} is probably too high; try --lr {lr / 3:.2g}"
        )
