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
MAYBE_LATE = (
    "a GPU's losses are looked at late, so the cause may lie up to 20 steps back (with --on-nan "
    "skip, or MINIFCN_DEBUG=1, they are looked at in each step)"
)


class TrainingError(Error, RuntimeError):
    """A run that cannot start or cannot go on."""


class NotFiniteStepError(TrainingError):
    """A step whose loss or gradient is not a finite number, so that nothing can be learnt from it.

    Parameters
    ----------
    what
        Is not finite, and how: "the loss is nan".
    step, images, lr
        Where that happened; no images if it was not theirs.
    cause
        What was found about it; see `minifcn.diagnose`.
    advice
        What to do; None if the learning rate is probably at fault.

    Examples
    --------
    >>> print(NotFiniteStepError("the loss is nan", 3, ["a.png"], lr=0.3))
    the loss is nan at step 3 (images a.png): the learning rate 0.3 is probably too high; try \
--lr 0.1
    """

    def __init__(
        self,
        what: str,
        step: int,
        images: Sequence[str],
        lr: float,
        cause: str = "",
        advice: str | None = None,
    ) -> None:
        self.what, self.step, self.images, self.lr = what, step, images, lr
        if advice is None:
            advice = f"the learning rate {lr:.3g} is probably too high; try --lr {lr / 3:.2g}"
        where = f"at step {step}" + (f" (images {', '.join(images)})" if images else "")
        super().__init__(": ".join(filter(None, [f"{what} {where}", cause, advice])))

    def explained(self, cause: str, in_images: bool, in_a_row: int) -> NotFiniteStepError:
        """Return the same error with what was found; and how many steps in a row were like this."""
        what = self.what if in_a_row == 1 else f"{in_a_row} steps in a row: {self.what}"
        advice = "mend these images, or leave them out" if in_images else None
        return NotFiniteStepError(what, self.step, self.images, self.lr, cause, advice)


class StepLoss:
    """The loss of a step, added up over the parts of its batch and over the heads of the net.

    Parameters
    ----------
    step
        Its number, from 1 on, for messages.
    lr
        The recipe's learning rate, for messages.

    Examples
    --------
    >>> import numpy as np
    >>> loss = StepLoss(1, lr=0.1)
    >>> loss.add(np.array(2.0), 3, 4, ["a.png"])
    >>> loss.read()
    1.5
    """

    skipped = ""  # why nothing was learnt from the step, if so

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
        NotFiniteStepError
            If it is not a finite number.
        """
        while self.unread:
            loss, factor, divisor, images = self.unread[0]
            value = loss.item()
            check_loss(value, self.step, images, self.lr, "" if is_numpy(loss) else MAYBE_LATE)
            self.sum += value * factor / divisor
            del self.unread[0]
        return self.sum

    def skip(self, why: str) -> None:
        """Say that nothing was learnt from the step: there is no loss."""
        self.skipped, self.unread, self.sum = why, [], math.nan


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
    events: tuple[str, ...] = ()  # what went wrong and was passed over
    images: int = 0  # that it learnt from; 0: not told
    wait: float = 0.0  # seconds until they were there

    @property
    def loss(self) -> float:
        """The mean per labelled pixel, whatever the recipe's reduction is; a sum over heads.

        NaN if nothing was learnt from the step, because it was not finite.

        On a GPU this waits, unless it is `known`, and it may raise a `TrainingError`.
        """
        return self.told.read() if isinstance(self.told, StepLoss) else self.told

    @property
    def known(self) -> bool:
        """Whether the loss can be told without waiting."""
        return not isinstance(self.told, StepLoss) or not self.told.unread

    def numbers(self) -> dict[str, float | None]:
        """Return all numbers, for a log; the loss is None if it is NaN.

        >>> Step(1, 10, 0.5, lr=0.1, seconds=0.0).numbers()
        {'step': 1, 'steps': 10, 'loss': 0.5, 'lr': 0.1, 'seconds': 0.0}
        """
        loss = None if math.isnan(self.loss) else self.loss
        known = {"step": self.step, "steps": self.steps, "loss": loss}
        known |= {"lr": self.lr, "seconds": self.seconds}
        return known | ({"images": self.images, "wait": self.wait} if self.images else {})


def check_loss(value: float, step: int, images: Sequence[str], lr: float, cause: str = "") -> None:
    """Raise an error that names the images and gives advice if a loss is not a finite number.

    >>> check_loss(1.5, 1, ["a.png"], lr=0.1)
    """
    if not math.isfinite(value):
        raise NotFiniteStepError(f"the loss is {value}", step, images, lr, cause)
