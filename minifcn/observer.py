"""Who wants to see how a run goes."""

from __future__ import annotations

from .metrics import ConfusionMatrix
from .models.surgery import Report
from .nn import Module
from .recipes import Recipe
from .step import Step


class Observer:
    """Is told what happens in a run. Does nothing; subclasses show progress."""

    def transplanted(self, name: str, report: Report) -> None:
        """Tell which parameters a stage takes over from the net that it starts from."""

    def stage_started(self, name: str, recipe: Recipe, model: Module) -> None:
        """Tell that a stage begins."""

    def resumed(self, name: str, step: int) -> None:
        """Tell that a stage goes on after a step; it was begun before."""

    def stepped(self, name: str, step: Step) -> None:
        """Tell about a training step."""

    def evaluating(self, name: str, done: int, total: int) -> None:
        """Tell how far an evaluation has come."""

    def evaluated(self, name: str, step: int, matrix: ConfusionMatrix, best: bool) -> None:
        """Tell the result of an evaluation: of each head, whose name is then behind the stage's."""

    def warned(self, text: str) -> None:
        """Tell about something that is probably wrong."""
