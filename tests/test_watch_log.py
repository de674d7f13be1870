"""The log of a run: how it is written late, cut back, and read in little memory."""

import io
import json
import math
import time

import numpy as np
import pytest
from run_folders import TRAIN, matrix, trained

from minifcn import run_log
from minifcn.curve import Curve
from minifcn.files import WriteError
from minifcn.run_log import Log, LogError, StageLog, cut_log, evaluation_line, read_log
from minifcn.step import Step, StepLoss

STEP = '{"step": %d, "steps": 9, "loss": %s, "lr": 0.1, "seconds": 0.5}\n'
MEASURED = (
    '{"step": %d, "pixel_accuracy": 0.5, "mean_accuracy": 0.5, "mean_iu": %s, "fw_iu": 0.5, '
    '"iu": [0.2, null], "matrix": [[1, 1], [0, 0]], "seconds": 2.0}\n'
)
EVENT = '{"step": %d, "event": "a bad image"}\n'
LAYERS = '{"step": %d, "layers": {"conv": {"mean": 0.5, "update": null}}}\n'


class Late(StepLoss):
    """A loss that a GPU is still computing."""

    def __init__(self):
        super().__init__(1, lr=0.1)
        self.unread = [None]

    def read(self):
        self.unread = []
        return 2.0


def step(number, told=1.0):
    return Step(number, 9, told, lr=0.1, seconds=0.0)


# Curves


@pytest.mark.parametrize("count", [1, 5, 8, 9, 100, 12345])
def test_a_long_curve_has_few_pieces_and_loses_nothing(count):
    values = np.random.default_rng(count).normal(size=count)
    curve = Curve(most=4)
    for number, value in enumerate(values, start=1):
        curve.add(number, value)
    points = curve.points()
    assert min(count, 4) <= len(curve) <= 8
    assert points.sums.sum() == pytest.approx(values.sum())
    assert points.lows.min() == values.min()
    assert points.highs.max() == values.max()
    assert curve.last == values[-1]
    assert np.all(np.diff(points.steps) > 0)


def test_short_curves_are_kept_as_they_are():
    curve = Curve(most=4)
    for number in range(8):
        curve.add(number, number**2)
    assert curve.points().means.tolist() == [n**2 for n in range(8)]
    assert curve.points().steps.tolist() == list(range(8))


def test_what_is_no_number_leaves_a_gap():
    curve = Curve()
    for value in (None, math.nan, math.inf, 2.0):
        curve.add(1, value)
    assert (len(curve), curve.first, curve.last) == (1, 2.0, 2.0)
    assert math.isnan(Curve().first)


# Writing


def test_lines_wait_for_losses_that_are_not_known_and_keep_their_order():
    told = []
    log = Log(io.StringIO(), told.append)
    late = Late()
    log.add(step(1))
    log.add(step(2, late))
    log.add(None, step=2, event="something")
    log.add(step(3))
    assert [line["step"] for line in told] == [1]
    late.read()
    log.close()
    lines = [json.loads(line) for line in log.file.getvalue().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2, 3]
    assert lines == told
    assert lines[2] == {"step": 2, "event": "something"}


def test_writing_all_waits():
    log = Log(io.StringIO())
    log.add(step(1, Late()), memory=7)
    log.write()
    assert json.loads(log.file.getvalue())["memory"] == 7


def test_an_evaluation_has_metrics_classes_and_counts():
    line = evaluation_line(5, {"": matrix([[3, 1], [0, 0]])}, 2.0)
    assert line["pixel_accuracy"] == 0.75
    assert line["iu"] == [0.75, 0.0]
    assert line["matrix"] == [[3, 1], [0, 0]]
    json.dumps(line, allow_nan=False)
    several = evaluation_line(5, {"a": matrix([[1, 0], [0, 0]]), "b": matrix([[1]])}, 2.0)
    assert several["a"]["iu"] == [1.0, None]
    assert several["b"]["matrix"] == [[1]]


# Reading


def test_a_log_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "log.jsonl"
    rest = STEP % (1, "2.0") + LAYERS % 1 + STEP % (2, "null") + EVENT % 2 + MEASURED % (2, "0.25")
    path.write_text(rest + STEP % (3, "1.0") + MEASURED % (3, "0.2"))
    log = read_log(path)
    assert (log.step, log.steps, log.evaluations, log.happened) == (3, 9, 2, 1)
    assert log.seconds == 3 * 0.5 + 2 * 2.0
    assert log.curves["loss"].points().means.tolist() == [2.0, 1.0]  # a skipped step has none
    assert log.best["mean_iu"] == 0.25
    assert log.best["step"] == 2
    assert log.matrices[""].matrix.tolist() == [[1, 1], [0, 0]]
    assert len(log.ious[""][0]) == 2
    assert len(log.ious[""][1]) == 0
    assert log.layers["conv"]["mean"].last == 0.5
    assert list(log.events) == [(2, "a bad image")]


def test_metrics_of_several_heads_stand_below_their_names(tmp_path):
    heads = {"sem": matrix([[1, 0], [0, 1]]), "geo": matrix([[1, 1], [0, 1]])}
    (tmp_path / "log.jsonl").write_text(json.dumps(evaluation_line(4, heads, 1.0)) + "\n")
    log = read_log(tmp_path / "log.jsonl")
    assert list(log.metrics) == ["sem", "geo"]
    assert log.best["mean_iu"] == 1.0
    assert log.matrices["geo"].matrix.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("last", [STEP % (2, "1.0") + '{"step": 3, "st', '{"step"\n', "\0\0\0\n"])
def test_a_broken_last_line_is_passed_by(tmp_path, last):
    path = tmp_path / "log.jsonl"
    path.write_text(STEP % (1, "1.0") + last)
    assert read_log(path).step in (1, 2)


@pytest.mark.parametrize(
    "line",
    [
        "{\n",
        "[1]\n",
        "7\n",
        '{"step": 2}\n',
        '{"step": "2", "event": ""}\n',
        '{"step": 2, "loss": 1}\n',
        '{"step": 2, "steps": 9, "loss": "x", "lr": 1, "seconds": 1}\n',
        '{"step": 2, "layers": 7}\n',
        MEASURED.replace("[0, 0]]", "[0]]") % (2, "0.2"),
        MEASURED.replace("[0, 0]]", f"[0, {10**30}]]") % (2, "0.2"),
        "[" * 100_000 + "\n",
        "\xff\n",
    ],
    ids=lambda line: line[:30],
)
def test_any_other_broken_line_is_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_bytes((STEP % (1, "1.0") + line + STEP % (3, "1.0")).encode("latin-1"))
    with pytest.raises(LogError, match=r"log\.jsonl, line 2: not a line of a training log"):
        read_log(path)


def test_a_long_log_needs_little_memory():
    log = StageLog()
    for number in range(1, 20_001):
        log.take({"step": number, "steps": 9, "loss": 1.0, "lr": 0.1, "seconds": 0.1, "wait": 0.1})
        log.take({"step": number, "event": "again"})
    assert max(map(len, log.curves.values())) <= 600
    assert (len(log.events), log.happened) == (50, 20_000)


# Cutting back


def test_what_happened_after_a_step_is_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    kept = STEP % (1, "1.0") + STEP % (2, "1.0") + EVENT % 2 + MEASURED % (2, "0.2")
    path.write_text(kept + LAYERS % 3 + STEP % (3, "1.0") + MEASURED % (3, "0.3") + '{"step": 4')
    log = cut_log(path, 2)
    assert path.read_text() == kept
    assert (log.step, log.evaluations, log.best["mean_iu"]) == (2, 1, 0.2)


def test_an_evaluation_that_is_yet_to_come_is_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    before = MEASURED % (1, "0.1") + STEP % (2, "1.0")
    path.write_text(before + MEASURED % (2, "0.2"))
    assert cut_log(path, 2, evaluated=False).evaluations == 1
    assert path.read_text() == before


def test_a_log_may_be_missing_and_one_of_an_earlier_run_is_emptied(tmp_path):
    path = tmp_path / "log.jsonl"
    assert cut_log(path, 5).step == 0
    path.write_text("of another run\n" * 3)
    assert cut_log(path, 0).step == 0
    assert path.read_text() == ""
    with pytest.raises(WriteError, match="cannot be written"):
        cut_log(tmp_path / "missing" / "log.jsonl", 0)


# In a run


def test_jumps_of_the_clock_change_no_number(tmp_path, monkeypatch):
    jumps = iter([1e9, -1e9, 5.0] * 10_000)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    start = time.perf_counter()
    trained(tmp_path / "run")
    passed = time.perf_counter() - start
    for stage in ("fcn32s", "fcn8s"):
        log = read_log(tmp_path / "run" / stage / "log.jsonl")
        for name in ("seconds", "wait"):
            points = log.curves[name].points()
            assert points.lows.min() >= 0
            assert points.highs.max() < passed
        assert 0 < log.seconds < passed


def test_a_step_tells_its_images_and_how_long_they_were_waited_for(tmp_path):
    trained(tmp_path / "run")
    log = read_log(tmp_path / "run" / "fcn8s" / "log.jsonl")
    assert log.curves["images"].points().means.tolist() == [2.0] * 6
    assert len(log.curves["wait"]) == 6
    assert log.curves["memory"].last > 1e6
    assert len(TRAIN) == 16


def test_a_log_that_does_not_get_to_the_disk_has_trouble(tmp_path, monkeypatch):
    def failing(number):
        raise OSError(5, "Input/output error")

    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        log = Log(file)
        log.add(step(1))
        log.to_disk()
        assert log.trouble is None
        monkeypatch.setattr(run_log.os, "fsync", failing)
        log.to_disk()
        assert "Input/output error" in str(log.trouble)
        log.add(step(2))
        assert log.trouble is None
