"""The graph of an expression as a drawing: which operations were recorded, and on what."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from ..autograd import Edge, GraphError, Node, Tensor
from ..nn import Parameter
from .layout import Layout, arrange
from .page import MIDDLE_GRAY, DisplayError, Drawing, plural, sizes, svg

MOST = 60  # boxes
LETTER, LINE_HEIGHT, BOX_HEIGHT, ROW_HEIGHT = 7.3, 16, 42, 84  # pixels
MARGIN = 14
SETTING = 26  # letters of a setting, of more
# Fill and edge of each kind of box. The boxes have colours of their own, as the page may be dark.
COLOURS = {
    "operation": ("#dbe9f6", "#3f78ab"),
    "leaf": ("#fde9c9", "#b0730f"),
    "constant": ("#e9e9e9", "#767676"),
}
INK = "#16212c"


class Box(NamedTuple):
    """What is drawn as a box.

    Attributes
    ----------
    kind
        ``"operation"``; ``"leaf"``: an input with a gradient; ``"constant"``: one without.
    title, detail
        Its two lines.
    arguments
        What stands beside the arrows that end here.
    """

    kind: str
    title: str
    detail: str
    arguments: tuple[str, ...] = ()

    @property
    def width(self) -> float:
        """In pixels."""
        lines = max(len(self.title), len(self.detail), 4) * LETTER + 18
        return max(lines, sum(_beside(name) for name in self.arguments))


def _beside(argument: str) -> float:
    """Return the pixels that an arrow with a name beside it takes."""
    return 16 + 6.2 * len(argument)


def graph(result: Tensor, **names: Tensor) -> Drawing:
    """Return a drawing of the operations that made a tensor, from its inputs down to itself.

    Blue boxes are operations: the name, settings other than the usual ones, and the shape of what
    comes out. Yellow boxes are inputs that require a gradient, gray ones those that do not. Where
    an operation has several inputs, its edges have the names of its arguments. Gradients take the
    same ways, from the bottom to the top.

    Parameters
    ----------
    result
        A tensor with a history.
    names
        What to call tensors, for example ``x=x, weight=w``. Those of gray boxes are not known: a
        graph does not keep its constants.

    Raises
    ------
    GraphError
        If nothing was recorded, or ``backward`` has freed it.
    DisplayError
        If there are more than 60 boxes.

    Examples
    --------
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> graph((w * 3.0).sum(), w=w)
    A graph of 2 operations (mul y=3.0, sum) on 1 input (w).
    """
    if result.node is None:
        raise GraphError(
            "no operation made this tensor, or none was recorded: there is a graph if an input "
            "requires a gradient, outside of no_grad()"
        )
    titles: dict[Edge, str] = {t.node or t: name for name, t in names.items()}
    boxes, edges = _collected(result.node, result.shape, titles)
    layout = arrange(len(boxes), [edge[:2] for edge in edges], [box.width for box in boxes])
    alt = _described(boxes)
    height = MARGIN * 2 + max(layout.row.values()) * ROW_HEIGHT + BOX_HEIGHT
    body = _edges(boxes, edges, layout) + "".join(
        _box(box, *_place(layout, number), number == 0) for number, box in enumerate(boxes)
    )
    return Drawing(svg(layout.width + 2 * MARGIN, height, alt, body), alt)


def _collected(
    root: Node, shape: tuple[int, ...], titles: dict[Edge, str]
) -> tuple[list[Box], list[tuple[int, int, str]]]:
    """Return the boxes, the result first and inputs behind what reads them, and the edges.

    An edge is (from, to, argument).
    """
    shapes: dict[Edge, tuple[int, ...]] = {root: shape}
    found, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        if node.used:
            raise GraphError(
                f"backward() already went through {node.op.name} and freed the graph: draw it "
                "before, or call backward(retain_graph=True)"
            )
        for argument, edge in node.edges.items():
            shapes[edge] = node.shape[argument]
            if isinstance(edge, Node) and edge not in found:
                found.add(edge)
                waiting.append(edge)
        if len(found) > MOST:
            raise _too_many(len(found), "already ")
    # A node is older than all that read it.
    nodes = sorted(found, key=lambda node: -node.number)
    leaves = [e for node in nodes for e in node.edges.values() if isinstance(e, Tensor)]
    every: dict[Edge, None] = dict.fromkeys([*nodes, *leaves])  # each once
    numbers = {edge: number for number, edge in enumerate(every)}
    boxes = [_described_box(edge, shapes[edge], titles) for edge in numbers]
    edges = []
    for node in nodes:
        for argument, size in node.shape.items():
            start = numbers.get(node.edges.get(argument), -1)  # type: ignore[arg-type]
            if start < 0:
                start = len(boxes)
                boxes.append(Box("constant", "constant", sizes(size)))
            edges.append((start, numbers[node], argument if len(node.shape) > 1 else ""))
    if len(boxes) > MOST:
        raise _too_many(len(boxes))
    return boxes, edges


def _too_many(count: int, already: str = "") -> DisplayError:
    return DisplayError(
        f"the graph has {already}{count} boxes, and {MOST} can be drawn: draw a part of the "
        "expression, or one layer instead of a whole net"
    )


def _described_box(edge: Edge, shape: tuple[int, ...], titles: dict[Edge, str]) -> Box:
    """Return the box of a node or a leaf."""
    size = sizes(shape)
    if isinstance(edge, Tensor):
        kind = "Parameter" if isinstance(edge, Parameter) else "Tensor"
        return Box("leaf", titles.get(edge, kind), size)
    usual, settings = edge.op.defaults, []
    for name, value in edge.facts.items():
        if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
            value = value[0]  # (1, 1), the same for both axes
        if isinstance(value, int | float | str | tuple) and usual.get(name, Box) != value:
            settings.append(f"{name}={value!r}"[:SETTING])
    title = " ".join([edge.op.name, *settings])
    arguments = tuple(edge.shape) if len(edge.shape) > 1 else ()
    title = f"{titles[edge]} = {title}" if edge in titles else title
    return Box("operation", title, size, arguments)


def _described(boxes: list[Box]) -> str:
    """Return what is drawn, in a sentence."""
    done = [box.title for box in reversed(boxes) if box.kind == "operation"]
    given = sorted(box.title for box in boxes if box.kind != "operation")
    return (
        f"A graph of {plural(len(done), 'operation')} ({', '.join(done)}) on "
        f"{plural(len(given), 'input')} ({', '.join(given)})."
    )


def _place(layout: Layout, number: int) -> tuple[float, float]:
    """Return the middle of a box's upper edge."""
    return MARGIN + layout.x[number], MARGIN + layout.row[number] * ROW_HEIGHT


def _box(box: Box, x: float, y: float, is_result: bool) -> str:
    """Return a box with its two lines."""
    fill, edge = COLOURS[box.kind]
    lines = ((box.title, "600", 17), (box.detail, "400", 17 + LINE_HEIGHT))
    content = "".join(
        f'<text x="{x:.1f}" y="{y + down:.1f}" text-anchor="middle" fill="{INK}" '
        f'font-weight="{weight}">{escape(line)}</text>'
        for line, weight, down in lines
    )
    dashes = ' stroke-dasharray="4 3"' if box.kind == "constant" else ""
    return (
        f'<g font-family="ui-monospace, Consolas, monospace" font-size="12">'
        f'<rect x="{x - box.width / 2:.1f}" y="{y:.1f}" width="{box.width:.1f}" '
        f'height="{BOX_HEIGHT}" rx="6" fill="{fill}" stroke="{edge}" '
        f'stroke-width="{3 if is_result else 1.3}"{dashes}/>{content}</g>\n'
    )


def _edges(boxes: list[Box], edges: list[tuple[int, int, str]], layout: Layout) -> str:
    """Return the lines, each ending in an arrow, and the names of arguments beside them."""
    found = []
    for number, (start, to, argument) in enumerate(edges):
        x, y = _place(layout, to)
        # Edges end side by side, in the order in which they come.
        others = [e for e in range(len(edges)) if edges[e][1] == to]
        others.sort(key=lambda e: (layout.paths[e][-2][0], e))
        room = [_beside(edges[e][2]) for e in others]
        end = x - sum(room) / 2 + sum(room[: others.index(number)]) + 8
        points = [(MARGIN + px, MARGIN + row * ROW_HEIGHT) for px, row in layout.paths[number]]
        # Two edges between the same boxes (x * x) begin side by side, too.
        twins = [e for e in others if edges[e][0] == start]
        first = points[0][0] + 2 * 9 * (twins.index(number) - (len(twins) - 1) / 2)
        way = f"M{first:.1f},{points[0][1] + BOX_HEIGHT:.1f}"
        here: tuple[float, float] = (first, points[0][1] + BOX_HEIGHT)
        for px, py in [*points[1:-1], (end, y - 6)]:
            middle = (here[1] + py) / 2
            way += f" C{here[0]:.1f},{middle:.1f} {px:.1f},{middle:.1f} {px:.1f},{py:.1f}"
            here = (px, py)
            if py < y - 6:  # straight past the boxes of a row
                here = (px, py + BOX_HEIGHT)
                way += f" L{px:.1f},{py + BOX_HEIGHT:.1f}"
        found.append(
            f'<path d="{way}" fill="none" stroke="{MIDDLE_GRAY}" stroke-width="1.4"/>'
            f'<path d="M{end - 4:.1f},{y - 8:.1f} h8 l-4,8 z" fill="{MIDDLE_GRAY}"/>'
        )
        if argument:
            found.append(
                f'<text x="{end + 6:.1f}" y="{y - 9:.1f}" font-family="sans-serif" '
                f'font-size="11" fill="{MIDDLE_GRAY}">{escape(argument)}</text>\n'
            )
    return "".join(found)
