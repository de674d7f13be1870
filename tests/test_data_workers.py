"""Batches made by worker processes."""

import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from listed import Listed, numbered

from minifcn import data
from minifcn.data import Loader, workers
from minifcn.data.workers import by_processes

OPTIONS = {"crop": 24, "flip": True, "rotate": True, "jitter": 0.1, "scale": (0.5, 1.5)}
SHARED = Path("/dev/shm")
linux = pytest.mark.skipif(not SHARED.is_dir(), reason="needs Linux's /dev/shm")


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    """Fail a test that leaves a process or shared memory behind."""
    names = []

    def noted(*arguments, **options):
        memory = SharedMemory(*arguments, **options)
        names.append(memory.name)
        return memory

    monkeypatch.setattr(workers, "SharedMemory", noted)
    yield
    assert multiprocessing.active_children() == []
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)


def take(batches, count):
    """Return some batches, and end the workers."""
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.names == other.names
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.images.strides == other.images.strides  # channels-last, too
        assert one.images.dtype == other.images.dtype
        assert one.labels.dtype == other.labels.dtype
        assert other.images.flags.writeable


# --- the batches


@pytest.mark.parametrize(("count", "prefetch"), [(1, 1), (2, 2), (3, 1)])
def test_batches_are_the_same_for_any_number_of_workers(count, prefetch):
    dataset = data.shapes("train", length=10, size=32)
    alone = take(Loader(dataset, 4, prefetch=0, **OPTIONS).steps(3), 12)
    loader = Loader(dataset, 4, workers=count, prefetch=prefetch, **OPTIONS)
    assert_same(alone, take(loader.steps(3), 12))


def test_batches_in_order_are_the_same():
    images = [numbered(4 + i, 9 - i % 3)._replace(name=str(i)) for i in range(7)]
    alone = list(Loader(Listed(images), 2, sizes="pad").in_order())
    assert len(alone) == 4
    assert_same(alone, list(Loader(Listed(images), 2, sizes="pad", workers=2).in_order()))
    assert_same(alone[:1], take(Loader(Listed(images), 2, sizes="pad", workers=9).in_order(), 1))


def some_arrays(number):
    """Return arrays of many sizes, one of them empty, and other things."""
    size = (number * 37) % 11 * 1000
    return [np.full(size, number), np.arange(5, dtype=np.uint8), {"number": number}]


@pytest.mark.parametrize("memory", ["shared", pytest.param("short", marks=linux)])
def test_results_of_any_size(memory, monkeypatch):
    """They grow and shrink; where memory is short they come through the pipe."""
    through_memory = []
    take_copies = workers.Room.take

    def noted(room, sizes):
        through_memory.append(sizes)
        return take_copies(room, sizes)

    monkeypatch.setattr(workers.Room, "take", noted)
    if memory == "short":
        monkeypatch.setattr(os, "posix_fallocate", _no_space)
    results = list(by_processes(some_arrays, range(30), 2, prefetch=2))
    assert (len(through_memory) > 10) == (memory == "shared")
    for number, (large, small, rest) in enumerate(results):
        np.testing.assert_array_equal(large, some_arrays(number)[0])
        assert small.tolist() == [0, 1, 2, 3, 4]
        assert rest == {"number": number}


def _no_space(*arguments):
    raise OSError(28, "No space left on device")


class Beginning:
    """Notes in a folder which results are begun."""

    def __init__(self, folder):
        self.folder = folder

    def make(self, number):
        Path(self.folder, str(number)).touch()
        return number


def growing(number):
    """Return an array, each larger than the one before, and how much memory is shared here."""
    shared = [line for line in Path("/proc/self/maps").read_text().splitlines() if "psm_" in line]
    return np.zeros(1000 * 2**number), len(shared)


@linux
def test_a_worker_lets_go_of_memory_that_became_too_small():
    shared = [count for _, count in by_processes(growing, range(12), 1, prefetch=2)]
    assert max(shared) <= 2


def test_so_many_are_made_ahead_and_no_more(tmp_path):
    batches = by_processes(Beginning(tmp_path).make, itertools.count(), 2, prefetch=2)
    assert next(batches) == 0
    deadline = time.monotonic() + 20
    while len(list(tmp_path.iterdir())) < 1 + 2 * 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    assert sorted(int(file.name) for file in tmp_path.iterdir()) == [0, 1, 2, 3, 4]
    batches.close()


# --- the processes


def facts(number):
    """Return which process this is, what it has imported, and how many threads it computes with."""
    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return os.getpid(), set(sys.modules), pools


def test_processes_are_light_and_take_turns():
    told = take(by_processes(facts, itertools.count(), 2, prefetch=1), 6)
    ids = [process for process, _, _ in told]
    assert ids == ids[:2] * 3
    assert len({*ids, os.getpid()}) == 3
    for _, modules, pools in told:
        assert set(pools) <= {1}
        assert not modules & {"cupy", "torch", "scipy", "typer", "rich", "onnx"}


class StrangeError(Exception):
    """An error that cannot be unpacked, as its constructor wants more than it was given."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def damaged():
    raise data.DataError("5.png: file is damaged")


def unknown():
    raise KeyError("five")


def strange():
    raise StrangeError(1, 2)


class Failing(Listed):
    """A data set of which one sample cannot be read."""

    def __init__(self, samples, fail):
        super().__init__(samples)
        self.fail = fail

    def __getitem__(self, index):
        return self.fail() if index == 5 else super().__getitem__(index)


@pytest.mark.parametrize(
    ("fail", "kind", "message"),
    [
        (damaged, data.DataError, r"^5\.png: file is damaged$"),
        (unknown, KeyError, "five"),
        (strange, data.DataError, "^StrangeError in a worker process: 1 and 2$"),
    ],
)
def test_an_error_comes_when_its_batch_is_due(fail, kind, message):
    batches = Loader(Failing([numbered(4, 4)] * 8, fail), 2, workers=2).in_order()
    assert len(list(itertools.islice(batches, 2))) == 2
    with pytest.raises(kind) as caught:
        next(batches)
    assert re.search(message, str(caught.value))
    if kind is not data.DataError or fail is damaged:
        assert f"in {fail.__name__}" in caught.value.__notes__[0]
    assert list(batches) == []


def slow(number):
    time.sleep(0 if number < 2 else 60)
    return number


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_killed_worker_is_an_error_at_once(name):
    batches = by_processes(slow, itertools.count(), 2, prefetch=1)
    assert [next(batches), next(batches)] == [0, 1]
    victim = min(multiprocessing.active_children(), key=lambda process: process.pid)
    threading.Timer(0.2, os.kill, (victim.pid, getattr(signal, name))).start()
    start = time.monotonic()
    message = f"worker process {victim.pid} ended before its time .*{name}.*choose fewer workers"
    with pytest.raises(data.DataError, match=message):
        list(batches)
    assert time.monotonic() - start < 10


def leaving(number):
    os._exit(3)


def test_a_worker_that_leaves():
    with pytest.raises(data.DataError, match=r"ended before its time \(exit code 3\)"):
        next(by_processes(leaving, itertools.count(), 1, prefetch=2))


def test_closing_does_not_wait_for_slow_workers():
    batches = by_processes(slow, itertools.count(), 2, prefetch=2)
    next(batches)
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 5


# --- what cannot be sent


def test_a_data_set_that_cannot_be_pickled():
    class Local(Listed):
        pass

    message = "the data set cannot be sent to worker processes: .*Local.*or choose workers=0"
    with pytest.raises(data.DataError, match=message):
        next(Loader(Local([numbered(4, 4)]), workers=1).steps())


def test_a_data_set_whose_class_the_workers_do_not_find(monkeypatch):
    monkeypatch.setitem(sys.modules, "only_here", types.ModuleType("only_here"))
    sys.modules["only_here"].Elsewhere = type("Elsewhere", (Listed,), {"__module__": "only_here"})
    dataset = sys.modules["only_here"].Elsewhere([numbered(4, 4)])
    message = "cannot be rebuilt in a worker process: No module named 'only_here': .* workers=0"
    with pytest.raises(data.DataError, match=message):
        next(Loader(dataset, workers=1).steps())


# --- scripts

SCRIPT = """
from minifcn.data import Loader, shapes

def run():
    batches = Loader(shapes("train"), 8, workers=2).steps()
    for _ in range(6):
        next(batches)
    print("ready", flush=True)
    return batches
"""


INTERRUPTED = """
if __name__ == "__main__":
    import time

    batches = run()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.5)
        raise
"""


def start_script(tmp_path, end):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT + end)
    # In a session of its own, so that Ctrl-C can be sent to it and all its workers.
    return subprocess.Popen(
        [sys.executable, str(file)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_script_that_runs_when_it_is_imported(tmp_path):
    script = start_script(tmp_path, "run()")
    told = script.communicate(timeout=60)[1]
    assert script.returncode == 1
    last = told.strip().splitlines()[-1]
    assert "Worker processes import the script that needs them: put what the script does" in last
    assert last.endswith("or choose workers=0")


def test_a_script_that_never_closes_its_batches(tmp_path):
    end = 'if __name__ == "__main__":\n    batches = run()\n    also = [batches]\n'
    script = start_script(tmp_path, end + "    also.append(also)\n")
    assert script.communicate(timeout=60) == ("ready\n", "")
    assert script.returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_ctrl_c_ends_the_workers_quietly(tmp_path):
    # The step that is interrupted takes its time, so the workers must not hear of it themselves.
    script = start_script(tmp_path, INTERRUPTED)
    assert script.stdout.readline() == "ready\n"
    os.killpg(script.pid, signal.SIGINT)
    told = script.communicate(timeout=60)[1]  # ends when nobody is left who could write
    assert told.count("Traceback") == 1
    assert told.strip().splitlines()[-1] == "KeyboardInterrupt"
