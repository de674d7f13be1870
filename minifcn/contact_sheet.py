"""What a check of a data set found, with samples to look at, as one HTML file that needs no other.

It has no JavaScript; pictures stand in it as data URIs, made small, so that the file stays small
however large the data set is. Names of files and classes are escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from .backend import Error
from .data import DataError, Sample
from .data.check import Report
from .data.tally import Tally, check_sample
from .files import replace_file
from .report import data_uri, figure, legend_list, page, percent, swatch
from .sample_pictures import sample_pictures

SAMPLES = 40  # drawn by chance
LEAST = 3  # of each split
SIDE = 200  # pixels of a picture, at most


def write_contact_sheet(
    path: str | Path,
    report: Report,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a page with all that a check found, and samples; return how many samples it shows.

    Shown are about 40 samples drawn by chance, and for each class the sample that has most of it.

    Parameters
    ----------
    path
        The HTML file; it appears complete or not at all.
    report
        What `minifcn.data.check` returned.
    seed
        Another seed, other samples.
    progress
        Called with the numbers of samples drawn and of all.

    Raises
    ------
    DataError
        If nothing could be read.
    WriteError
        If the file cannot be written.
    """
    chosen = choose(report, SAMPLES, np.random.default_rng(seed))
    cards = []
    for done, ((split, number), classes) in enumerate(chosen.items(), start=1):
        tally = report.splits[split]
        try:
            sample = tally.dataset[number]
            check_sample(sample, tally.heads, tally.streams)
        except (Error, OSError):
            pass  # the check has listed it already
        else:
            cards.append(_card(sample, tally, classes))
        if progress is not None:
            progress(done, len(chosen))
    if not cards:
        raise DataError(f"{path}: no sample of {report.source} could be read: nothing to show")
    first = next(iter(report.splits.values()))
    legends = [
        (f"<h3>{escape(name)}</h3>\n" if name else "") + legend_list(*head)
        for name, head in first.heads.items()
    ]
    body = BODY.substitute(
        summary=escape(summary(report)),
        problems=_problems(report),
        splits="".join(_split_rows(report)),
        channels="".join(_channel_rows(report)),
        classes="".join(_class_tables(report)),
        legends="\n".join(legends),
        cards="\n".join(cards),
    )
    replace_file(path, page(f"Data check: {report.source}", body, LOOKS).encode())
    return len(cards)


def choose(
    report: Report, count: int, rng: np.random.Generator
) -> dict[tuple[str, int], list[str]]:
    """Return which samples to show, as (split, number), and the classes each stands for, if any.

    First those that have most pixels of a class, then about ``count`` drawn by chance: some of each
    split, the more the larger it is.
    """
    chosen: dict[tuple[str, int], list[str]] = {}
    seen: set[tuple[str, int]] = set()
    for split, tally in report.splits.items():
        for (head, number), sample in sorted(tally.clearest.items()):
            if (head, number) not in seen:
                seen.add((head, number))
                name = tally.heads[head].classes[number]
                chosen.setdefault((split, sample), []).append(name)
    total = sum(tally.images for tally in report.splits.values())
    for split, tally in report.splits.items():
        share = min(tally.images, max(LEAST, round(count * tally.images / total)))
        for number in sorted(rng.choice(tally.images, share, replace=False).tolist()):
            chosen.setdefault((split, number), [])
    return chosen


def summary(report: Report) -> str:
    """Return what was found, in a line.

    >>> from minifcn.data import check
    >>> summary(check("shapes?split=val"))
    '50 samples in 1 split: no errors, no warnings'
    """
    return (
        f"{_count(report.samples, 'sample')} in {_count(len(report.splits), 'split')}: "
        f"{_count(report.errors, 'error')}, {_count(report.warnings, 'warning')}"
    )


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"


def size_text(tally: Tally) -> str:
    """Return the sizes of the images of a split, height x width, in a line."""
    sides = tally.size_range()
    if not sides:
        return ""
    low, middle, high = (f"{height} x {width}" for height, width in sides.values())
    if len(tally.sizes) == 1:
        return low
    return f"{low} to {high}, median {middle}, {len(tally.sizes)} different"


def formats_text(tally: Tally) -> str:
    """Return the formats of the files of a split, with their numbers, in a line."""
    return ", ".join(f"{name}: {count}" for name, count in sorted(tally.formats.items()))


def _problems(report: Report) -> str:
    if not report.problems:
        return "<p>Nothing is wrong.</p>"
    lines = [
        f"<li><b>{'Error' if problem.is_error else 'Warning'}</b> ({escape(problem.split)}): "
        f"{escape(problem.text)}</li>\n"
        for problem in report.problems
    ]
    if report.unlisted:
        lines.append(f"<li>... and {report.unlisted} more bad samples</li>\n")
    return f'<ul class="problems">\n{"".join(lines)}</ul>'


def _split_rows(report: Report) -> Iterator[str]:
    for name, tally in report.splits.items():
        published = report.published.get(name, "-")
        cells = (tally.images, published, tally.read, size_text(tally), formats_text(tally))
        yield _row(name, cells)


def _channel_rows(report: Report) -> Iterator[str]:
    for name, tally in report.splits.items():
        mean, std = tally.mean_and_std()
        for channel, m, s in zip(tally.channels(), mean, std, strict=True):
            yield _row(f"{name}: {channel}", (f"{m:.2f}", f"{s:.2f}"))


def _row(head: str, cells: Sequence[object]) -> str:
    """Return a row of a table: its head and its cells, escaped."""
    body = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
    return f"<tr><th>{escape(head)}</th>{body}</tr>\n"


def _class_tables(report: Report) -> Iterator[str]:
    """Yield for each kind of labels a table of each class's share and images in each split."""
    splits = report.alike
    for k, (head, (classes, palette)) in enumerate(splits[0].heads.items()):
        titles = "".join(
            f"<th>{escape(t.name)}: share</th><th>{escape(t.name)}: images</th>" for t in splits
        )
        rows = []
        for number, name in enumerate(classes):
            cells = ""
            for tally in splits:
                share = float(tally.shares(head)[number])
                bar = f'class="bar" style="--part:{np.nan_to_num(share):.1%}"'
                images = int(tally.images_with[k, number])
                cells += f"<td {bar}>{percent(share)}</td><td>{images}</td>"
            square = swatch(palette[number].tolist())
            rows.append(f"<tr><th class=name>{square}{escape(name)}</th>{cells}</tr>\n")
        ignored = "".join(f"<td>{percent(tally.ignored(head))}</td><td></td>" for tally in splits)
        rows.append(f"<tr><th>ignored, of all pixels</th>{ignored}</tr>\n")
        heading = f"<h3>{escape(head)}</h3>\n" if head else ""
        table = f"<table><tr><th></th>{titles}</tr>\n{''.join(rows)}</table>"
        yield f'{heading}<div class="wide">{table}</div>\n'


def _card(sample: Sample, tally: Tally, classes: Sequence[str]) -> str:
    """Return a sample's pictures; labels as PNG, which keeps their colours, others as JPEG."""
    figures = []
    for title, picture in sample_pictures(sample, tally.dataset).items():
        sharp = title.endswith("label")
        method = Image.Resampling.NEAREST if sharp else Image.Resampling.BOX
        scale = min(1.0, SIDE / max(picture.size))
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        address = data_uri(picture.resize(size, method), "PNG" if sharp else "JPEG")
        figures.append(figure(address, size, f"{sample.name}: {title}", title))
    why = f": {', '.join(classes)}" if classes else ""
    heading = escape(f"{sample.name} ({tally.name}){why}")
    return f'<div><h3>{heading}</h3>\n<div class="row">{"".join(figures)}</div></div>'


LOOKS = """
h1, h3, .problems { overflow-wrap: anywhere; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1rem; }
.sheet .row { grid-template-columns: repeat(3, 1fr); gap: .3rem; }
"""

BODY = Template("""<p>$summary</p>
$problems
<h2>Splits</h2>
<div class="wide"><table>
<tr><th></th><th>images</th><th>published</th><th>read</th><th>sizes (height x width)</th>
<th>files</th></tr>
$splits</table></div>
<h2>Classes</h2>
<p>Shares are of all labelled pixels.</p>
$classes
<h2>Channels</h2>
<p>Mean and standard deviation over all pixels; colours run from 0 to 255.</p>
<div class="wide"><table>
<tr><th></th><th>mean</th><th>standard deviation</th></tr>
$channels</table></div>
<h2>Samples</h2>
<p>For each class the image that has most of it, then images drawn by chance.</p>
$legends
<div class="sheet">
$cards
</div>
""")
