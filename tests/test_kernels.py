"""The threads below the operations, and what must not depend on them: the results."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import minifcn.functional as F
from minifcn import Tensor, nn
from minifcn.autograd import PRIMITIVES
from minifcn.kernels import im2col, pooling, threads, tiles
from minifcn.kernels.threads import parallel_for, workspace

ROOT = Path(__file__).parent.parent
ON_CPU = np.zeros(0)


@pytest.fixture
def threads_are(monkeypatch):
    """Return a function that sets the number of threads for the rest of the test."""
    pools = []

    def set_to(count):
        threads._pool.cache_clear()
        monkeypatch.setattr(threads, "num_threads", lambda: count)
        pools.append(threads._pool())

    before = threads._pool()
    yield set_to
    threads._pool.cache_clear()
    for pool in [*pools, before]:
        pool.shutdown()


def python(code, **environment):
    """Run code in a fresh interpreter; return its output, or raise with its error."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- parallel_for --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_every_index_once(threads_are, number):
    threads_are(number)
    for count in (0, 1, 2, 7, 100):
        done = []  # append is atomic
        parallel_for(count, done.append, ON_CPU)
        assert sorted(done) == list(range(count))


def test_several_threads_work_at_once(threads_are):
    threads_are(3)
    meeting = threading.Barrier(3)
    parallel_for(3, lambda i: meeting.wait(timeout=30), ON_CPU)  # one thread alone would wait


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("bad", [0, 5, 19])
def test_an_exception_reaches_the_caller(threads_are, number, bad):
    threads_are(number)

    def body(i):
        if i == bad:
            raise KeyError(i)

    with pytest.raises(KeyError, match=str(bad)):
        parallel_for(20, body, ON_CPU)
    done = []
    parallel_for(20, done.append, ON_CPU)  # and leaves everything in order
    assert sorted(done) == list(range(20))


def test_nobody_returns_before_the_last_share_is_done(threads_are):
    """Else arrays would change after an error was caught. One helper fails, one is slow."""
    threads_are(3)
    for failing in ("_0", "_1"):
        meeting, working = threading.Barrier(3), []

        def body(i, failing=failing, meeting=meeting, working=working):
            meeting.wait(timeout=30)
            name = threading.current_thread().name
            if name.endswith(failing):
                raise KeyError(name)
            if name.startswith("minifcn"):
                working.append(i)
                time.sleep(0.2)
                working.remove(i)

        with pytest.raises(KeyError):
            parallel_for(3, body, ON_CPU)
        assert working == []


def test_calls_inside_calls_run_right_there(threads_are):
    threads_are(3)  # one more than the outer call can use
    done = []

    def outer(i):
        here = threading.get_ident()

        def inner(j):
            time.sleep(0.005)  # time enough for another thread to come in
            done.append((i, j, threading.get_ident() == here))

        parallel_for(5, inner, ON_CPU)

    parallel_for(2, outer, ON_CPU)
    assert sorted(done) == [(i, j, True) for i in range(2) for j in range(5)]


def test_calls_from_several_threads_at_once(threads_are):
    threads_are(2)
    results = [np.zeros(200) for _ in range(5)]

    def count_up(result):
        for _ in range(20):
            parallel_for(len(result), lambda i: result.__setitem__(i, result[i] + 1), ON_CPU)

    users = [threading.Thread(target=count_up, args=(result,)) for result in results]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert all((result == 20).all() for result in results)
    assert threads._one_blas_thread.users == 0


def blas_threads():
    """Return the threads of NumPy's BLAS (other libraries, such as OpenCV, bring their own)."""
    known = {library["filepath"] for library in threads.blas().info()}
    return [
        library["num_threads"]
        for library in threadpool_info()
        if library["user_api"] == "blas" and library["filepath"] in known
    ]


def test_blas_has_one_thread_inside_and_its_own_number_after(threads_are):
    threads_are(2)
    with threadpool_limits(limits=2, user_api="blas"):
        before, inside = blas_threads(), []
        assert set(before) == {2}
        parallel_for(4, lambda i: inside.append(blas_threads()), ON_CPU)
        assert blas_threads() == before
        assert {number for numbers in inside for number in numbers} == {1}
        with pytest.raises(KeyError):
            parallel_for(4, lambda i: {}[i], ON_CPU)
        assert blas_threads() == before


@pytest.mark.parametrize("number", ["1", "3"])
def test_the_environment_sets_the_number_of_threads(number):
    code = "from minifcn.kernels.threads import num_threads; print(num_threads())"
    assert python(code, MINIFCN_NUM_THREADS=number).strip() == number


def test_without_the_environment_there_is_one_thread_per_processor_we_may_use():
    code = "from minifcn.kernels.threads import num_threads; print(num_threads())"
    assert int(python(code, MINIFCN_NUM_THREADS="")) == len(os.sched_getaffinity(0))


def test_a_thread_that_cannot_be_started_is_a_clear_error(threads_are, monkeypatch):
    threads_are(3)

    def refused(*given, **more):  # as under ulimit -u
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(threads.ThreadError, match=r"one more thread.*: MINIFCN_NUM_THREADS=1"):
            parallel_for(3, lambda i: None, ON_CPU)
    with pytest.raises(RuntimeError, match="of another kind"), threads.starting_threads():
        raise RuntimeError("of another kind")


def test_no_thread_works_on_when_another_cannot_be_started(threads_are, monkeypatch):
    threads_are(3)
    start, began, done = threading.Thread.start, [], []

    def only_the_first(thread):
        if began:
            raise RuntimeError("can't start new thread")
        began.append(thread)
        start(thread)

    def body(number):
        time.sleep(0.05)
        done.append(number)

    monkeypatch.setattr(threading.Thread, "start", only_the_first)
    with pytest.raises(threads.ThreadError):
        parallel_for(3, body, ON_CPU)
    assert done in ([], [0, 1, 2])  # none, if it was caught before it began
    before = list(done)
    time.sleep(0.2)
    assert done == before


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", " "])
def test_a_bad_number_of_threads_is_an_error(monkeypatch, text):
    monkeypatch.setenv("MINIFCN_NUM_THREADS", text)
    with pytest.raises(threads.ThreadCountError, match=r"MINIFCN_NUM_THREADS=.* whole number"):
        threads.num_threads.__wrapped__()


def test_a_forked_child_has_threads_of_its_own():
    """The parent's threads do not exist in the child: they would never come to the meeting."""
    code = """
import os
import threading
import numpy as np
from minifcn.kernels.threads import parallel_for

def all_come():
    meeting = threading.Barrier(3)
    parallel_for(3, lambda i: meeting.wait(timeout=5), np.zeros(0))

all_come()
child = os.fork()
if child == 0:
    try:
        all_come()
    except threading.BrokenBarrierError:
        os._exit(1)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
all_come()
"""
    # Newer Pythons warn about a fork beside threads: that is what is tried here.
    assert python(code, MINIFCN_NUM_THREADS="3", PYTHONWARNINGS="ignore").strip() == "0"


# ---- the same bits from any number of threads ----------------------------------------------------

GEOMETRIES = [  # x (N, C, H, W), outputs, kernel, stride, padding, dilation, groups
    ((2, 8, 70, 60), 12, (3, 3), 1, 1, 1, 1),
    ((1, 32, 90, 90), 16, (3, 3), 1, 1, 1, 1),
    ((5, 6, 21, 20), 9, (3, 2), (2, 1), (1, 0), (1, 2), 3),
    ((3, 16, 40, 40), 24, (1, 1), 1, 0, 1, 1),
    ((1, 5, 31, 30), 5, (4, 4), 2, 1, 1, 1),
]


def everything(geometry):
    """Return the bytes of all threaded kernels on one geometry."""
    shape, O, kernel, *how = geometry
    stride, padding, dilation, groups = how
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    weight = rng.normal(size=(O, shape[1] // groups, *kernel)).astype(np.float32)
    y = F.conv2d(x, weight, None, *how)
    tent = nn.init.bilinear_(Tensor(np.zeros((O, O, 4, 4), np.float32))).data
    pooled = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    results = [
        y,
        F.conv2d_weight(x, y, kernel, *how),
        F.conv_transpose2d(y, weight, None, stride, padding, 0, groups, dilation),
        F.conv_transpose2d(y, tent, stride=2),
        F.conv2d(y, tent, stride=2),
        pooled,
        PRIMITIVES["max_scatter"](pooled, x, pooled, 3, 2, 1, 1),
        F.avg_pool2d(x, 3, 2, 1),
        F.softmax(x, 1),
        PRIMITIVES["softmax_error"](x, labels, (labels + 0.5).astype(np.float32)),
        F.cross_entropy(x, labels, reduction="none"),
    ]
    return [result.tobytes() for result in results]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_results_do_not_depend_on_the_number_of_threads(threads_are, geometry):
    found = []
    for number in (1, 2, 3, 3):
        threads_are(number)
        found.append(everything(geometry))
    assert found[0] == found[1] == found[2] == found[3]


def test_a_training_step_does_not_depend_on_the_number_of_threads():
    code = """
import hashlib
import json
import numpy as np
import minifcn.functional as F
from minifcn import Tensor, models, optim

rng = np.random.default_rng(0)
net = models.fcn8s(5, "small", rng=rng)
sgd = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
x = Tensor(rng.normal(size=(3, 3, 64, 80)).astype(np.float32))
target = rng.integers(0, 5, (3, 64, 80))
losses = []
for _ in range(3):
    loss = F.cross_entropy(net(x), target)
    sgd.zero_grad()
    loss.backward()
    sgd.step()
    losses.append(loss.item())
digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in net.parameters())).hexdigest()
print(json.dumps([losses, digest]))
"""
    first, *others = [json.loads(python(code, MINIFCN_NUM_THREADS=n)) for n in "123"]
    assert others == [first, first]
    assert len(set(first[0])) == 3


# ---- tiles and workspaces ------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 27, 576, 25088])
@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 7), (40, 30), (500, 3), (3, 5000)])
def test_tiles_cover_the_output_exactly_once(n, height, width, patch):
    covered = np.zeros((n, height), int)
    plan = im2col.tiles(n, height, width, patch)
    for tile in plan:
        covered[tile.images, tile.rows] += 1
    assert (covered == 1).all()
    assert n == 1 or len(plan) >= 2, "nothing for the second thread to do"


def test_there_are_no_tiles_of_no_image():
    assert im2col.tiles(0, 4, 4, 9) == []


def test_a_workspace_is_used_again_and_grows():
    def base(array):
        return array.__array_interface__["data"][0]

    small = workspace("test", (4, 5), np.zeros(1, np.float32))
    large = workspace("test", (40, 5), np.zeros(1, np.float32))
    again = workspace("test", (6, 7), np.zeros(1, np.float32))
    assert (small.shape, large.shape, again.shape) == ((4, 5), (40, 5), (6, 7))
    assert base(again) == base(large)
    assert again.dtype == np.float32
    assert workspace("test", (2,), np.zeros(1)).dtype == np.float64
    assert not np.shares_memory(again, workspace("other", (6, 7), again))


def test_every_thread_has_its_own_workspace():
    mine, others = workspace("test", (8,), np.zeros(1)), []
    thread = threading.Thread(target=lambda: others.append(workspace("test", (8,), np.zeros(1))))
    thread.start()
    thread.join()
    assert not np.shares_memory(mine, others[0])


def test_layers_of_different_sizes_in_turn_leave_nothing_behind(rng):
    """Workspaces keep their content: whatever a layer does not write must not be read by it.

    Some of these have the same width times channels, so that a border of zeros kept from one
    would lie in the middle of another.
    """
    plan = [
        ((1, 4, 9, 6), 3, 1),
        ((1, 6, 9, 4), 3, 1),  # the same product of width and channels
        ((2, 3, 5, 8), 5, 3),
        ((1, 24, 3, 1), 3, 2),
        ((1, 1, 9, 24), 3, 1),
        ((1, 4, 9, 6), 3, 0),
        ((1, 2, 1, 5), 1, 10),  # so much padding that whole tiles lie in it
    ]
    layers = []
    for shape, k, padding in plan:
        x, weight = rng.normal(size=shape), rng.normal(size=(2, shape[1], k, k))
        alone = np.zeros(
            (shape[0], 2, shape[2] + 2 * padding - k + 1, shape[3] + 2 * padding - k + 1)
        )
        wide = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        for a in range(k):
            for b in range(k):
                part = wide[:, :, a : a + alone.shape[2], b : b + alone.shape[3]]
                alone += np.einsum("nchw,oc->nohw", part, weight[:, :, a, b])
        layers.append((x, weight, padding, alone))
    for turn in rng.integers(0, len(layers), 60):
        x, weight, padding, expected = layers[turn]
        y = F.conv2d(x, weight, padding=padding)
        np.testing.assert_allclose(y, expected, atol=1e-12)
        g = np.ones_like(expected)
        w = F.conv2d_weight(x, g, weight.shape[2:], padding=padding)
        np.testing.assert_allclose((w * weight).sum(), expected.sum(), atol=1e-9)


def test_what_depends_on_sizes_alone_is_computed_once():
    net = nn.Sequential(nn.Conv2d(2, 3, 5, padding=2), nn.MaxPool2d(3, 2), nn.Conv2d(3, 2, 3))
    x = Tensor(np.random.default_rng(0).normal(size=(2, 2, 13, 11)).astype(np.float32))
    misses = []
    for _ in range(2):
        net(x).sum().backward()
        misses.append([f.cache_info().misses for f in (tiles.cut, pooling.regions)])
    assert misses[0] == misses[1]


def test_the_weight_gradient_of_no_image_is_zero():
    settings = (1, 1), (0, 0), (1, 1), 1
    x, g = np.zeros((0, 4, 4, 3), np.float32), np.zeros((0, 2, 2, 5), np.float32)
    for _ in range(20):
        np.full((3 * 3 * 3, 5), np.nan, np.float32)  # the next array may get this one's memory
        assert not im2col.conv2d_weight(x, g, (3, 3), *settings).any()
