"""What a notebook shows of a confusion matrix: the four metrics, and a table of the classes."""

from __future__ import annotations

from ..metrics import METRICS, ConfusionMatrix
from ..report import class_facts, percent
from .page import block, faint, folded, heading, plural, table


def confusion_html(confusion: ConfusionMatrix) -> str:
    """Return the metrics of a confusion matrix and a row for each class as HTML.

    >>> html = confusion_html(ConfusionMatrix(3))
    >>> html.count("<tr>")  # four metrics; a head and three classes
    8
    """
    pixels = int(confusion.matrix.sum())
    counted = plural(confusion.num_classes, "class")
    title = heading("ConfusionMatrix", counted, f"{plural(pixels, 'pixel')} counted")
    summary = confusion.summary()
    metrics = [(name, percent(summary[key])) for key, name in METRICS.items()]
    names = [str(k) for k in range(confusion.num_classes)]
    columns = ("class", ">IU", ">accuracy", ">pixels", ">true share", ">predicted share")
    rows = class_facts(confusion, names)
    return block(
        title,
        table(["", ">"], metrics),
        folded("each class", table(columns, rows), len(rows)),
        faint("IU: intersection over union. A dash: the class does not occur."),
    )
