"""The tables as Markdown, from the file of results, and where they go in docs/results.md.

A table stands between two comments, ``<!-- table a -->`` and ``<!-- end of table a -->``; what is
between them is replaced, and all else is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minifcn.files import replace_file
from minifcn.metrics import METRICS

from .plan import NETS, SEARCH, SEARCH_SEED, SEEDS, Plan, PlanError, Segmenting
from .results import Results, Spread

MISSING = "not run"
COLUMNS = METRICS | {"band_iu": "mean IU near boundaries", "rest_iu": "elsewhere"}
SPREAD = ("mean_iu", "band_iu", "rest_iu")  # the others would only make the tables wide
VARIANTS = {
    "b/32s-fixed": "FCN-32s-fixed",
    "b/32s": "FCN-32s",
    "b/16s": "FCN-16s",
    "b/8s": "FCN-8s",
    "b/8s-at-once": "FCN-8s at once, scaled",
    "b/8s-unscaled": "FCN-8s at once, not scaled",
}
# What the paper reports, in per cent mean IU: tables 1 and 2 of the conference version (PASCAL VOC
# 2011, parts of its validation set) and its appendix A.
PAPER_TABLE_1 = {"alexnet": 39.8, "vgg16": 56.0, "googlenet": 42.5}
PAPER_TABLE_2 = {"b/32s-fixed": 45.4, "b/32s": 59.4, "b/16s": 62.4, "b/8s": 62.7}
PAPER_BOUNDS = {128: 50.9, 64: 73.3, 32: 86.1, 16: 92.8, 8: 96.4, 4: 98.5}

Rows = list[list[str]]


def write(path: Path, plan: Plan, results: Results) -> None:
    """Put all tables into a document."""
    text = path.read_text("utf-8")
    for name, make in TABLES.items():
        table = f"{markdown(make(plan, results))}\n\n{origin(name, results)}"
        text = replaced(text, name, table)
    replace_file(path, text.encode())


def replaced(text: str, name: str, table: str) -> str:
    """Return a text with what stands between the comments of a table replaced.

    >>> replaced("<!-- table x -->\\nold\\n<!-- end of table x -->", "x", "new").splitlines()
    ['<!-- table x -->', 'new', '<!-- end of table x -->']
    """
    first, last = f"<!-- table {name} -->", f"<!-- end of table {name} -->"
    if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
        raise PlanError(f"the document must have once {first}, and after it {last}")
    before, rest = text.split(first)
    return f"{before}{first}\n{table}\n{last}{rest.split(last)[1]}"


def markdown(rows: Rows) -> str:
    """Return rows, the first of them titles, as a Markdown table.

    >>> print(markdown([["net", "IU"], ["FCN-8s", "59.3"]]))
    | net | IU |
    |---|---|
    | FCN-8s | 59.3 |
    """
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def spread(results: Results, name: str, number: str) -> str:
    """Return a share's mean and spread over the seeds, in per cent."""
    found = [entry["result"] for entry in results.of(name, SEEDS)]
    if not found:
        return MISSING
    values = [result[number] for result in found if number in result]
    notes = [f"{len(found) - len(values)} diverged"] if len(values) < len(found) else []
    notes += [f"{len(found)} seeds of {len(SEEDS)}"] if len(found) < len(SEEDS) else []
    text = Spread.of(values).percent() if values else ""
    return ", ".join([text] * bool(values) + notes)


def metrics(results: Results, name: str) -> list[str]:
    """Return the cells of `COLUMNS`: some with their spread, the others as the mean alone."""
    return [
        spread(results, name, key) if key in SPREAD else spread(results, name, key).split(" (")[0]
        for key in COLUMNS
    ]


def differences(results: Results, first: str, second: str) -> list[str]:
    """Return what a cell has more than another, for the columns of `COLUMNS`."""
    return [difference(results, first, second, key) if key in SPREAD else "" for key in COLUMNS]


def difference(results: Results, first: str, second: str, number: str) -> str:
    """Return by how much a cell is above another with the same seed: mean and spread."""
    pairs = []
    for seed in SEEDS:
        both = [entry["result"] for n in (first, second) for entry in results.of(n, [seed])]
        if len(both) == 2 and all(number in result for result in both):
            pairs.append(both[0][number] - both[1][number])
    return Spread.of(pairs).percent(sign=True) if pairs else MISSING


def mean(results: Results, name: str, number: str, form: str = ".0f") -> str:
    """Return the mean over the seeds of a number that is no share."""
    values = [entry["result"].get(number) for entry in results.of(name, SEEDS)]
    known = [value for value in values if value is not None]
    return format(sum(known) / len(known), form) if known else MISSING


def steps(cell: Segmenting) -> str:
    """Return the steps of each stage.

    >>> steps(Segmenting("vgg16", None, {"fcn32s": 225, "fcn16s": 225}, ""))
    '225 + 225'
    """
    return " + ".join(map(str, cell.stages.values()))


def table_a(plan: Plan, results: Results) -> Rows:
    """Return table a, which has a column for each trunk, as the paper's table 1."""
    tune, longer = plan.scale.tune, plan.scale.tune + plan.scale.classify
    lines: list[tuple[str, Callable[[str], str]]] = [
        ("parameters", lambda net: mean(results, f"{net}/pretrained", "parameters", ",.0f")),
        ("receptive field", lambda net: mean(results, f"{net}/pretrained", "receptive_field")),
        ("classifier: tiles right", lambda net: spread(results, f"{net}/classifier", "accuracy")),
        *(
            (
                f"mean IU, {title}",
                lambda net, cell=cell: spread(results, f"{net}/{cell}", "mean_iu"),
            )
            for cell, title in (
                ("pretrained", f"from the classifier, {tune} steps"),
                ("scratch", f"from random weights, {tune} steps"),
                ("longer", f"from random weights, {longer} steps"),
            )
        ),
        (
            f"classifier less random, {tune} steps each",
            lambda net: difference(results, f"{net}/pretrained", f"{net}/scratch", "mean_iu"),
        ),
        (
            f"classifier and {tune} steps less random, {longer} steps",
            lambda net: difference(results, f"{net}/pretrained", f"{net}/longer", "mean_iu"),
        ),
        ("the paper: mean IU on VOC 2011", lambda net: str(PAPER_TABLE_1[net.removeprefix("a/")])),
    ]
    rows = [[title, *(cell(f"a/{net}") for net in NETS)] for title, cell in lines]
    return [["", *NETS.values()], *rows]


def table_b(plan: Plan, results: Results) -> Rows:
    """Return table b, with the differences from line to line below it."""
    rows = [["net", "steps", *COLUMNS.values(), "seconds", "the paper's mean IU"]]
    for name, title in VARIANTS.items():
        cell = plan.cells[name]
        assert isinstance(cell, Segmenting)
        numbers = metrics(results, name)
        seconds = mean(results, name, "training_seconds")
        rows.append([title, steps(cell), *numbers, seconds, str(PAPER_TABLE_2.get(name, ""))])
    pairs = [("b/32s", "b/32s-fixed"), ("b/16s", "b/32s"), ("b/8s", "b/16s")]
    for first, second in [*pairs, ("b/8s-at-once", "b/8s"), ("b/8s-unscaled", "b/8s")]:
        numbers = differences(results, first, second)
        paper = ""
        if first in PAPER_TABLE_2 and second in PAPER_TABLE_2:
            paper = f"{PAPER_TABLE_2[first] - PAPER_TABLE_2[second]:+.1f}"
        rows.append([f"{VARIANTS[first]} less {VARIANTS[second]}", "", *numbers, "", paper])
    return rows


def table_c(plan: Plan, results: Results) -> Rows:
    """Return table c: both ways for each factor."""
    ways = {"commonest": "commonest class of each cell", "bilinear": "class shares, bilinear"}
    heads = [*(f"mean IU, {title}" for title in ways.values()), "near boundaries", "elsewhere"]
    rows = [["factor", *heads, "the paper, on VOC 2011"]]
    for factor in plan.scale.factors:
        found = results.of(f"c/{factor}", SEEDS[:1])
        numbers = [MISSING] * 4
        if found:
            both = found[0]["result"]
            values = [both[way]["mean_iu"] for way in ways]
            values += [both["bilinear"][key] for key in ("band_iu", "rest_iu")]
            numbers = [f"{100 * value:.1f}" for value in values]
        rows.append([str(factor), *numbers, str(PAPER_BOUNDS.get(factor, ""))])
    return rows


def table_d(plan: Plan, results: Results) -> Rows:
    """Return table d: three ways to learn."""
    titles = {
        "d/light": "light: 20 images, mean loss, momentum 0.9",
        "d/online": "online: 1 image, summed loss, momentum 0.9",
        "d/heavy": "heavy: 1 image, summed loss, momentum 0.99",
    }
    rows = [["learning", "rate", "steps", *COLUMNS.values(), "seconds"]]
    for name, title in titles.items():
        cell = plan.cells[name]
        assert isinstance(cell, Segmenting)
        rate, seconds = mean(results, name, "rate", "g"), mean(results, name, "training_seconds")
        numbers = metrics(results, name)
        rows.append([title, rate, steps(cell), *numbers, seconds])
    for first, second in (("d/online", "d/light"), ("d/heavy", "d/online")):
        numbers = differences(results, first, second)
        names = (title.partition(":")[0] for title in (titles[first], titles[second]))
        rows.append([" less ".join(names), "", "", *numbers, ""])
    return rows


def table_e(plan: Plan, results: Results) -> Rows:
    """Return table e: the fixed upsampling is that of table b."""
    rows = [["FCN-8s", *COLUMNS.values(), "change of the kernels", "seconds"]]
    for name, title in (("b/8s", "upsampling fixed"), ("e/learned", "x2 layers learned")):
        numbers = metrics(results, name)
        seconds = mean(results, name, "training_seconds")
        rows.append([title, *numbers, spread(results, name, "moved"), seconds])
    numbers = differences(results, "e/learned", "b/8s")
    return [*rows, ["learned less fixed", *numbers, "", ""]]


def table_rates(plan: Plan, results: Results) -> Rows:
    """Return what the searches found: the mean IU at each rate."""
    rows = [["for", "rate: mean IU on a fifth of the training tiles"]]
    for search in plan.searches:
        found = []
        for trial in plan.trials(search):
            for entry in results.of(trial.name, [SEARCH_SEED]):
                score = entry["result"].get("mean_iu")
                shown = "diverged" if score is None else f"{100 * score:.1f}"
                found.append(f"{trial.rate:g}: {shown}")
        rows.append([search, ", ".join(found) or MISSING])
    return rows


TABLES: dict[str, Callable[[Plan, Results], Rows]] = {
    "a": table_a,
    "b": table_b,
    "c": table_c,
    "d": table_d,
    "e": table_e,
    "rates": table_rates,
}


def origin(table: str, results: Results) -> str:
    """Return how a table was made: command, seeds, time, machine."""
    own = SEARCH if table == "rates" else f"{table}/"
    entries = [entry for key, entry in results.cells.items() if key.startswith(own)]
    if not entries:
        return f"*{MISSING}*"
    seconds = sum(entry["seconds"] for entry in entries)
    machines = dict.fromkeys(entry["machine"] for entry in entries)
    days = sorted({entry["date"] for entry in entries})
    seeds = sorted({entry["seed"] for entry in entries if entry["seed"] is not None})
    told = f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}, " if seeds else ""
    command = "python benchmarks/paper_tables.py" + f" {table}" * (table != "rates")
    return (
        f"*`{command}`, {told}{len(entries)} cells, {seconds:,.0f} s in all, "
        f"{' and '.join(days)}, on {'; '.join(machines)}*"
    )
