"""The parts that all displays are made of: tables, pictures, drawings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from PIL import Image as Pillow

from ..backend import Error
from ..report import data_uri

LINE = "1px solid rgba(128, 128, 128, 0.4)"  # can be seen on white and on black
FAINT = "opacity: 0.75"
MIDDLE_GRAY = "#767676"  # text of this colour has a contrast of 4.5 to white, and to black
MANY = 40  # rows of a table that is folded at first


class DisplayError(Error, ValueError):
    """Something that cannot be shown."""


class Html(str):
    """Text that is HTML already; all other text is escaped."""

    __slots__ = ()


class Drawing:
    """An SVG with a description for those who cannot see it; a notebook shows both.

    Attributes
    ----------
    svg
        The drawing, which needs nothing else.
    alt
        The description.
    name
        What a notebook without pictures shows: the description, unless it would tell too much.
    """

    def __init__(self, svg: str, alt: str, name: str = "") -> None:
        self.svg, self.alt, self.name = svg, alt, name or alt

    def __repr__(self) -> str:
        return self.name

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """Return what a notebook shows: the drawing, and its name as plain text."""
        found = {"image/svg+xml": self.svg, "text/plain": self.name}
        return found, {"image/svg+xml": {"alt": self.alt}}


def svg(width: float, height: float, alt: str, body: str) -> str:
    """Return an SVG of some size in pixels; narrower pages shrink it.

    >>> "<title>a &lt; b</title>" in svg(9, 9, "a < b", "")
    True
    """
    told = escape(alt)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width: 100%; height: auto" '
        f'role="img" aria-label="{told}"><title>{told}</title>\n{body}</svg>'
    )


def text(content: str) -> str:
    """Return text as HTML: escaped, unless it is HTML already.

    >>> text("a < b"), text(Html("<br>"))
    ('a &lt; b', '<br>')
    """
    return content if isinstance(content, Html) else escape(content)


def block(*parts: str) -> str:
    """Return parts below each other, each HTML already or a line of text."""
    lines = "".join(p if isinstance(p, Html) else f"<div>{escape(p)}</div>" for p in parts if p)
    return f'<div style="max-width: 100%; line-height: 1.5">{lines}</div>'


def heading(title: str, *facts: str) -> Html:
    """Return a title in bold, and facts behind it."""
    rest = " · ".join(text(fact) for fact in facts if fact)
    return Html(f"<div><strong>{text(title)}</strong>{' ' * bool(rest)}{rest}</div>")


def faint(line: str) -> Html:
    """Return a line of text that steps back."""
    return Html(f'<div style="{FAINT}">{text(line)}</div>')


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], total: Sequence[str] = ()) -> Html:
    """Return a table; columns whose title starts with ``>`` are aligned to the right.

    Wider ones than the page can be scrolled. Where all titles are empty there is no head.
    """
    sides = ["right" if title.startswith(">") else "left" for title in titles]

    def line(cells: Sequence[str], tag: str = "td", style: str = "") -> str:
        filled = "".join(
            f'<{tag} style="text-align: {side}; padding: 0.15em 0.9em 0.15em 0; '
            f'white-space: nowrap; {style}">'
            f"{text(cell)}</{tag}>"
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{filled}</tr>"

    below, above = f"border-bottom: {LINE}", f"border-top: {LINE}; font-weight: bold"
    head = (
        line([title.removeprefix(">") for title in titles], "th", below)
        if any(title.strip(">") for title in titles)
        else ""
    )
    body = "\n".join(line(row) for row in rows)
    foot = line(total, style=above) if total else ""
    return Html(
        '<div style="overflow-x: auto; max-width: 100%"><table style="border-collapse: collapse; '
        'margin: 0.3em 0; font-variant-numeric: tabular-nums">'
        f"{f'<thead>{head}</thead>' * bool(head)}<tbody>\n{body}\n{foot}</tbody></table></div>"
    )


def folded(summary: str, inside: Html, rows: int) -> Html:
    """Return something that can be folded, and is if it has many rows."""
    opened = "" if rows > MANY else " open"
    return Html(f"<details{opened}><summary>{text(summary)}</summary>{inside}</details>")


def picture(image: Pillow.Image, alt: str, caption: str = "", width: int | None = None) -> Html:
    """Return a picture, ``width`` pixels wide if the page is, with a line below it."""
    width = width or image.width
    below = f'<figcaption style="{FAINT}; font-size: 0.85em">{escape(caption)}</figcaption>'
    return Html(
        f'<figure style="display: inline-block; margin: 0 0.8em 0.4em 0; max-width: 100%">'
        f'<img src="{data_uri(image)}" alt="{escape(alt)}" width="{width}" style="max-width: 100%; '
        f'height: auto; image-rendering: pixelated; border: {LINE}">{below * bool(caption)}'
        "</figure>"
    )


def swatch(colour: Sequence[int]) -> Html:
    """Return a little square of a colour (red, green, blue), for a legend."""
    red, green, blue = colour
    return Html(
        f'<span style="display: inline-block; width: 0.85em; height: 0.85em; border: {LINE}; '
        f'vertical-align: -0.1em; background-color: rgb({red}, {green}, {blue})"></span>'
    )


def sizes(shape: Iterable[int]) -> str:
    """Return a shape as Python writes it, with plain numbers.

    >>> sizes([2, 3]), sizes(())
    ('(2, 3)', '()')
    """
    return str(tuple(int(size) for size in shape))


def plural(count: int, one: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "layer"), plural(1200, "layer")
    ('1 layer', '1,200 layers')
    """
    more = "es" if one.endswith("s") else "s"
    return f"{count:,} {one}{more * (count != 1)}"
