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
from .backend import Array, on_device, xp_of

FIRST = 65536.0  # a power of two, as all factors: multiplying by it rounds nothing
DOUBLED_AFTER = 2000  # steps without infinities


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

    def set(self, factor: float, good: int) -> None:
        """Go on from where another one stood."""
        self.factor[...], self.good[...] = factor, good

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to call ``backward`` of."""
        return loss * Tensor(self.factor)

    def unscale_(self, parameters: Iterable[Tensor]) -> None:
        """Divide all gradients by the factor, in place; set them to 0 if one is not finite.

        Then ``finite`` is 0, too: a step with gradients of 0 would still follow the momentum and
        shrink the weights. The factor is halved; or doubled, if all was well for long.
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
            self.finite[...] = finite
            self.good[...] = xp.where(enough, 0, good)
