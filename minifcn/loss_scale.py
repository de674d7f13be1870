"""Gradients in 16 bits: the loss is enlarged, so that small gradients do not become 0.

Below 6e-8 there is no number in float16 but 0, and gradients of a mean over many pixels can be
smaller. The chain rule is linear: with the loss, all gradients are multiplied, and divided again
before they change a weight. Too large a factor makes infinities; then nothing is learnt from
the step, and the factor is halved (Micikevicius et al. 2018, "Mixed precision training", 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .autograd import Tensor
from .backend import Array, on_device, overwrite, xp_of
from .kernels import precision
from .step import NotFiniteStepError

FIRST = 65536.0  # a power of two, as all factors: multiplying by it rounds nothing
DOUBLED_AFTER = 2000  # steps without infinities
# Below 1, the factor would make gradients smaller: a gradient that overflows at 1 is the net's own.
# And halved on and on it comes to 0, by which nothing can be divided.
LEAST = 1.0
MOST_IN_A_ROW = 20  # steps that overflow: after 16 the factor has come from FIRST to LEAST


def in_fp16() -> bool:
    """Tell whether gradients are computed in fp16, where they need all this."""
    return precision.current() == "fp16"


class LossScale:
    """The factor of the loss, which follows from what gradients come out. Nobody waits for it.

    Parameters
    ----------
    like
        An array of the net, to tell where all this is computed.

    Attributes
    ----------
    finite
        1 if all gradients of the last step were finite, else 0: ``optimizer.step(scale.finite)``.
    in_a_row
        How many of the last steps were not.

    Examples
    --------
    >>> w = Tensor(np.ones(2, np.float32), requires_grad=True)
    >>> scale = LossScale(w.data)
    >>> scale.scaled((w * 3.0).sum()).backward()
    >>> scale.unscale_([w])
    >>> w.grad.numpy().tolist(), scale.factor.item()
    ([3.0, 3.0], 65536.0)
    """

    def __init__(self, like: Array) -> None:
        with on_device(like):
            self.factor: Array = xp_of(like).asarray(FIRST, np.float32)
            self.good: Array = xp_of(like).asarray(0, np.int32)  # steps since the last change
            self.finite: Array = xp_of(like).asarray(1, np.int32)
            self.in_a_row: Array = xp_of(like).asarray(0, np.int32)

    def set(self, factor: float, good: int) -> None:
        """Go on from where another one stood."""
        overwrite(self.factor, max(factor, LEAST))
        overwrite(self.good, good)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to call ``backward`` of."""
        return loss * Tensor(self.factor)

    def unscale_(self, parameters: Iterable[Tensor]) -> None:
        """Divide all gradients by the factor, in place; set them to 0 if one is not finite.

        Then ``finite`` is 0, too: a step with gradients of 0 would still follow the momentum and
        shrink the weights. The factor is halved, but not below 1; or doubled, if all was well for
        long enough.
        """
        gradients = [parameter.grad.data for parameter in parameters if parameter.grad is not None]
        xp = xp_of(self.factor)
        with on_device(self.factor):
            finite = xp.asarray(True)
            for g in gradients:
                finite = finite & xp.isfinite(g).all()
            share, wrong = 1 / self.factor, ~finite
            for g in gradients:
                g *= share
                xp.copyto(g, 0, where=wrong)
            good = xp.where(finite, self.good + 1, 0)
            enough = good >= DOUBLED_AFTER
            change = xp.where(finite, xp.where(enough, 2.0, 1.0), 0.5)
            # In place: who works with the factor need not ask for another array each time.
            self.factor *= xp.asarray(change, np.float32)
            xp.maximum(self.factor, LEAST, out=self.factor)
            self.finite[...] = finite
            self.in_a_row[...] = xp.where(finite, 0, self.in_a_row + 1)
            self.good[...] = xp.where(enough, 0, good)

    def check(self, step: int, lr: float) -> None:
        """Look whether training still gets anywhere; a GPU is waited for.

        Raises
        ------
        NotFiniteStepError
            If all of the last 20 steps overflowed: nothing was learnt from them, and the factor
            cannot be the cause any more. ``step`` and the learning rate are for the message.
        """
        if (steps := self.in_a_row.item()) >= MOST_IN_A_ROW:
            cause = "float16 has no number beyond 65504, and the loss is hardly enlarged any more"
            advice = f"try --precision bf16 or tf32, or a lower rate such as --lr {lr / 3:.2g}"
            what = f"{steps} steps in a row: gradients overflow in fp16"
            raise NotFiniteStepError(what, step, [], lr, cause, advice)
