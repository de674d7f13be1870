"""The report of a run, as one HTML file."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from strict_page import Page

from minifcn import report
from minifcn.curve import running_mean
from minifcn.metrics import ConfusionMatrix
from minifcn.report import Example, Report, Row

NASTY = '<script>alert("&")</script>'


def matrix(*counts):
    return ConfusionMatrix.from_counts(counts)


GOOD, BAD = matrix([90, 10], [20, 80]), matrix([100, 0], [100, 0])


def a_report(**changes):
    picture = Image.new("RGB", (4, 3), "red")
    usual = {
        "title": "A run",
        "summary": "It went well.",
        "rows": [Row("guess", BAD), Row("FCN", GOOD, 12.4)],
        "classes": ("sea", "land"),
        "palette": np.array([(0, 0, 255), (0, 128, 0)], np.uint8),
        "losses": {"FCN": [2.0, 1.0, 0.5, 0.25]},
        "examples": [Example("tile-1", "A coast", {"image": picture, "truth": picture})],
        "facts": {"command": "minifcn demo", "seed": "0"},
    }
    return Report(**usual | changes)


def written(tmp_path, **changes):
    report.write_report(tmp_path / "report.html", a_report(**changes))
    return (tmp_path / "report.html").read_text("utf-8")


def rows_of(page):
    """Return the text of all table rows, tags stripped."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]


# The page


def test_the_page_holds_all_of_the_report(tmp_path):
    page = written(tmp_path)
    parsed = Page(page)
    for part in ("A run", "It went well.", "A coast (tile-1)", "minifcn demo", "sea", "ignored"):
        assert part in parsed.text
    assert parsed.tags.count("img") == 2
    assert parsed.tags.count("svg") == 1
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path):
    page = written(tmp_path)
    parsed = Page(page)
    assert "http" not in page
    assert "@import" not in page
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    sources = [value for name, value in parsed.attributes if name in ("src", "href")]
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_all_texts_are_escaped(tmp_path):
    picture = Image.new("RGB", (2, 2))
    page = written(
        tmp_path,
        title=NASTY,
        summary=NASTY,
        rows=[Row(NASTY, GOOD)],
        classes=(NASTY, "land"),
        losses={NASTY: [1.0]},
        examples=[Example(NASTY, NASTY, {NASTY: picture})],
        facts={NASTY: NASTY},
    )
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert "<script" not in page
    assert parsed.text.count(NASTY) >= 9
    assert any(name == "alt" and NASTY in value for name, value in parsed.attributes)


def test_metrics_stand_in_a_table_with_the_best_in_bold(tmp_path):
    page = written(tmp_path)
    rows = rows_of(page)
    assert rows[0] == "pixel accuracy mean accuracy mean IU f.w. IU seconds"
    assert rows[1] == "guess 50.0 % 50.0 % 25.0 % 25.0 %"
    assert rows[2] == "FCN 85.0 % 85.0 % 73.9 % 73.9 % 12"
    assert page.count("<td class=best>") == 4
    assert "<td class=best>85.0 %</td>" in page


def test_every_class_has_its_share_and_its_iu(tmp_path):
    page = written(tmp_path, rows=[Row("guess", BAD), Row("FCN", matrix([90, 10], [0, 300]))])
    rows = rows_of(page)
    assert "share guess FCN" in rows
    assert "sea 50.0 % 50.0 % 90.0 %" in rows
    assert "land 50.0 % 0.0 % 96.8 %" in rows
    assert 'style="--part:96.8%">96.8 %' in page


def test_a_class_that_is_not_there_has_a_dash(tmp_path):
    page = written(tmp_path, rows=[Row("FCN", matrix([5, 0], [0, 0]))])
    assert "land 0.0 % -" in rows_of(page)
    assert "nan" not in Page(page).text


def test_pictures_survive_as_they_are():
    picture = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3))
    content = report.data_uri(picture).partition("base64,")[2]
    again = Image.open(io.BytesIO(base64.b64decode(content)))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(picture))


def test_a_report_may_have_no_pictures(tmp_path):
    parsed = Page(written(tmp_path, examples=[]))
    assert "img" not in parsed.tags
    assert "Pictures" not in parsed.text


# Loss curves


def test_curves_share_one_scale_and_stay_inside(tmp_path):
    page = written(tmp_path, losses={"first": [4.0] * 30, "second": [1.0, 9.0] + [1.0] * 40})
    lines = re.findall(r'<poly(line|gon) [^>]*points="([^"]*)"', page)
    assert [kind for kind, _ in lines] == ["gon", "line"] * 2  # the band, and the running mean
    points = [
        np.array([[float(number) for number in point.split(",")] for point in line.split()])
        for _, line in lines
    ]
    assert [len(line) for line in points] == [60, 30, 84, 42]
    for line in points:
        assert 48 < line[:, 0].min() < 62  # step 1; the axis begins at 0
        assert line[:, 0].max() == 390
        assert line[:, 1].min() >= 22
        assert line[:, 1].max() <= 190
    # 4 of the common 5.5, a little above the highest mean: 1, then 9, is 5 on average.
    np.testing.assert_allclose(points[1][:, 1], 190 - 168 * 4 / 5.5, atol=0.06)
    np.testing.assert_allclose(points[3][-1, 1], 190 - 168 * 1 / 5.5, atol=0.06)


@pytest.mark.parametrize("losses", [[0.5], [0.0, 0.0]])
def test_curves_may_be_short_or_flat(tmp_path, losses):
    page = written(tmp_path, losses={"FCN": losses})
    assert f"loss per pixel from {losses[0]:.2f} to {losses[-1]:.2f}" in page


def test_the_running_mean_looks_back_twenty_steps():
    values = np.random.default_rng(0).random(50)
    smooth = running_mean(values)
    for i in (0, 7, 19, 20, 49):
        assert smooth[i] == pytest.approx(values[max(0, i - 19) : i + 1].mean())


def test_losses_come_from_the_log(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 1, "loss": 2.5}\n{"step": 1, "mean_iu": 0.5}\n{"step": 2, "loss": 2}\n'
    )
    assert report.read_losses(log) == [2.5, 2]
