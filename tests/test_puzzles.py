"""The judge of the rules that a reader of notebook P1 writes."""

import re
from pathlib import Path

import numpy as np
import pytest

from minifcn import puzzles

TEXT = Path(__file__).parent.parent / "notebooks" / "text" / "P1_derive.md"


def verdict_on(rule, name):
    rule.__name__ = name
    (verdict,) = puzzles.check(rule).verdicts
    return verdict.verdict, verdict.why


@pytest.mark.parametrize("name", puzzles.OPERATIONS)
def test_samples_fit_the_operations_and_differ(name):
    shapes = [[a.shape for a in inputs] for inputs in puzzles.samples(name)]
    assert len(shapes) >= 2
    assert shapes[0] != shapes[1]
    for inputs in puzzles.samples(name):
        assert np.isfinite(puzzles.OPERATIONS[name](*inputs)).all()


@pytest.mark.parametrize(
    ("name", "rule", "why"),
    [
        ("div_x", lambda g, x, y, z: None, "returned nothing"),
        ("div_x", lambda g, x, y, z: "g / y", "returned a str"),
        ("div_x", lambda g, x, y: g / y, "raised TypeError"),
        ("div_x", lambda g, x, y, z: g.sum(), "something is missing"),
        ("div_x", lambda g, x, y, z: 1 / y, "proportional to g"),
        ("div_x", lambda g, x, y, z: g / y * np.nan, "inf or nan"),
        ("div_x", lambda g, x, y, z: g * y, "difference quotient is"),
        ("div_y", lambda g, x, y, z: g * z / y, "-1 times"),
        ("div_y", lambda g, x, y, z: 0 * g, "zero everywhere"),
        ("mean_x", lambda g, x, z: np.repeat(g[:, None], x.shape[1], 1), "times the right"),
        ("shift_b", lambda g, x, b, z: g, "shape (3, 4), but b has (4,): add up"),
        # With as many rows as columns the shape is right, and only the numbers tell.
        ("shift_b", lambda g, x, b, z: g.sum(axis=int(g.shape[0] == g.shape[1])), "it is"),
        ("slide_w", lambda g, x, w, z: g[: len(w)], "it is"),
    ],
)
def test_wrong_rules_are_told_why(name, rule, why):
    verdict, told = verdict_on(rule, name)
    assert verdict == puzzles.WRONG
    assert why in told


def test_a_rule_may_not_change_what_it_is_given():
    def div_x(g, x, y, z):
        g /= y
        return g

    assert "changed what it was given" in puzzles.check(div_x).verdicts[0].why


def test_a_rule_to_be_written_is_neither_right_nor_wrong():
    assert verdict_on(lambda g, x, z: ..., "softmax_x")[0] == puzzles.OPEN


@pytest.mark.parametrize("name", ["divx", "div_z", "loss_label", "rule"])
def test_other_names_are_refused(name):
    with pytest.raises(puzzles.PuzzleError, match=f"{name}: a rule must have one of .*div_x"):
        verdict_on(lambda *given: ..., name)


def test_report_shows_words_not_only_colours_and_escapes():
    def div_x(g, x, y, z):
        raise ValueError("<b>")

    report = puzzles.check(div_x)
    assert not report.passed
    assert "wrong" in report._repr_html_()
    assert "&lt;b&gt;" in report._repr_html_()
    assert "0 of 1 rule right" in report._repr_html_()
    assert not puzzles.check().passed


def test_folded_answers_of_the_notebook_are_right():
    names = {}
    folds = re.findall(r"<summary>Answer.*?```python\n(.*?)```", TEXT.read_text("utf-8"), re.S)
    for code in folds:
        exec(code, {"np": np, "softmax": puzzles.softmax}, names)
    assert len(names) == 11
    assert puzzles.check(*names.values()).passed
