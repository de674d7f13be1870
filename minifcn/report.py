"""A report of a run as one HTML file, which needs nothing else: no network, no JavaScript.

Pictures stand in it as data URIs, curves as SVG. Everything that comes from outside (class names,
file names, command lines) is escaped.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
from PIL import Image

from .chart import STYLE as CHARTS
from .chart import Line, chart, smoothed
from .curve import curve_of
from .files import replace_file
from .json_file import parse_json, read_text
from .metrics import METRICS, ConfusionMatrix
from .viz import legend_entries


class Row(NamedTuple):
    """A net or baseline, and what was measured of it on the held-out images."""

    title: str
    matrix: ConfusionMatrix
    seconds: float | None = None  # that its training took


class Example(NamedTuple):
    """An image, its true labels and what nets make of it: pictures of one size, by title."""

    name: str
    caption: str
    pictures: dict[str, Image.Image]


class Report(NamedTuple):
    """All that is told of a run.

    Attributes
    ----------
    title, summary
        What was done, and what came out: a line, and a paragraph.
    rows
        Baselines and nets, in order.
    classes, palette
        Name and colour, uint8 (K, 3), of each class.
    losses
        Title of each stage, and its loss per pixel at each step.
    examples
        Pictures; may be none.
    facts
        Further lines, by name: command, seed, versions, machine.
    """

    title: str
    summary: str
    rows: Sequence[Row]
    classes: Sequence[str]
    palette: np.ndarray
    losses: Mapping[str, Sequence[float]]
    examples: Sequence[Example]
    facts: Mapping[str, str]


def write_report(path: str | Path, report: Report) -> None:
    """Write a report as one HTML file, complete or not at all.

    Raises
    ------
    WriteError
        If the file cannot be written.
    """
    body = BODY.substitute(
        summary=escape(report.summary),
        examples=_examples(report),
        metrics=_metric_table(report.rows),
        classes=_class_table(report),
        losses=_loss_curves(report.losses),
        facts="".join(
            f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>\n" for n, v in report.facts.items()
        ),
    )
    replace_file(path, page(report.title, body, CHARTS).encode())


def page(title: str, body: str, style: str = "", head: str = "") -> str:
    """Return a whole page: a heading, and HTML below it, in this package's looks and further ones.

    ``head`` is HTML for the page's head, such as a line that has it loaded again and again.

    >>> page("a < b", "<p>Text.</p>").count("a &lt; b")
    2
    """
    whole = PAGE.substitute(title=escape(title), body=body, style=STYLE + style, head=head)
    return whole.encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8


def percent(value: float) -> str:
    """Return a share in per cent, or a dash if there is none.

    >>> percent(0.5), percent(float("nan"))
    ('50.0 %', '-')
    """
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def class_facts(matrix: ConfusionMatrix, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Return for each class its name, IU, accuracy, true pixels, true and predicted share.

    >>> class_facts(ConfusionMatrix(1), ["sea"])
    [('sea', '-', '-', '0', '0.0 %', '0.0 %')]
    """
    counts = matrix.matrix
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    total = max(1, counts.sum())
    columns = matrix.iu(), matrix.accuracy(), true, true / total, predicted / total
    return [
        (name, percent(iu), percent(accuracy), f"{pixels:,}", percent(part), percent(given))
        for name, iu, accuracy, pixels, part, given in zip(classes, *columns, strict=True)
    ]


def best(rows: Sequence[Row]) -> dict[str, float]:
    """Return the highest value of each metric."""
    summaries = [row.matrix.summary() for row in rows]
    return {key: max(summary[key] for summary in summaries) for key in METRICS}


def read_losses(log: str | Path) -> list[float]:
    """Return the loss at each step that was not skipped, from a stage's ``log.jsonl``."""
    lines = [parse_json(line, log) for line in read_text(log).splitlines()]
    return [line["loss"] for line in lines if line.get("loss") is not None]


def swatch(colour: Sequence[int]) -> str:
    """Return a little square of a colour (red, green, blue), for a legend."""
    red, green, blue = colour
    return f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>'


def _examples(report: Report) -> str:
    """Return the legend, and a row of pictures for each example."""
    if not report.examples:
        return ""
    rows = [
        picture_row(f"{example.caption} ({example.name})", example.name, example.pictures)
        for example in report.examples
    ]
    legend = legend_list(report.classes, report.palette)
    return f"<h2>Pictures</h2>\n{legend}\n{''.join(rows)}"


def picture_row(heading: str, name: str, pictures: Mapping[str, Image.Image]) -> str:
    """Return pictures of an image side by side, with their titles, below a heading."""
    figures = "".join(
        figure(data_uri(picture), picture.size, f"{name}: {title}", title)
        for title, picture in pictures.items()
    )
    return f'<h3>{escape(heading)}</h3>\n<div class="row">{figures}</div>\n'


def legend_list(classes: Sequence[str], palette: np.ndarray) -> str:
    """Return a list of all classes and of what is ignored, each with its colour."""
    entries = legend_entries(classes, palette, ignored=True)
    lines = "".join(f"<li>{swatch(entry.colour)}{escape(entry.name)}</li>" for entry in entries)
    return f'<ul class="legend">{lines}</ul>'


def figure(address: str, size: tuple[int, int], told: str, caption: str) -> str:
    """Return a picture, given by its address and (width, height), with a line below it.

    ``told`` is what those hear who do not see it.
    """
    return (
        f'<figure><img src="{address}" alt="{escape(told)}" width="{size[0]}" height="{size[1]}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def data_uri(picture: Image.Image, kind: str = "PNG") -> str:
    """Return a picture as a PNG, or another kind of file, inside an address.

    >>> data_uri(Image.new("1", (1, 1)))[:22]
    'data:image/png;base64,'
    """
    return file_uri(image_file(picture, kind), kind)


def image_file(picture: Image.Image, kind: str = "PNG") -> bytes:
    """Return what a file of a picture holds.

    >>> image_file(Image.new("1", (1, 1)))[1:4]
    b'PNG'
    """
    content = io.BytesIO()
    picture.save(content, format=kind)
    return content.getvalue()


def file_uri(content: bytes, kind: str = "PNG") -> str:
    """Return what an image file holds inside an address.

    >>> file_uri(b"GIF89a", "GIF")
    'data:image/gif;base64,R0lGODlh'
    """
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"


def _metric_table(rows: Sequence[Row]) -> str:
    top = best(rows)
    head = "".join(f"<th>{title}</th>" for title in (*METRICS.values(), "seconds"))
    lines = []
    for row in rows:
        cells = "".join(
            f"<td{' class=best' if value == top[key] else ''}>{percent(value)}</td>"
            for key, value in row.matrix.summary().items()
        )
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        lines.append(f"<tr><th>{escape(row.title)}</th>{cells}<td>{seconds}</td></tr>\n")
    return f"<table><tr><th></th>{head}</tr>\n{''.join(lines)}</table>"


def _class_table(report: Report) -> str:
    """Return a table of each class's IU, every number with a bar behind it."""
    counts = report.rows[0].matrix.matrix.sum(axis=1)
    shares = counts / max(1, counts.sum())
    head = "".join(f"<th>{escape(row.title)}</th>" for row in report.rows)
    columns = [row.matrix.iu() for row in report.rows]
    lines = []
    for k, name in enumerate(report.classes):
        cells = "".join(
            f'<td class="bar" style="--part:{np.nan_to_num(iu[k]):.1%}">{percent(iu[k])}</td>'
            for iu in columns
        )
        square = swatch(report.palette[k].tolist())
        head_cell = f"<th class=name>{square}{escape(name)}</th>"
        lines.append(f"<tr>{head_cell}<td>{percent(shares[k])}</td>{cells}</tr>\n")
    return f"<table><tr><th></th><th>share</th>{head}</tr>\n{''.join(lines)}</table>"


def _loss_curves(losses: Mapping[str, Sequence[float]]) -> str:
    """Return a curve for each stage, all with one scale."""
    lines = {title: smoothed(curve_of(values)) for title, values in losses.items()}
    top = max((float(line.y.max()) for line in lines.values()), default=1.0)
    return "".join(
        _curve(title, line, 1.1 * top, len(losses[title])) for title, line in lines.items()
    )


def _curve(title: str, line: Line, top: float, last: int) -> str:
    told = f"{title}: loss per pixel from {line.y[0]:.2f} to {line.y[-1]:.2f}"
    drawing = chart(told, [line], top=top, last=last)
    return f"<figure>{drawing}<figcaption>{escape(told)}</figcaption></figure>\n"


STYLE = """:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126; --faint: #616a73;
  --edge: #d9dee3; --accent: #1d6fb8; --bar: #cfe3f5; }
@media (prefers-color-scheme: dark) { :root { --paper: #15191d; --ink: #e4e8eb; --faint: #9aa4ad;
  --edge: #343c44; --accent: #6db3f2; --bar: #1f4468; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; color: var(--faint); font-weight: 500; }
p { max-width: 42rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--edge); font-weight: 400; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); }
tr:first-child th { color: var(--faint); font-size: .875rem; white-space: normal;
  vertical-align: bottom; }
.best { font-weight: 700; }
.bar { min-width: 6.5rem;
  background: linear-gradient(to right, var(--bar) var(--part), transparent var(--part)); }
.swatch { display: inline-block; width: .85em; height: .85em; margin-right: .45em;
  border: 1px solid var(--faint); border-radius: 2px; vertical-align: -.08em; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(5.2rem, 1fr)); gap: .6rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; }
figure { margin: 0; }
figcaption { color: var(--faint); font-size: .875rem; }
img { width: 100%; height: auto; display: block; image-rendering: pixelated;
  outline: 1px solid var(--edge); }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--faint); font-size: 11px; }
svg line { stroke: var(--edge); }
polyline { fill: none; stroke-linejoin: round; }
dl { display: grid; grid-template-columns: minmax(5rem, max-content) 1fr; gap: .25rem 1rem; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-line; }
@media (max-width: 40rem) { th, td { padding: .35rem; font-size: .875rem; }
  tr:first-child th { font-size: .75rem; } th:first-child { white-space: normal; }
  th.name { white-space: nowrap; }
  .bar { min-width: 3.8rem; } }
"""
"""How pages look, in light and in dark."""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$head<title>$title</title>
<style>
$style</style>
</head>
<body>
<h1>$title</h1>
$body</body>
</html>
""")

BODY = Template("""<p>$summary</p>
$examples
<h2>Results on held-out images</h2>
<div class="wide">$metrics</div>
<p>Pixel accuracy is the share of pixels that were given their true class; mean accuracy is the same
share taken class by class, then averaged. The intersection over union (IU) of a class is the number
of pixels rightly given to it, divided by the number of those that belong to it or were given to it;
mean IU averages over the classes, f.w. IU weights each with its share of the pixels.</p>
<h2>IU of each class</h2>
<div class="wide">$classes</div>
<h2>Loss while training</h2>
<div class="curves">$losses</div>
<h2>How this was made</h2>
<dl>
$facts</dl>
""")
