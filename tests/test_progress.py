"""What a terminal shows of a run."""

import io
import re
import threading

import pytest
from rich.console import Console

from minifcn import models, progress
from minifcn.metrics import ConfusionMatrix
from minifcn.models.surgery import transplant
from minifcn.progress import TerminalObserver
from minifcn.recipes import Recipe
from minifcn.report import Row
from minifcn.train import Step


def matrix(*counts):
    return ConfusionMatrix.from_counts(counts)


GOOD, BAD = matrix([90, 10], [20, 80]), matrix([100, 0], [100, 0])


class Clock:
    """A clock that goes on by a given time whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def observe(terminal, seconds, steps=100, width=100):
    """Show a stage whose steps take so long; return what was written."""
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    recipe = Recipe(steps=steps, lr=0.5, batch_size=4)
    with TerminalObserver(console, clock) as observer:
        observer.stage_started("fcn8s", recipe, models.fcn8s(4, "small"))
        for i in range(1, steps + 1):
            clock.now += seconds
            observer.stepped("fcn8s", Step(i, steps, 2.0, 0.25, 0.0))
        for i in range(1, 11):
            clock.now += seconds
            observer.evaluating("fcn8s", i, 10)
        observer.evaluated("fcn8s", steps, GOOD, best=True)
        observer.warned("look at this")
    return file.getvalue()


def test_without_a_terminal_there_is_a_line_every_ten_seconds():
    lines = observe(terminal=False, seconds=0.5).splitlines()
    learned = progress.learned(models.fcn8s(4, "small"))
    assert lines[0] == (
        f"fcn8s: {learned:,} parameters to learn, 100 steps of 4 images, learning rate 0.5"
    )
    assert lines[1] == "fcn8s  step 20 of 100  loss 2.000  8.0 images/s  lr 2.5e-01  0:40 left"
    assert [line.split()[2] for line in lines[1:6]] == ["20", "40", "60", "80", "100"]
    metrics = "pixel accuracy 85.0 %  mean accuracy 85.0 %  mean IU 73.9 %  f.w. IU 73.9 %"
    assert lines[6:] == [f"fcn8s  step 100  {metrics}  (best so far)", "warning: look at this"]


def test_what_was_taken_over_is_told_and_what_is_accumulated():
    file = io.StringIO()
    parent, net = models.fcn32s(4, "small"), models.fcn16s(4, "small")
    with TerminalObserver(Console(file=file), Clock()) as observer:
        observer.transplanted("fcn32s", transplant(parent, parent))
        observer.transplanted("fcn16s", transplant(net, parent))
        observer.stage_started("fcn16s", Recipe(9, 0.5, batch_size=2, accumulate=10), net)
    first, second, third = file.getvalue().splitlines()
    assert first == "fcn32s: starting weights: 19 copied"
    names = "upscore2.weight, score_pool4.weight, score_pool4.bias, upscore16.weight"
    assert second == f"fcn16s: starting weights: 18 copied, 4 new, 1 dropped; new: {names}"
    assert third.endswith("9 steps of 20 images (2 at a time), learning rate 0.5")
    assert observer.images == 20


def test_short_work_without_a_terminal_has_no_lines_between():
    assert len(observe(terminal=False, seconds=0.01).splitlines()) == 3


def test_a_terminal_shows_a_bar_at_most_four_times_a_second():
    shown = observe(terminal=True, seconds=0.1)
    pictures = re.findall(r"step (\d+) of 100", shown)
    # 10 seconds of steps; a picture may be drawn again when a line is written above it.
    assert 30 <= len(set(pictures)) <= 41
    assert "40.0 images/s" in shown
    assert re.search(r"evaluated \d of 10 images", shown)
    last = shown.rpartition("warning: look at this")[2]
    assert "step" not in last
    assert "evaluated" not in last  # the bar is gone


def test_a_bar_starts_no_thread():
    before = threading.active_count()
    with TerminalObserver(Console(file=io.StringIO(), force_terminal=True)):
        assert threading.active_count() == before


def test_the_bar_is_taken_away_when_training_fails():
    file = io.StringIO()
    observer = TerminalObserver(Console(file=file, force_terminal=True))
    with pytest.raises(ZeroDivisionError), observer:
        raise ZeroDivisionError
    assert file.getvalue().rstrip("\r").endswith("\x1b[?25h")  # the cursor is visible again


def test_an_evaluation_does_not_count_as_a_slow_step():
    clock = Clock()
    observer = TerminalObserver(Console(file=io.StringIO(), force_terminal=False), clock)
    observer.stage_started("fcn8s", Recipe(steps=9, lr=1), models.fcn8s(4, "small"))
    for i in range(1, 5):
        clock.now += 1
        observer.stepped("fcn8s", Step(i, 9, 1.0, 1.0, 0.0))
        clock.now += 100
        observer.evaluated("fcn8s", i, GOOD, best=False)
    assert observer.seconds.value == 1


def test_smoothed_numbers_forget():
    smooth = progress.Smoothed()
    for value in [100.0] + [1.0] * 200:
        smooth.add(value)
    assert smooth.value == pytest.approx(1, abs=1e-2)


def test_results_stand_in_columns_where_there_is_no_terminal(capsys):
    progress.print_table(progress.results_table([Row("guess", BAD), Row("a net", GOOD, 61.6)]))
    lines = [line.rstrip() for line in capsys.readouterr().out.strip("\n").splitlines()]
    assert lines[0].split("  ")[-1].strip() == "seconds"
    assert " ".join(lines[2].split()) == "guess 50.0 % 50.0 % 25.0 % 25.0 %"
    assert " ".join(lines[3].split()) == "a net 85.0 % 85.0 % 73.9 % 73.9 % 62"
    ends = [[m.end() for m in re.finditer("%", line)] for line in lines[2:]]
    assert ends[0] == ends[1]  # aligned
