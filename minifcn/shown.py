"""What a notebook shows of an object, other than its text.

Tensors, modules and confusion matrices inherit from `Shown`, which knows nothing of HTML:
`minifcn.display` does, and is not imported before the first of them is shown.
"""

from __future__ import annotations

import importlib


class Shown:
    """An object that shows itself in a notebook, where it is the last line of a cell.

    >>> class Mystery(Shown):
    ...     pass
    >>> Mystery()._repr_html_()
    Traceback (most recent call last):
    minifcn.display.page.DisplayError: nothing is known about how to show a Mystery
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Return what the notebook shows."""
        # By name, as the engine must not depend on anything that draws.
        return importlib.import_module("minifcn.display").html_of(self)
