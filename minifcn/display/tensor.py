"""What a notebook shows of a tensor: its facts, then numbers, or pictures where it holds maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np
from PIL import Image as Pillow

from ..autograd import Tensor
from ..backend import on_device, to_numpy, xp_of
from .page import Html, block, faint, heading, picture, plural, sizes, table

LEAST_SIDE = 12  # pixels: maps with a shorter side are shown as numbers
NUMBERS = 8  # that are shown along an axis, of more
TABLES = 4  # of numbers, of more
MAPS = 8  # pictures, of more
SHOWN, SHOWN_MAPS = 200, 130  # pixels: the longer side of one picture, of one of several, about
ODD = (214, 40, 40)  # the colour of numbers that are not finite


def tensor_html(tensor: Tensor) -> str:
    """Return shape, type, device, origin and a preview of a tensor as HTML.

    Of an array (N, C, H, W) with H and W of at least 12, the first image is shown: in colours if C
    is 3, else a gray picture of each channel. Of other arrays the first numbers.

    >>> "from mul" in tensor_html(Tensor(2.0, requires_grad=True) * 3.0)
    True
    """
    if tensor.node:
        origin = f"from {tensor.node.op.name}"
    else:
        origin = "requires a gradient" if tensor.requires_grad else ""
    title = heading(
        type(tensor).__name__, sizes(tensor.shape), str(tensor.dtype), tensor.device, origin
    )
    if tensor.data.size == 0:
        return block(title, faint("no numbers: an axis has length 0"))
    maps = 2 <= tensor.ndim <= 4 and min(tensor.shape[-2:]) >= LEAST_SIDE
    with on_device(tensor.data):
        return block(title, *(_pictures(tensor) if maps else _tables(tensor)), _range(tensor))


def number(value: float) -> str:
    """Return a number with at most four digits, for a table.

    >>> number(2.0), number(0.123456), number(123456), number(float("nan"))
    ('2', '0.1235', '123456', 'nan')
    """
    whole = abs(value) < 1e7 and value == int(value)  # of at most seven digits; not NaN
    return str(int(value)) if whole else f"{value:.4g}"


def _range(tensor: Tensor) -> str:
    """Return the least, the greatest and the mean number, and how many are not finite."""
    x = tensor.data
    if x.size == 1:
        return ""
    xp = xp_of(x)
    finite = xp.isfinite(x)
    count = int(finite.sum())
    odd = f"{x.size - count:,} of {x.size:,} are not finite" if count < x.size else ""
    if count == 0:
        return faint("none of the numbers is finite")
    known = x[finite] if odd else x
    low, high, mean = float(known.min()), float(known.max()), float(known.mean(dtype="float64"))
    told = f"from {number(low)} to {number(high)}, mean {number(mean)}"
    return faint("; ".join(part for part in (told, odd) if part))


def _tables(tensor: Tensor) -> Iterator[str]:
    """Yield a table of numbers for each of the first matrices that an array is made of."""
    x = tensor.data
    if x.ndim == 0:
        yield table([""], [[number(x.item())]])
        return
    lead = x.shape[:-2]
    for place in islice(np.ndindex(*lead), TABLES):
        name = faint(str(list(place))) if lead else ""
        yield Html(
            '<div style="display: inline-block; vertical-align: top; margin-right: 1.2em; '
            f'max-width: 100%">{name}{_matrix(x[place])}</div>'
        )
    hidden = math.prod(lead) - TABLES
    if hidden > 0:
        yield faint(f"and {hidden:,} more of {sizes(x.shape[-2:])}")


def _matrix(x: np.ndarray) -> Html:
    """Return a table of a vector or matrix on any device, whose middle is left out if it is long.

    A vector is a row.
    """
    rows = x if x.ndim == 2 else x[None]  # (n,) -> (1, n)
    down, across = (_places(n) for n in rows.shape)
    kept = {k for k in down if k is not None}, {k for k in across if k is not None}
    # Only what is shown is copied from a GPU.
    few = to_numpy(rows[sorted(kept[0])][:, sorted(kept[1])])
    at = [{k: i for i, k in enumerate(sorted(each))} for each in kept]
    cells = [
        ["⋯" if r is None or c is None else number(few[at[0][r], at[1][c]].item()) for c in across]
        for r in down
    ]
    return table([">"] * len(across), cells)


def _places(length: int) -> list[int | None]:
    """Return which places of an axis are shown; None stands for those that are left out.

    >>> _places(3), _places(99)
    ([0, 1, 2], [0, 1, 2, 3, 4, 5, None, 98])
    """
    if length <= NUMBERS:
        return list(range(length))
    return [*range(NUMBERS - 2), None, length - 1]


def _pictures(tensor: Tensor) -> Iterator[str]:
    """Yield pictures of the maps of the first image."""
    x = tensor.data
    image = x[0] if x.ndim == 4 else x
    of = f"image 0 of {len(x)}: " if x.ndim == 4 and len(x) > 1 else ""
    maps = image[None] if image.ndim == 2 else image  # (H, W) -> (1, H, W)
    count, (height, width) = len(maps), maps.shape[1:]
    if count == 3:
        shown, coloured = to_numpy(maps)[None], True  # (3, H, W) -> (1, 3, H, W)
    else:
        shown, coloured = to_numpy(maps[:MAPS])[:, None], False  # (C, H, W) -> (C, 1, H, W)
    finite = shown[np.isfinite(shown)].astype(np.float64)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    what = "three channels as red, green and blue" if coloured else plural(count, "channel")
    if x.ndim == 2:
        what = "one map"
    scale = f"{number(low)} is black, {number(high)} is white"
    yield faint(f"{of}{what}; {scale}")
    figures = []
    for channel, planes in enumerate(shown):
        drawn = _scaled(planes, low, high)
        side = SHOWN if len(shown) == 1 else SHOWN_MAPS
        enlarged = drawn.width * max(1, side // max(drawn.size))
        caption = f"channel {channel}" if len(shown) > 1 else ""
        told = f"{caption or what}, {height} x {width}, {scale}"
        figures.append(picture(drawn, told, caption, enlarged))
    yield Html(f"<div>{''.join(figures)}</div>")
    if not coloured and count > MAPS:
        yield faint(f"and {plural(count - MAPS, 'more channel')}")


def _scaled(planes: np.ndarray, low: float, high: float) -> Pillow.Image:
    """Return maps (1 or 3, H, W) as a picture: low is black, high white, and not finite red."""
    span = high - low or 1.0
    finite = np.isfinite(planes)
    parts = (np.where(finite, planes, low).astype(np.float64) - low) / span
    pixels = (255 * np.clip(parts, 0, 1)).round().astype(np.uint8)
    pixels = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)  # (H, W, 3)
    pixels = np.where(finite.all(axis=0)[..., None], pixels, np.array(ODD, np.uint8))
    drawn = Pillow.fromarray(np.ascontiguousarray(pixels))
    if max(drawn.size) > 2 * SHOWN:  # keep notebooks small
        drawn.thumbnail((2 * SHOWN, 2 * SHOWN), Pillow.Resampling.BOX)
    return drawn
