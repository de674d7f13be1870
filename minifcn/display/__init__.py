"""What a notebook shows of tensors, modules, results, graphs and a training that goes on.

All is HTML with inline styles, or SVG: it needs no JavaScript, takes its colours for text and paper
from the page that it stands in, and can be read where styles are taken away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autograd import Tensor
from ..metrics import ConfusionMatrix
from ..nn import Module
from .confusion import confusion_html
from .expression import graph
from .labelled import Labelled
from .live import LiveCurves, curves
from .module import module_html
from .page import DisplayError, Drawing
from .tensor import tensor_html

__all__ = ["DisplayError", "Drawing", "Labelled", "LiveCurves", "curves", "graph", "html_of"]

SHOWN: dict[type, Callable[[Any], str]] = {
    Tensor: tensor_html,
    Module: module_html,
    ConfusionMatrix: confusion_html,
}


def html_of(thing: Any) -> str:
    """Return what a notebook shows of a tensor, a module or a confusion matrix, as HTML.

    Raises
    ------
    DisplayError
        If it is something else.

    Examples
    --------
    >>> "(2, 3)" in html_of(Tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    True
    """
    for kind, html in SHOWN.items():
        if isinstance(thing, kind):
            return html(thing)
    raise DisplayError(f"nothing is known about how to show a {type(thing).__name__}")
