"""What a notebook shows of a module: a table of its layers."""

from __future__ import annotations

from ..layer_table import default_size, layer_table
from ..models import FCN, Classifier, LateFusion
from ..nn import Module
from ..shapes import ShapeError
from .page import block, faint, folded, heading, plural, sizes, table


def module_html(module: Module) -> str:
    """Return a table of a module's layers and their parameters as HTML.

    Where the size of the images is known, as for a net of `minifcn.models`, the table has the size
    of each layer's output, and how much of the image it sees.

    >>> from minifcn import nn
    >>> html = module_html(nn.Sequential(conv=nn.Conv2d(3, 8, 3), relu=nn.ReLU()))
    >>> "(8, 3, 3, 3)" in html, "224" in html
    (True, True)
    """
    parameters = list(module.parameters())
    learned = sum(p.data.size for p in parameters if p.requires_grad)
    total = module.num_parameters()
    devices = {p.device for p in parameters}
    title = heading(
        type(module).__name__,
        plural(total, "parameter"),
        f"{learned:,} of them learned" if learned < total else "",
        ", ".join(str(dtype) for dtype in sorted({str(p.dtype) for p in parameters})),
        ", ".join(sorted(devices)),
        "in training mode" if module.training else "in evaluation mode",
    )
    return block(title, *(_with_sizes(module) or _without_sizes(module)))


def _with_sizes(module: Module) -> tuple[str, ...]:
    """Return the table in the order of computation; nothing if no size of images is known."""
    if not isinstance(module, FCN | LateFusion | Classifier):
        return ()
    height, width = default_size(module)
    try:
        rows = layer_table(module, height, width)
    except ShapeError:  # a net for larger images than are usual: the layers can still be listed
        return ()
    layers = dict(module.named_modules())
    lines = [
        (
            row.name,
            _kind(layers[row.name]) if row.name in layers else row.kind,
            sizes(row.shape),
            " x ".join(map(str, row.field[: 1 + (row.field[0] != row.field[1])])),
            f"{row.parameters:,}" if row.parameters else "",
            _shapes(layers[row.name]) if row.name in layers else "",
        )
        for row in rows
    ]
    titles = ("layer", "kind", ">output", ">sees", ">parameters", "holds")
    total = ("all", "", "", "", f"{module.num_parameters():,}", "")
    told = (
        f"Output: (channels, height, width) for an image of {height} x {width} pixels; sees: the "
        "pixels of the image across that an output pixel sees. ReLU and dropout are left out."
    )
    summary = f"{plural(len(rows), 'step')} from image to scores"
    return folded(summary, table(titles, lines, total), len(rows)), faint(told)


def _without_sizes(module: Module) -> tuple[str, ...]:
    """Return the table of all modules that hold parameters or no other module."""
    lines = []
    for name, layer in module.named_modules():
        own = [value for value in vars(layer).values() if hasattr(value, "requires_grad")]
        if own or not any(layer.named_children()):
            count = sum(parameter.data.size for parameter in own)
            number = f"{count:,}" if count else ""
            lines.append((name or "(itself)", _kind(layer), number, _shapes(layer)))
    titles = ("layer", "kind", ">parameters", "holds")
    total = ("all", "", f"{module.num_parameters():,}", "") if len(lines) > 1 else ()
    return (folded(plural(len(lines), "layer"), table(titles, lines, total), len(lines)),)


def _kind(layer: Module) -> str:
    """Return a layer's class and settings, on one line."""
    settings = layer.extra_repr()
    return f"{type(layer).__name__}({settings})" if settings else type(layer).__name__


def _shapes(layer: Module) -> str:
    """Return the shapes of a layer's own parameters."""
    own = {n: value for n, value in vars(layer).items() if hasattr(value, "requires_grad")}
    return ", ".join(f"{name} {sizes(value.shape)}" for name, value in own.items())
