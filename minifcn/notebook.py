"""What the tutorial's notebooks show: pictures with a description, and the library's own source.

Tensors, modules and confusion matrices show themselves (`minifcn.display`); what else that knows
has its names here, too: `graph`, `curves`, `LiveCurves`, `Labelled`.
"""

from __future__ import annotations

import inspect
import io
import sys
import textwrap
from typing import Any

import numpy as np
from PIL import Image as Pillow

from .backend import Error
from .display import Drawing, Labelled, LiveCurves, curves, graph

__all__ = [
    "Drawing",
    "Labelled",
    "LiveCurves",
    "NotebookError",
    "Picture",
    "Source",
    "curves",
    "graph",
    "show",
    "source",
]

SMALLEST = 240  # pixels: smaller pictures are enlarged, each pixel to a square


class NotebookError(Error, ValueError):
    """Something that cannot be shown."""


class Picture:
    """A PNG picture with a description for those who cannot see it; a notebook shows both.

    Attributes
    ----------
    png
        The file's bytes.
    alt
        The description.
    width, height
        In pixels.
    """

    def __init__(self, image: Pillow.Image, alt: str) -> None:
        content = io.BytesIO()
        image.save(content, format="PNG", optimize=True)
        self.png, self.alt = content.getvalue(), alt
        self.width, self.height = image.size

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """Return what a notebook shows: the picture, and the description as its plain text."""
        told = {"alt": self.alt, "width": self.width, "height": self.height}
        return {"image/png": self.png, "text/plain": self.alt}, {"image/png": told}


def show(picture: Any, alt: str) -> Picture:
    """Return a picture that a notebook shows where it is the last line of a cell.

    Parameters
    ----------
    picture
        A Pillow image, an array (H, W) or (H, W, 3) of bytes, or a figure of matplotlib. Small ones
        are enlarged.
    alt
        What is to be seen, in a sentence.

    Raises
    ------
    NotebookError
        If it is none of these, or the description is empty.

    Examples
    --------
    >>> show(np.zeros((8, 8, 3), np.uint8), alt="A black square.").width
    240
    """
    if not alt.strip():
        raise NotebookError("a picture needs a description: alt='What is to be seen.'")
    if hasattr(picture, "savefig"):
        content = io.BytesIO()
        picture.savefig(content, format="png", dpi=96, bbox_inches="tight")
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close(picture)  # an open figure would be shown again below the cell
        return Picture(Pillow.open(content).convert("RGB"), alt)
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim in (2, 3):
        picture = Pillow.fromarray(np.ascontiguousarray(picture))
    if not isinstance(picture, Pillow.Image):
        found = f"{picture.dtype} array" if isinstance(picture, np.ndarray) else type(picture)
        raise NotebookError(
            f"cannot show a {found}: it must be a Pillow image, a uint8 array (H, W) or (H, W, 3), "
            "or a matplotlib figure"
        )
    factor = -(-SMALLEST // max(picture.size))
    if factor > 1:
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Pillow.Resampling.NEAREST)
    return Picture(picture, alt)


class Source:
    """Python source that a notebook shows in colours."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"


def source(*things: Any) -> Source:
    """Return the source of functions or classes, as it stands in the library.

    An operation shows what it computes, without its gradient rules: they stand under it in the
    file.

    Parameters
    ----------
    things
        Functions, operations, classes, modules.

    Examples
    --------
    >>> source(SMALLEST.__class__)
    Traceback (most recent call last):
    minifcn.notebook.NotebookError: <class 'int'> has no Python source to show
    """
    parts = []
    for thing in things:
        try:
            parts.append(textwrap.dedent(inspect.getsource(inspect.unwrap(thing))).rstrip())
        except (TypeError, OSError) as error:
            raise NotebookError(f"{thing!r} has no Python source to show") from error
    return Source("\n\n\n".join(parts))
