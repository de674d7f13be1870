"""How benchmarks measure: blocks in turn, disturbances, and the processes that compute."""

import json
import os
import signal
import subprocess
import sys

import pytest

from minifcn.bench import load, measure, peers, process, sides, works
from minifcn.bench.measure import Timing
from minifcn.bench.process import MissingError, Worker, WorkerError

NET = {"model": "fcn8s", "num_classes": 3, "backbone": "small", "widths": [4, 4, 8, 8, 8]}
TINY = works.Case("tiny", works.TRAIN, {"net": NET, "batch": [2, 3, 16, 20]})


# How it is timed


def test_processors_in_use_by_others_are_counted(monkeypatch):
    monkeypatch.setattr(load.time, "perf_counter", iter([10.0, 12.0]).__next__)
    monkeypatch.setattr(load.time, "process_time", iter([1.0, 4.0]).__next__)
    monkeypatch.setattr(load, "_all_work", iter([100.0, 104.0]).__next__)
    assert load.Others().processors() == 0.5  # of 4 s in 2 s, 3 s were our own


def test_where_the_load_is_unknown_nothing_counts_as_disturbed(monkeypatch, tmp_path):
    monkeypatch.setattr(load, "STAT", tmp_path / "no such file")
    assert load.Others().processors() is None
    assert not load.disturbed(None)


def test_waiting_for_quiet_ends_when_it_is_quiet_or_time_is_up(monkeypatch):
    busy = iter([2.0, 2.0, 0.0, 2.0])
    monkeypatch.setattr(load.Others, "processors", lambda self: next(busy))
    load.wait_for_quiet(60, look=0)
    assert next(busy) == 2.0  # it stopped at the first quiet moment
    load.wait_for_quiet(0)  # and does not look at all if there is no time


def blocks(*answers):
    """Return a function that gives one (seconds, others) after the other, as a block would."""
    rest = iter(answers)

    def block():
        seconds, others = next(rest)
        return {"seconds": seconds, "calls": 10, "others": others}

    return block


def test_sides_are_measured_in_turn():
    order = []

    def side(name):
        return lambda: order.append(name) or {"seconds": 1, "calls": 1, "others": 0.0}

    rounds = []
    measure.interleave({"a": side("a"), "b": side("b")}, 3, after_round=lambda: rounds.append(1))
    assert order == ["a", "b"] * 3
    assert len(rounds) == 3


def test_disturbed_blocks_are_repeated_and_counted():
    waits = []
    side = blocks((0.5, 0.0), (9.0, 1.5), (0.7, 0.1), (0.6, None))
    timing = measure.interleave({"a": side}, 3, waits.append)["a"]
    assert timing.blocks == [500, 700, 600]
    assert timing.ms == 600
    assert (timing.dropped, timing.calls, timing.doubtful) == (1, 30, False)
    assert waits == [measure.WAIT]


def test_without_a_quiet_moment_the_least_disturbed_block_is_kept_and_marked():
    side = blocks((9.0, 1.5), (8.0, 0.9), (7.0, 1.1), *[(1.0, 0.0)] * 2)
    timing = measure.interleave({"a": side}, 2, lambda seconds: None)["a"]
    assert timing.blocks == [8000, 1000]
    assert timing.clean == [False, True]
    assert timing.ms == 1000  # the clean ones alone count
    assert timing.dropped == 2
    assert Timing([8.0, 6.0], [False, False]).ms == 7.0
    assert Timing([8.0], [False]).doubtful


# The processes


@pytest.fixture(scope="module")
def worker():
    with Worker("minifcn", threads=1) as worker:
        yield worker


def test_a_worker_builds_times_and_forgets_a_case(worker):
    what = {"peer": "minifcn", "how": {}, "kind": TINY.kind, "settings": TINY.settings}
    built = worker.ask("build", side="a", calls=3, **what)
    assert built["flops"]["step"] > 0
    losses = [loss for (loss,) in built["checks"]["step"]]
    assert losses[0] > losses[2] > 0
    block = worker.ask("block", side="a", task="step", seconds=0.01)
    assert block["calls"] >= 1
    assert block["seconds"] > 0
    memory = worker.ask("memory")
    assert memory["peak"] >= memory["before"] or not memory["reset"]
    worker.ask("drop", side="a")
    with pytest.raises(WorkerError, match="minifcn failed at 'block': KeyError: 'a'"):
        worker.ask("block", side="a", task="step", seconds=0.01)


def test_a_worker_uses_the_threads_it_is_given(worker):
    answer = worker.ask("peak", size=64, threads=1)
    assert answer["gflops"] > 0
    assert all(blas["num_threads"] == 1 for blas in answer["blas"])


def test_a_worker_that_dies_says_how():
    with Worker("the victim", threads=1) as worker:
        worker.ask("hello", peer="minifcn", threads=1)
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="process of the victim was ended by SIGKILL at 'me"):
            worker.ask("memory")
    assert worker.process.returncode is not None


def test_a_worker_that_cannot_start_shows_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "PACKAGES", tmp_path)
    (tmp_path / "minifcn").mkdir()
    (tmp_path / "minifcn" / "__init__.py").write_text("raise SystemError('out of order')")
    with (
        Worker("nobody", threads=1) as worker,
        pytest.raises(WorkerError, match=r"ended \(code 1\) at 'memory'.*out of order"),
    ):
        worker.ask("memory")


def test_what_a_library_prints_does_not_mix_with_answers():
    code = """
import os
from minifcn.bench import worker
worker.ACTIONS["shout"] = lambda: print("noise", flush=True) or os.write(1, b"more") and {"a": 1}
worker.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input='{"do": "shout"}\n',
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(process.PACKAGES)},
        check=True,
    )
    assert json.loads(done.stdout) == {"a": 1}
    assert "noise" in done.stderr


def test_a_worker_without_a_library_says_which_one():
    with Worker("it", threads=1, environment={"PYTHONPATH": str(process.PACKAGES)}) as worker:
        for name in peers.STARTS:
            if sides.missing(name):
                with pytest.raises(MissingError, match="it failed at 'hello': ModuleNotFoundError"):
                    worker.ask("hello", peer=name, threads=1)
