"""The stand-in for CuPy: it behaves as CuPy does, refuses what must not happen, and counts.

Tests that take ``cupy`` state what CuPy does: they run on the stand-in, and on CuPy where there is
a GPU. What is stricter than CuPy, and what is counted, is asked of the stand-in alone.
"""

import copy
import gc
import pickle
import sys
from contextlib import suppress

import numpy as np
import pytest
import standin as S


def channels_last(xp, shape=(2, 3, 4, 5)):
    n, c, h, w = shape
    return xp.arange(n * c * h * w, dtype="f4").reshape(n, h, w, c).transpose(0, 3, 1, 2)


# What CuPy does


def test_numbers_without_axes_stay_on_the_gpu(cupy):
    x = cupy.arange(6, dtype="f4").reshape(2, 3)
    for result in (x.sum(), x[1, 2], x.max(), cupy.count_nonzero(x), cupy.allclose(x, x)):
        assert isinstance(result, cupy.ndarray)
        assert result.shape == ()
    assert (float(x.sum()), int(x[1, 2]), bool(cupy.allclose(x, x))) == (15.0, 5, True)
    assert x.max().item() == 5.0
    with pytest.raises(ValueError, match="size 1"):
        x.item()
    with pytest.raises(TypeError):
        range(x[1, 1])  # an array is no index


def test_operators_and_ufuncs(cupy):
    x = cupy.asarray(np.array([[1.0, -2.0], [3.0, np.nan]], "f4"))
    y = 2 - x * x / 2
    y += 1
    np.testing.assert_allclose(y.get(), 3 - x.get() ** 2 / 2)
    assert y.dtype == np.float32
    assert (x == x).get().tolist() == [[True, True], [True, False]]
    assert (x > 0).dtype == bool
    np.testing.assert_array_equal(abs(-x).get(), abs(x.get()))
    # NumPy hands it over. A GPU rounds exp otherwise.
    np.testing.assert_allclose(np.exp(x).get(), np.exp(x.get()), rtol=3e-7)
    assert isinstance(np.sum(x), cupy.ndarray)
    np.testing.assert_array_equal((~(x > 0) | (x > 2)).get(), [[False, True], [True, True]])
    assert cupy.exp(cupy.asarray(np.float32(1000)).reshape(1))[0] == np.inf  # and no warning
    out = cupy.empty((2, 2), "f4")
    assert cupy.maximum(x, 0, out=out) is out
    with pytest.raises((TypeError, ValueError), match="cast"):
        out += cupy.ones((2, 2), "c8")


def test_products(cupy):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 3, 5)).astype("f4"), rng.normal(size=(5, 2)).astype("f4")
    x, y = cupy.asarray(a), cupy.asarray(b)
    np.testing.assert_allclose((x @ y).get(), a @ b, rtol=1e-5, atol=1e-6)
    out = cupy.zeros((2, 4), "f4").T  # not contiguous
    cupy.matmul(x[:, 1], y, out=out)
    np.testing.assert_allclose(out.get(), a[:, 1] @ b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x, a: x + a,
        lambda x, a: a + x,
        lambda x, a: x == a,
        lambda x, a: x @ a,
        lambda x, a: x.__iadd__(a),
        lambda x, a: a.__iadd__(x),
        lambda x, a: np.maximum(x, a),
        lambda x, a: np.asarray(x),
        lambda x, a: float(np.sum(np.asarray(x))),
        lambda x, a: x.__setitem__(0, a[0]),
        lambda x, a: x.__setitem__(0, [1, 2]),
        lambda x, a: sys.modules["cupy"].where(x > 0, a, x),
        lambda x, a: sys.modules["cupy"].concatenate([x, a]),
    ],
)
def test_arrays_of_numpy_do_not_mix_with_those_of_cupy(cupy, mixed):
    x, a = cupy.ones((2, 2), "f4"), np.ones((2, 2), "f4")
    with pytest.raises((TypeError, ValueError)):
        mixed(x, a)
    assert x.get().tolist() == a.tolist() == [[1, 1], [1, 1]]


def test_results_lie_row_by_row(cupy):
    """Unlike NumPy's, which have the memory order of what they were computed from."""
    x = channels_last(cupy)
    assert not x.flags.c_contiguous
    for result in (
        x + 1,
        cupy.maximum(x, 0),
        cupy.where(x > 3, x, 0),
        cupy.concatenate([x, x], axis=1),
        x.sum(axis=0),
        x[cupy.asarray([1, 0])],
        cupy.ascontiguousarray(x),
    ):
        assert result.flags.c_contiguous
    assert x.copy().flags.c_contiguous
    assert x.copy(order="K").strides == x.strides
    assert x.astype("f8").strides == tuple(2 * n for n in x.strides)
    assert cupy.empty_like(x).strides == x.strides
    assert cupy.zeros_like(x, shape=(1, 3, 2, 2)).strides == (48, 4, 24, 12)
    assert cupy.full_like(x, 7).strides == x.strides


def test_transfers_lose_any_order_but_rows_and_columns_first(cupy):
    a = channels_last(np)
    assert cupy.asarray(a, order="K").flags.c_contiguous
    x = cupy.asarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert x.get().flags.c_contiguous
    assert x.get(order="A").flags.c_contiguous
    assert cupy.asarray(np.ones((2, 3)).T).flags.f_contiguous
    np.testing.assert_array_equal(x.get(), a)
    with pytest.raises(RuntimeError, match="non-contiguous"):
        x.set(a)
    y = cupy.empty((2, 3), "f4")
    y.set(np.full((2, 3), 5, "f4"))
    assert y.get().tolist() == [[5, 5, 5]] * 2


def test_views_share_memory_and_copies_do_not(cupy):
    x = cupy.zeros((4, 6), "f4")
    for view in (x[1:], x.T, x.reshape(3, 8), x[None], x.view("i4"), x.ravel(), x[2, 3], x.view()):
        assert cupy.may_share_memory(view, x)
    for other in (x + 0, x.T.reshape(-1), x.copy(), x[cupy.asarray([0])], x.astype("f4")):
        assert not cupy.may_share_memory(other, x)
    for pair in ((x, np.zeros(3)), (np.zeros(3), x)):
        with pytest.raises(TypeError, match="incorrect type"):  # CuPy knows its own alone
            cupy.may_share_memory(*pair)
    assert x.astype("f4", copy=False) is x
    assert cupy.asarray(x) is x
    x[1:3, ::2] = 5
    x.T[0] += cupy.ones(4, "f4")
    assert x.get().sum() == 34
    windows = cupy.lib.stride_tricks.as_strided(x, (3, 6), (24, 4))
    assert windows.get().tolist() == x.get()[:3].tolist()


def test_places_and_masks(cupy):
    x = cupy.arange(12, dtype="f4").reshape(3, 4)
    np.testing.assert_array_equal(x[x > 5].get(), np.arange(6, 12))
    np.testing.assert_array_equal(x[:, cupy.asarray([3, 0])].get(), x.get()[:, [3, 0]])
    x[x > 5] = -1
    x[cupy.asarray([0]), cupy.asarray([1])] = 9
    cupy.copyto(x, 0, where=x == 2)
    assert x.get().tolist() == [[0, 9, 0, 3], [4, 5, -1, -1], [-1, -1, -1, -1]]
    assert [row.shape for row in x] == [(4,)] * 3


@pytest.mark.parametrize("name", ["nditer", "errstate", "asmatrix", "loadz"])
def test_names_that_cupy_lacks(cupy, name):
    with pytest.raises(AttributeError, match=name):
        getattr(cupy, name)


@pytest.mark.parametrize(
    "call",
    [
        lambda xp, x: xp.add(x, x, where=x > 0),
        lambda xp, x: xp.sum(x, initial=1),
        lambda xp, x: x.sum(where=x > 0),
        lambda xp, x: xp.add(x, x, order="F"),
        lambda xp, x: xp.ones((2, 2), device="cpu"),
    ],
)
def test_arguments_that_cupy_lacks(cupy, call):
    with pytest.raises(TypeError):
        call(cupy, cupy.ones((2, 2)))


def test_types_that_cupy_lacks(cupy):
    with pytest.raises((ValueError, TypeError)):
        cupy.asarray(np.array(["a", "b"]))
    with pytest.raises((ValueError, TypeError)):
        cupy.zeros(2, np.longdouble)


def test_copies_by_pickle_and_copy(cupy):
    x = cupy.arange(3, dtype="f4")
    for other in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert isinstance(other, cupy.ndarray)
        assert not cupy.may_share_memory(other, x)
        np.testing.assert_array_equal(other.get(), [0, 1, 2])


def test_memory_comes_from_a_pool(cupy):
    gc.collect()
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.used_bytes()
    x = cupy.empty(1000, "f4")
    view = x[5:]
    assert pool.used_bytes() - before == 4096  # rounded up to multiples of 512
    del x
    assert pool.used_bytes() - before == 4096
    del view
    assert pool.used_bytes() == before
    assert pool.total_bytes() - before >= 4096
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + 10_000)
    try:
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match=r"allocating 40,448 bytes"):
            cupy.empty(10_000, "f4")
        assert cupy.empty(2000, "f4").size == 2000
    finally:
        pool.set_limit(size=0)


def test_streams_and_events(cupy):
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        assert cupy.cuda.get_current_stream() == stream
        start.record()
        x = cupy.ones(3) + 1
        end.record()
    stream.synchronize()
    end.synchronize()
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
    assert x.get().tolist() == [2, 2, 2]


SUMS = r"""
extern "C" __global__ void add(const float* a, float* sum, float more, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) sum[i] = a[i] + more;
}
"""


NOT_RECORDED = [
    lambda cp, a: a.get(),
    lambda cp, a: a.sum().item(),
    lambda cp, a: bool((a > 0).all()),
    lambda cp, a: cp.asarray(np.ones(3)),
    lambda cp, a: a.set(np.ones((3, 3), np.float32), cp.cuda.get_current_stream()),
    lambda cp, a: cp.full((3, 3), a.sum()),  # looks whether it is 0
    lambda cp, a: a.fill(a.sum()),
    lambda cp, a: a[a > 0],
    lambda cp, a: a[[0, 2]],
    lambda cp, a: cp.nonzero(a),
    lambda cp, a: cp.nanmax(a),
    lambda cp, a: a @ a,
    lambda cp, a: a[None] @ a[None],
    lambda cp, a: a.astype(float) @ a.astype(float),
    lambda cp, a: cp.dot(a, a),
    lambda cp, a: a.dot(a),
    lambda cp, a: cp.stack([a] * 9),  # sends a table of their places
    lambda cp, a: cp.concatenate([a] * 9),
]


def check_refused_while_recording(cupy, call):
    a = cupy.ones((3, 3), np.float32)
    call(cupy, a)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(Exception, match=r"[cC]aptur"):  # CuPy and CUDA have several types
                call(cupy, a)
        finally:
            with suppress(Exception):  # because of the error, a GPU refuses this, too
                stream.end_capture()


@pytest.mark.parametrize("call", NOT_RECORDED)
def test_what_cupy_does_not_record(cupy, call):
    check_refused_while_recording(cupy, call)


@pytest.mark.parametrize(
    "call",
    [
        lambda cp, a: a.sort(),
        lambda cp, a: cp.argsort(a),
        lambda cp, a: cp.median(a),
        lambda cp, a: cp.tensordot(a, a),
        lambda cp, a: cp.cuda.Device().synchronize(),
    ],
)
def test_what_the_standin_does_not_record_either(standin, call):
    check_refused_while_recording(standin, call)


def test_few_arrays_are_joined_without_a_table(cupy):
    a = cupy.ones((3, 3), np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        joined = cupy.stack([a] * 8)
        graph = stream.end_capture()
    graph.launch()
    assert joined.get().all()


def test_raw_kernels(cupy):
    kernel = cupy.RawModule(code=SUMS, options=("-std=c++17",)).get_function("add")
    x, y = cupy.arange(5, dtype="f4"), cupy.empty(5, "f4")
    kernel((2,), (4,), (x, y, np.float32(0.5), np.int32(5)))
    assert y.get().tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]


# What the stand-in refuses beyond that


def test_what_nobody_wrote_is_not_zero(standin):
    assert np.isnan(standin.empty((2, 3), "f4").get()).all()
    assert np.isnan(standin.empty_like(channels_last(standin)).get()).all()


def test_two_devices(standin):
    x = standin.ones((2, 2), "f4")
    with standin.cuda.Device(1):
        y = standin.ones((2, 2), "f4")
        assert (x.device.id, y.device.id) == (0, 1)
        assert standin.get_default_memory_pool().used_bytes() == 512
        with pytest.raises(ValueError, match=r"resides \(0\) is different from the current device"):
            y + x
        moved = standin.asarray(x)
        assert moved.device.id == 1
        with standin.cuda.Device(0):
            images = channels_last(standin)
        with pytest.raises(NotImplementedError, match="non-contiguous array between devices"):
            images.copy(order="K")
    with pytest.raises(ValueError, match=r"resides \(1\)"):
        y * 2
    assert y.get().sum() == 4  # reading is possible from anywhere
    with pytest.raises(RuntimeError, match="invalid device ordinal"), standin.cuda.Device(2):
        pass
    assert standin.cuda.Device().id == 0


def test_kernels_take_no_arrays_from_elsewhere(standin):
    kernel = standin.RawModule(code=SUMS).get_function("add")
    x, more, n = standin.ones(4, "f4"), np.float32(1), np.int32(4)
    with standin.cuda.Device(1):
        y = standin.ones(4, "f4")
    with pytest.raises(ValueError, match=r"resides \(1\)"):
        kernel((1,), (4,), (x, y, more, n))
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy\.ndarray'>"):
        kernel((1,), (4,), (np.ones(4, "f4"), x, more, n))


def test_places_outside_of_an_array(standin):
    x = standin.ones(4)
    with pytest.raises(IndexError):
        x[standin.asarray([4])]  # CuPy takes the first one then
    with pytest.raises(IndexError, match="leaves the memory"):
        standin.lib.stride_tricks.as_strided(x, (2, 4), (16, 8))


@pytest.mark.parametrize("name", ["random", "fft", "linalg"])
def test_libraries_that_are_not_installed(standin, name):
    with pytest.raises(ImportError, match=f"cupy.{name} needs a library of CUDA"):
        getattr(standin, name)


def test_what_it_does_not_know_yet_is_no_missing_name(standin):
    with pytest.raises(NotImplementedError, match=r"has no cupy\.ElementwiseKernel yet"):
        standin.ElementwiseKernel  # noqa: B018
    with pytest.raises(NotImplementedError, match=r"has no ndarray\.scatter_add yet"):
        standin.ones(2).scatter_add(0, 1)
    with pytest.raises(NotImplementedError, match=r"has no cupy\.cuda\.Graph yet"):
        standin.cuda.Graph  # noqa: B018


# What it counts


def counted(call, *arguments):
    with S.counting() as seen:
        call(*arguments)
    return {n: v for n, v in vars(seen).items() if v and n != "places"}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda xp, x: x + 1, {"launches": 1}),
        (lambda xp, x: xp.exp(x, out=x), {"launches": 1}),
        (lambda xp, x: x.sum(), {"launches": 1}),
        (lambda xp, x: x.T[1:].reshape(-1)[None], {"launches": 1}),  # the reshape is a copy
        (lambda xp, x: x.reshape(-1)[2:].view("i4"), {}),
        (lambda xp, x: x @ x, {"products": 1}),
        (lambda xp, x: x[:2, :2] @ x[:2, :2], {"launches": 2, "products": 1}),  # each is copied
        (
            lambda xp, x: xp.matmul(x, x, out=xp.empty((4, 4), "f4").T),
            {"launches": 1, "products": 1},
        ),
        (lambda xp, x: xp.matmul(x[None], x[None]), {"products": 1}),
        (lambda xp, x: xp.copyto(x, 0, where=x > 1), {"launches": 2}),
        (lambda xp, x: x.__setitem__(0, 3), {"launches": 1}),
        (lambda xp, x: xp.empty((3, 0), "f4") + 1, {}),
        (lambda xp, x: xp.asarray(np.ones(3)), {"to_gpu": 1}),
        (lambda xp, x: xp.asarray(x), {}),
        (lambda xp, x: x.get(), {"to_cpu": 1, "waits": 1}),
        (lambda xp, x: x.T[:2].get(), {"launches": 1, "to_cpu": 1, "waits": 1}),
        (lambda xp, x: float(x[0, 0]), {"to_cpu": 1, "waits": 1}),
        (lambda xp, x: bool(x[0, 0]), {"to_cpu": 1, "waits": 1}),
        (lambda xp, x: x[0, 0].item(), {"to_cpu": 1, "waits": 1}),
        (lambda xp, x: str(x), {"to_cpu": 1, "waits": 1}),
        (lambda xp, x: x[x > 0], {"launches": 2, "waits": 1}),
        (lambda xp, x: x[[0, 1]], {"launches": 1, "to_gpu": 1}),
        (lambda xp, x: x.nonzero(), {"launches": 2, "waits": 1}),
        (lambda xp, x: xp.unique(x), {"launches": 1, "waits": 1}),
        (lambda xp, x: xp.cuda.runtime.deviceSynchronize(), {"waits": 1}),
        (lambda xp, x: xp.cuda.Stream.null.synchronize(), {"waits": 1}),
    ],
)
def test_counts(standin, call, expected):
    x = standin.ones((4, 4), "f4")
    found = counted(call, standin, x)
    assert found == expected


def test_counts_of_kernels(standin):
    kernel = standin.RawModule(code=SUMS).get_function("add")
    x = standin.ones(4, "f4")
    assert counted(kernel, (1,), (4,), (x, x.copy(), np.float32(1), np.int32(4))) == {"kernels": 1}
    with S.counting() as seen:
        x.get()
    assert seen.places == ["to_cpu, waits: not in minifcn"]


def test_it_goes_away_again():
    before = sys.modules.get("cupy")
    with S.installed() as module:
        assert sys.modules["cupy"] is module
        module.cuda.Device(1).use()
        module.get_default_memory_pool().set_limit(size=1024)
    assert sys.modules.get("cupy") is before
    assert S.cupy.cuda.Device().id == 0
    assert all(pool.limit == 0 for pool in S.device.pools)
