"""What a stage of a run leaves behind, and what was best in it so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from .metrics import ConfusionMatrix
from .models import FCN, LateFusion


class StageResult(NamedTuple):
    """What a stage leaves behind."""

    name: str
    model: FCN | LateFusion  # with the best weights
    matrices: dict[str, ConfusionMatrix]  # of these weights on the held-out images, by head
    step: int  # after which they were best
    seconds: float

    @property
    def matrix(self) -> ConfusionMatrix:
        """The confusion matrix of the first head, which decides what is best."""
        return next(iter(self.matrices.values()))

    def summary(self) -> dict[str, Any]:
        """Return the four metrics; if there are several heads, of each by its name."""
        return summaries(self.matrices)


def summaries(matrices: Mapping[str, ConfusionMatrix]) -> dict[str, Any]:
    """Return the four metrics of each head by its name; if there is one head, just the metrics.

    >>> list(summaries({"": ConfusionMatrix(2)}))
    ['pixel_accuracy', 'mean_accuracy', 'mean_iu', 'fw_iu']
    """
    told = {head: matrix.summary() for head, matrix in matrices.items()}
    return next(iter(told.values())) if len(told) == 1 else told


class Best(NamedTuple):
    """The best step of a stage so far: its number, what was measured, and which weights it had."""

    step: int
    matrices: dict[str, ConfusionMatrix]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        matrices = {head: matrix.matrix.tolist() for head, matrix in self.matrices.items()}
        return {"step": self.step, "digest": self.digest, "matrices": matrices}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Return what `to_json` was called of."""
        counts = told["matrices"].items()
        matrices = {head: ConfusionMatrix.from_counts(table) for head, table in counts}
        return cls(told["step"], matrices, told["digest"])
