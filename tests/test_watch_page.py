"""The report of a run: what stands in it, when it is written, and that it acts on nothing."""

import io
import json
import re
import signal
import time
from base64 import b64decode
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from PIL import Image
from run_folders import STAGES, VAL, lines_of, matrix, trained, written
from strict_page import Page

from minifcn import runs, watch
from minifcn.chart import Line, apart, chart
from minifcn.data import Head
from minifcn.files import WriteError
from minifcn.run_log import evaluation_line, read_log
from minifcn.run_page import write_page
from minifcn.step import Step
from minifcn.train import Observer, TrainingError
from minifcn.viz import colour_label
from minifcn.watch import Watch
from minifcn.watched_pictures import Chosen

NASTY = "<script>alert('&\")</script>"
NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of two stages."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    trained(out, record={"command": f"minifcn train {NASTY}", "versions": {"NumPy": "2.x"}})
    return out


def page_of(out):
    write_page(out / "report.html", runs.read(out), NOW)
    return (out / "report.html").read_text("utf-8")


# What stands in it


def test_a_finished_run_tells_all(finished):
    page = (finished / "report.html").read_text("utf-8")
    parsed = Page(page)
    for part in (
        *("finished", "fcn8s, stage 2 of 2: step 6 of 6", "in all", "shapes train"),
        *("mean IU", "loss per pixel", "Learning rate", "Images per second", "Memory"),
        *("background", "circle", "square", "triangle", "ignored", "Layers", "conv1_1"),
        "fcn8s, at the last look, step 1",
        *("What is taken for what", "How this was made", "NumPy", "2.x", f"train {NASTY}"),
    ):
        assert part in parsed.text, part
    assert 'http-equiv="refresh"' not in page
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    assert "http://" not in page
    assert "https://" not in page
    sources = [value for name, value in parsed.attributes if name in ("src", "href")]
    assert all(source.startswith("data:image/") for source in sources)
    assert not list(finished.rglob(".*"))  # neither temporary files nor the lock


def test_the_page_follows_from_the_files_alone(finished, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls):
            return NOW

    monkeypatch.setattr("minifcn.run_page.datetime", Clock)
    live = finished.parent / "live"
    trained(live)
    written_live = (live / "report.html").read_text("utf-8")
    assert page_of(live) == written_live


def test_every_picture_and_chart_is_told_in_words(finished):
    parsed = Page(page_of(finished))
    images = parsed.tags.count("img")
    alts = [value for name, value in parsed.attributes if name == "alt"]
    assert len(alts) == images == 6 * (2 + 1 + 2)  # image and truth; the first; the latest of each
    assert all(alts)
    drawings = parsed.tags.count("svg")
    told = [n for n, _ in parsed.attributes if n in ("aria-label", "aria-hidden")]
    assert len(told) >= drawings
    summaries = parsed.tags.count("summary")
    assert summaries == parsed.tags.count("details") >= 6


def test_the_pictures_are_those_of_the_data_and_the_net(finished):
    page = page_of(finished)
    chosen = Chosen(VAL)
    assert [sample.name for sample in chosen] == [VAL[i].name for i in (0, 2, 3, 4, 6, 7)]
    for sample in chosen:
        ((kind, content),) = re.findall(
            rf'<img src="data:image/(\w+);base64,([^"]+)" alt="{sample.name}: truth"', page
        )
        with Image.open(io.BytesIO(b64decode(content))) as picture:
            expected = np.asarray(colour_label(sample.label, VAL.palette))
            assert kind == "png"
            assert np.array_equal(np.asarray(picture.convert("RGB")), expected)


def test_numbers_stand_in_tables(finished):
    page = page_of(finished)
    log = read_log(finished / "fcn8s" / "log.jsonl")
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]
    assert any(row.startswith("conv1_1 ") for row in rows)
    accuracy, iu = 100 * log.best["pixel_accuracy"], 100 * log.best["mean_iu"]
    assert any(r.startswith(f"fcn8s {accuracy:.1f} %") and f"{iu:.1f} %" in r for r in rows)
    counts = log.matrices[""].matrix
    share = 100 * counts[0, 0] / counts[0].sum()
    assert any(row.startswith(f"background {share:.0f}") for row in rows)


def test_everything_from_outside_is_escaped(tmp_path):
    heads = {
        f"a{NASTY}": Head((NASTY, "b"), np.zeros((2, 3), np.uint8)),
        "b": Head((NASTY, NASTY), np.zeros((2, 3), np.uint8)),
    }
    out = tmp_path / NASTY.replace("/", "")
    log = written(out, data=NASTY, command=NASTY, versions={NASTY: NASTY}, heads=heads)
    with log.open("a") as file:
        found = {name: matrix([[3, 1], [2, 0]]) for name in heads}
        print(json.dumps(evaluation_line(10, found, 1.0)), file=file)
        print(json.dumps({"step": 10, "event": NASTY}), file=file)
        print(json.dumps({"step": 10, "layers": {NASTY: {"mean": 1.0}}}), file=file)
    runs.write_state(out, runs.State(runs.FAILED, NASTY, NASTY))
    runs.write_shown(out, runs.Shown(heads, [NASTY]))
    for name in ("0-image.jpg", "0-truth-0.png", "0-truth-1.png"):
        Image.new("RGB", (2, 2)).save(out / "watch" / name)
    page = page_of(out)
    parsed = Page(page)
    assert "script" not in parsed.tags
    assert parsed.text.count(NASTY) >= 12
    assert any(name == "alt" and NASTY in value for name, value in parsed.attributes)


@pytest.mark.parametrize("state", [runs.RUNNING, runs.STOPPED, runs.FINISHED, runs.FAILED])
def test_only_a_running_run_is_loaded_again(tmp_path, state):
    written(tmp_path / "run", steps=5, total=15, state=state)
    page = page_of(tmp_path / "run")
    running = state == runs.RUNNING
    assert ('<meta http-equiv="refresh"' in page) == running
    # 5 steps of 0.5 s and an evaluation of 1 s: 10 steps more take twice as long.
    assert ("about 7 s left" in page) == running
    assert f">{state}</b>" in page
    assert "Written 2026-01-02 03:04:05." in page


def test_a_run_that_has_hardly_begun_has_a_page(tmp_path):
    written(tmp_path / "run", steps=0, total=9, state=runs.RUNNING)
    parsed = Page(page_of(tmp_path / "run"))
    assert "step 0 of 9" in parsed.text
    assert "Nothing was measured" in parsed.text
    assert "nan" not in parsed.text


def test_metrics_that_are_no_numbers_do_no_harm(tmp_path):
    log = written(tmp_path / "run", steps=4, total=9)
    empty = evaluation_line(4, {"": matrix([[0, 0], [0, 0]])}, 1.0)
    log.write_text(json.dumps(next(lines_of(3, 9))) + "\n" + json.dumps(empty) + "\n")
    parsed = Page(page_of(tmp_path / "run"))
    assert "nan" not in parsed.text


def test_very_many_classes_are_listed_and_not_drawn(tmp_path):
    names = [f"class {number}" for number in range(60)]
    written(tmp_path / "run", classes=names)
    page = page_of(tmp_path / "run")
    assert "confusion" not in re.findall(r'<table class="(\w+)"', page)
    assert "the commonest confusions" in page
    assert "And 20 classes more" in page


@pytest.mark.slow
def test_a_run_of_100_000_steps_has_a_small_page_that_is_made_in_no_time(tmp_path, request):
    written(tmp_path / "run", steps=100_000, classes=[str(n) for n in range(21)])
    run = runs.read(tmp_path / "run")
    start = time.perf_counter()
    write_page(tmp_path / "report.html", run, NOW)
    seconds, size = time.perf_counter() - start, (tmp_path / "report.html").stat().st_size
    told = "seconds and bytes of a page of 100,000 steps", f"{seconds:.2f} {size}"
    request.node.user_properties.append(told)
    assert size < 2e6
    assert seconds < 0.5


# Charts


def test_names_at_the_ends_of_lines_do_not_overlap():
    places = apart([50, 51, 10, 52, 200])
    assert [b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)] >= [15] * 4
    assert np.argsort(places).tolist() == [2, 0, 1, 3, 4]


def test_lines_stay_inside_and_a_chart_of_zeros_is_drawn():
    wild = Line("", np.array([0.0, 50, 99]), np.array([9.0, -3, 0.5]))
    points = re.findall(r'points="([^"]+)"', chart("wild", [wild], top=1, last=10))
    numbers = np.array([p.split(",") for p in points[0].split()], float)
    assert numbers[:, 0].max() <= 390
    assert (numbers[:, 1].min(), numbers[:, 1].max()) == (22, 190)
    assert "nan" not in chart("flat", [Line("a", np.zeros(1), np.zeros(1))], top=0.0, last=0)


# When it is written


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self):
        return self.now


def watched(tmp_path, **options):
    written(tmp_path / "run", steps=0, total=500)
    return Watch(tmp_path / "run", VAL, **options)


def step(number):
    return Step(number, 500, 1.0, 0.1, 0.0)


def test_the_report_is_written_every_half_minute(tmp_path, monkeypatch):
    clock = Clock()
    made = []
    monkeypatch.setattr(watch, "write_page", lambda path, run: made.append(clock.now))
    with watched(tmp_path, clock=clock) as one:
        one.started("fcn8s")
        for number in range(1, 100):
            clock.now += 1
            one.stepped(step(number))
    assert made == [0, 30, 60, 90, 99]


def test_a_page_that_takes_long_is_written_seldom(tmp_path, monkeypatch):
    clock = Clock()
    made = []

    def slow(path, run):
        made.append(clock.now)
        clock.now += 2

    monkeypatch.setattr(watch, "write_page", slow)
    with watched(tmp_path, clock=clock) as one:
        one.started("fcn8s")
        for number in range(1, 500):
            clock.now += 1
            one.stepped(step(number))
    assert made == [0, 202, 404, 505]


def test_a_report_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    def full(path, run):
        raise WriteError("no space left")

    warnings = []
    with watched(tmp_path, warned=warnings.append) as one:
        monkeypatch.setattr(watch, "write_page", full)
        one.started("fcn8s")
        one.stepped(step(1))
    assert warnings == ["the report is not new: no space left"] * 2
    assert read_log(tmp_path / "run" / "fcn8s" / "log.jsonl").step == 1


def test_a_log_that_lacks_lines_is_told(tmp_path):
    warnings = []
    with watched(tmp_path, warned=warnings.append) as one:
        one.started("fcn8s")
        one.stepped(step(1))
        one.started("fcn8s", at=1)
        assert warnings == []
        one.started("fcn8s", at=3)
    assert [text.split(": ")[1] for text in warnings] == [
        "lines are missing after step 1, up to step 3"
    ]


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (None, "finished", ""),
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (TrainingError("the loss is nan"), "failed", "the loss is nan"),
        (ZeroDivisionError("x"), "failed", "ZeroDivisionError: x"),
    ],
)
def test_the_end_of_a_run_is_told(tmp_path, error, state, reason):
    def work():
        with watched(tmp_path) as one:
            one.started("fcn8s")
            one.stepped(step(1))
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    assert runs.read(tmp_path / "run").state == (state, "fcn8s", reason)
    assert f">{state}</b>" in (tmp_path / "run" / "report.html").read_text()


def test_a_failed_run_says_why(tmp_path):
    stages = {"fcn32s": replace(STAGES["fcn32s"], steps=20, lr=1000.0)}
    with pytest.raises(TrainingError, match="loss is nan"):
        trained(tmp_path / "run", stages)
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert "failed" in page.text
    assert "the loss is nan" in page.text


class Stops(Observer):
    """Stops a run as Ctrl-C does."""

    def __init__(self, step):
        self.at = step

    def stepped(self, name, step):
        if name == "fcn8s" and step.step == self.at:
            signal.raise_signal(signal.SIGINT)


def test_a_resumed_run_has_one_log_and_its_old_pictures(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        trained(out, observer=Stops(3), save_every=1)
    run = runs.read(out)
    assert run.state.name == runs.STOPPED
    assert run.stages["fcn8s"].step == 3
    first = sorted(path.name for path in (out / "watch").glob("fcn8s-*"))
    trained(out, resume=True, save_every=1)
    run = runs.read(out)
    assert run.state.name == runs.FINISHED
    log = run.stages["fcn8s"]
    assert log.curves["loss"].points().steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert (3, "the run went on from here") in log.events
    assert set(first) <= {path.name for path in (out / "watch").glob("fcn8s-*")}
    assert runs.steps_of(out / "watch", "fcn8s") == {2, 6}
    assert runs.steps_of(out / "watch", "fcn32s") == {2, 4}


def test_a_new_run_in_a_used_folder_shows_nothing_of_the_old_one(tmp_path):
    out = tmp_path / "run"
    trained(out)
    (out / "fcn8s" / "log.jsonl").write_text("damaged\n" * 3)
    with pytest.raises(KeyboardInterrupt):
        trained(out, {"fcn8s": STAGES["fcn8s"], "fcn32s": STAGES["fcn32s"]}, observer=Stops(1))
    run = runs.read(out)
    assert list(run.stages) == ["fcn8s"]
    assert not list((out / "watch").glob("fcn*"))
