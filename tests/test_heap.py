"""Memory that was freed is used again at once, where the C library can be told so."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minifcn.kernels import threads
from minifcn.kernels.heap import keep_freed_memory

COUNT_FAULTS = """
import resource
import numpy as np
from minifcn.kernels.heap import keep_freed_memory
if {keep}: assert keep_freed_memory()
for step in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (1, 3, 7, 40):
        np.empty(megabytes << 20, np.uint8).fill(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library has no mallopt")
def test_the_pages_of_freed_arrays_are_kept():
    def faults(keep):
        code = COUNT_FAULTS.format(keep=keep)
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return int(found.stdout)

    assert faults(keep=True) < 10 < faults(keep=False)


def test_elsewhere_it_says_that_it_cannot(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


@pytest.fixture
def buffers(monkeypatch):
    """The list of large buffers, empty, where 1000 bytes are large."""
    monkeypatch.setattr(threads, "RECYCLED", 1000)
    monkeypatch.setattr(threads, "_large", [])
    return threads._large


def place(array):
    return array.__array_interface__["data"][0]


def test_the_memory_of_a_large_array_is_used_again(buffers):
    first = threads.aligned((50, 60))
    where = place(first)
    del first
    assert place(threads.aligned((60, 49))) == where
    assert len(buffers) == 1


@pytest.mark.parametrize(
    "keep",
    [
        lambda a: a,
        lambda a: a[3:],
        lambda a: a.T.reshape(-1),
        lambda a: a.view(np.int32)[..., None],
    ],
    ids=["itself", "a slice", "a flat view", "another type"],
)
def test_memory_that_somebody_sees_is_left_alone(buffers, keep):
    array = threads.aligned((40, 50)).T
    array[...] = 7
    view = keep(array)
    assert np.shares_memory(view, array)
    del array
    others = [threads.aligned((40, 50)) for _ in range(3)]
    for other in others:
        other[...] = 1
        assert not np.shares_memory(other, view)
    assert (view.view(np.float32) == 7).all()


def test_free_buffers_of_another_size_are_forgotten(buffers):
    arrays = [threads.aligned((n,)) for n in (400, 600, 900)]
    del arrays
    assert len(buffers) == 3
    larger = threads.aligned((5000,))
    assert len(buffers) == 1
    assert larger.size == 5000


def test_small_arrays_are_not_kept(buffers):
    assert threads.aligned((100,)).size == 100
    assert not buffers


def test_threads_never_get_the_same_memory(buffers):
    def work(number):
        for _ in range(200):
            array = threads.aligned((300,))
            array[...] = number
            assert (array == number).all()
            del array
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))
