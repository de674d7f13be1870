"""The means by which CUDA kernels are run on a CPU: each mistake is named, with its line."""

import os

import numpy as np
import on_cpu
import pytest

pytestmark = pytest.mark.skipif(not on_cpu.available(), reason="no g++ on a Linux system")
f32 = np.float32

WRONG = r"""
extern "C" __global__ void reads(const float* x, float* y, int at) { y[0] = x[at]; }
extern "C" __global__ void writes(float* x, int at) {
  x[0] = 1;
  x[at] = 1;
}
extern "C" __global__ void writes_constant(const float* x, int at) { ((float*)x)[at] = 1; }
extern "C" __global__ void adds(int* x, int n) { x[0] = n + 5; }
extern "C" __global__ void subtracts(int* x, int n) { x[0] = -2 - n; }
extern "C" __global__ void multiplies(int* x, int n) { x[0] = n * n; }
extern "C" __global__ void negates(int* x, int n) { x[0] = -n; }
extern "C" __global__ void divides(int* x, int n) { x[0] = n / x[0]; }
extern "C" __global__ void shifts(int* x, int n) { x[0] = 1 << n; }
extern "C" __global__ void shared_index(float* x, int n) {
  __shared__ float room[8];
  room[n] = 1;
  x[0] = room[n];
}
extern "C" __global__ void dynamic_index(float* x, int n) {
  extern __shared__ float room[];
  room[n] = 1;
  x[0] = 2;
}
extern "C" __global__ void misaligned(float* x, int at) {
  *(float4*)(x + at) = make_float4(1, 2, 3, 4);
}
extern "C" __global__ void unwritten(float* x) {
  __shared__ float room[32];
  x[threadIdx.x] = room[threadIdx.x];
}
extern "C" __global__ void early_return(float* x, int n) {
  if (threadIdx.x < n) return;
  __syncthreads();
  x[threadIdx.x] = 1;
}
extern "C" __global__ void diverges(float* x, int n) {
  if (threadIdx.x < n) __syncthreads();
  else
    __syncthreads();
  x[threadIdx.x] = 1;
}
extern "C" __global__ void deadlock(float* x, int n) {
  if (threadIdx.x < n) __syncthreads();
  else __syncwarp();
}
extern "C" __global__ void half_a_warp(float* x, int n) {
  if (threadIdx.x < n) x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
extern "C" __global__ void not_in_mask(float* x, int n) {
  x[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 1);
}
extern "C" __global__ void other_mask(float* x, int n) {
  x[threadIdx.x] = __shfl_xor_sync(threadIdx.x < n ? 0xffffffffu : 0xffff0000u, 1.0f, 1);
}
extern "C" __global__ void no_barrier(float* y) {
  __shared__ float room[64];
  room[threadIdx.x] = threadIdx.x;
  y[threadIdx.x] = room[63 - threadIdx.x];
}
extern "C" __global__ void no_second_barrier(float* y) {
  __shared__ float room[64];
  for (int i = 0; i < 2; ++i) {
    room[threadIdx.x] = i;
    __syncthreads();
    y[threadIdx.x] = room[63 - threadIdx.x];
  }
}
extern "C" __global__ void no_warp_barrier(float* y) {
  __shared__ float room[64];
  room[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  y[threadIdx.x] = room[threadIdx.x ^ 1];
}
extern "C" __global__ void only_warp_barrier(float* y) {
  __shared__ float room[64];
  room[threadIdx.x] = 1;
  __syncwarp();
  y[threadIdx.x] = room[threadIdx.x ^ 32];
}
extern "C" __global__ void all_to_one(float* y) { y[0] = y[0] + 1; }
extern "C" __global__ void same_bytes(unsigned char* y) { y[threadIdx.x / 2] = 1; }
extern "C" __global__ void neighbour_of_block(float* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float next = i + 1 < gridDim.x * blockDim.x ? y[i + 1] : 0;
  __syncthreads();
  y[i] = next;
}
extern "C" __global__ void never_waited(const float* x) {
  extern __shared__ float room[];
  cp_async16(room, x, true);
  cp_async_commit();
}
extern "C" __global__ void copy_no_barrier(const float* x, float* y) {
  extern __shared__ float room[];
  cp_async16(room + 4 * threadIdx.x, x + 4 * threadIdx.x, true);
  cp_async_commit();
  cp_async_wait<0>();
  y[threadIdx.x] = room[4 * (threadIdx.x ^ 1)];
}
extern "C" __global__ void copy_elsewhere(const float* x, float* y) { cp_async16(y, x, true); }
extern "C" __global__ void product_of_half(float* x) {
  unsigned a[4] = {}, b[2] = {};
  float c[4] = {};
  if (threadIdx.x < 16) mma_tf32(c, a, b);
  x[threadIdx.x] = c[0];
}
extern "C" __global__ void quarters(const float* x, float* y, int lanes, int barrier, int from) {
  extern __shared__ float room[];
  unsigned words[4] = {};
  for (int e = 0; e < 4; ++e) room[4 * threadIdx.x + e] = 0;
  if (barrier) __syncthreads();
  if (threadIdx.x < lanes) ldmatrix(words, room + 4 * (threadIdx.x ^ 2) + from);
  if (threadIdx.x >= 32) ldmatrix_transposed(words, x);
  y[threadIdx.x] = words[0];
}
extern "C" __global__ void large_locals(float* x, int n) {
  volatile float room[30000];
  room[n] = n;
  x[0] = room[n];
}
extern "C" __global__ void endless(float* x) { while (x[0] == 0) x[1] = 1; }
extern "C" __global__ void two(const float* a, float* b) { b[threadIdx.x] = a[threadIdx.x]; }
extern "C" __global__ void two_apart(const float* __restrict__ a, float* __restrict__ b) {
  b[0] = a[0];
}
extern "C" __global__ void numbers(float* x, int i, float f, unsigned long long u) {
  x[0] = i + f + u;
}
"""


@pytest.fixture(scope="module")
def wrong():
    return on_cpu.RawModule(code=WRONG, options=("-DSHIM_SECONDS=1",)).get_function


def nothing(*shape):
    return np.full(shape, np.nan, f32)


def test_shared_memory_is_nan_in_each_block(wrong):
    y = np.zeros(32, f32)
    wrong("unwritten")((1,), (32,), (y,))
    assert np.isnan(y).all()


# ---- what is wrong, in the kernel --------------------------------------------------------------

X = np.zeros(40, f32)
WHOLE = np.zeros(1, np.int32)
MISTAKES = [  # kernel, threads, arguments, message
    (
        "reads",
        1,
        (X, nothing(1), 40),
        r"a read outside an array \(line 2: .*\+160 bytes .*argument 0",
    ),
    ("reads", 1, (X, nothing(1), -1), r"a read outside an array \(line 2: .*-4 bytes .*argument 0"),
    ("writes", 1, (X, 40), r"a write outside an array \(line 5: .*\+160 bytes"),
    ("writes", 1, (np.zeros(0, f32), 0), r"a write outside an array \(line 4: .*\+0 bytes"),
    ("writes", 1, (X, -2), "a write outside an array .*-8 bytes"),
    ("writes", 1, (X, 2**20), r"a write outside (all|an array)"),
    ("writes_constant", 1, (X, 7), r"an array that is constant .*\+28 bytes"),
    ("adds", 1, (WHOLE, 2**31 - 1), "a sum of whole numbers overflows .line 8"),
    ("subtracts", 1, (WHOLE, 2**31 - 1), "a difference of whole numbers overflows"),
    ("multiplies", 1, (WHOLE, 2**16), "a product of whole numbers overflows"),
    ("negates", 1, (WHOLE, -(2**31)), "a whole number overflows"),
    ("divides", 1, (WHOLE, 3), "division by zero"),
    ("shifts", 1, (WHOLE, 32), "a shift by too many bits"),
    ("shared_index", 1, (X, 8), "an index outside its array"),
    ("shared_index", 1, (X, -1), "an index outside its array"),
    ("dynamic_index", 1, (X, 256), "a write outside an array"),
    ("dynamic_index", 1, (X, -1), "a write outside an array"),
    ("misaligned", 1, (X, 2), "null or misaligned"),
    ("misaligned", 1, (X[1:], 0), "null or misaligned"),
    ("early_return", 64, (X, 3), r"threads that have returned \(line 33: __syncthreads"),
    ("diverges", 64, (X, 3), "threads wait at different lines"),
    ("deadlock", 64, (X, 32), "deadlock"),
    ("half_a_warp", 32, (X, 16), "a lane that has returned"),
    ("not_in_mask", 32, (X, 0), "a lane outside the mask"),
    ("other_mask", 32, (X, 16), "a lane outside the mask|a lane that has returned"),
    (
        "no_barrier",
        64,
        (nothing(64),),
        r"a race: .*\(line 58: y.*\(line 57: room",
    ),
    ("no_second_barrier", 64, (nothing(64),), "a race"),
    ("no_warp_barrier", 32, (nothing(32),), "a race"),
    ("only_warp_barrier", 64, (nothing(64),), "a race"),
    ("all_to_one", 64, (X,), "a race: .* block 0"),
    ("same_bytes", 64, (np.zeros(32, np.uint8),), "a race"),
    ("copy_no_barrier", 64, (np.zeros(256, f32), nothing(64)), "a race"),
    ("never_waited", 1, (X,), "before a copy is waited for"),
    ("copy_elsewhere", 1, (X, nothing(4)), "outside shared memory"),
    ("product_of_half", 32, (X,), "a lane that has returned"),
    ("quarters", 32, (X, nothing(32), 16, 1, 0), "a lane that has returned"),
    ("quarters", 32, (X, nothing(32), 32, 0, 0), "a race"),
    ("quarters", 32, (X, nothing(32), 32, 1, 1), "ldmatrix: an address is no multiple of 16"),
    ("quarters", 64, (X, nothing(64), 32, 1, 0), "ldmatrix: .* outside shared memory"),
    ("quarters", 32, (X, nothing(32), 32, 1, 256), "ldmatrix: .* outside shared memory"),
    ("large_locals", 1, (X, 0), "take more than 64 KB"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[0])
def test_mistakes_are_named(wrong, every_order, mistake):
    kernel, threads, arguments, message = mistake
    arrays = [value for value in arguments if isinstance(value, np.ndarray)]
    before = [array.copy() for array in arrays]
    with pytest.raises(on_cpu.KernelError, match=message):
        wrong(kernel)((1,), (threads,), arguments, shared_mem=1024)
    for old, new in zip(before, arrays, strict=True):
        np.testing.assert_array_equal(old, new)
    y = nothing(3)  # the next launch is none the worse
    wrong("two")((1,), (3,), (np.ones(3, f32), y))
    np.testing.assert_array_equal(y, 1)


def test_race_between_blocks(wrong, every_order):
    y = np.arange(256, dtype=f32)
    wrong("neighbour_of_block")((1,), (256,), (y,))  # in one block, the barrier is enough
    np.testing.assert_array_equal(y, [*range(1, 256), 0])
    with pytest.raises(on_cpu.KernelError, match=r"a race: .* block"):
        wrong("neighbour_of_block")((4,), (64,), (y,))
    with pytest.raises(on_cpu.KernelError, match=r"a race: .* block"):
        wrong("all_to_one")((2,), (1,), (y,))


def test_a_kernel_that_does_not_end(wrong):
    with pytest.raises(on_cpu.KernelError, match="does not end in time"):
        wrong("endless")((1,), (2,), (np.zeros(2, f32),))


# ---- what is wrong, in the launch --------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((0,), (32,), 0, r"grid \(0, 1, 1\)"),
        ((1, 65536), (32,), 0, r"grid \(1, 65536, 1\)"),
        ((1,), (1025,), 0, r"block \(1025, 1, 1\)"),
        ((1,), (64, 32), 0, "more than 1024 threads"),
        ((1,), (1, 1, 65), 0, r"block \(1, 1, 65\)"),
        ((1,), (32,), 48 * 1024 + 1, "49153 bytes of shared memory, not 49152"),
    ],
)
def test_sizes_of_a_launch(wrong, grid, block, shared, message):
    with pytest.raises(on_cpu.KernelError, match=message):
        wrong("two")(grid, block, (X, nothing(40)), shared_mem=shared)


def test_more_shared_memory_must_be_asked_for(wrong):
    kernel = wrong("dynamic_index")
    kernel.max_dynamic_shared_size_bytes = 60_000
    y = nothing(1)
    kernel((1,), (1,), (y, 14_999), shared_mem=60_000)
    assert y[0] == 2
    kernel.max_dynamic_shared_size_bytes = 200_000  # more than all GPUs have
    with pytest.raises(on_cpu.KernelError, match="101376"):
        kernel((1,), (1,), (y, 0), shared_mem=101_377)


@pytest.mark.parametrize(
    ("kernel", "arguments", "error", "message"),
    [
        ("two", (X,), on_cpu.KernelError, "1 arguments for 2"),
        ("two", (X, 3), TypeError, "argument 1 must be an array, not int"),
        ("two", (X, np.zeros(40)), TypeError, "argument 1 is float64, and the kernel takes f4"),
        ("two", (X, np.zeros((40, 2), f32)[:, 0]), TypeError, "not contiguous"),
        ("two", (X[:30], X[1:]), TypeError, "argument 1 and two: argument 0 share memory"),
        ("two", (X, X[:30]), TypeError, "share memory"),
        ("two_apart", (X, X), TypeError, "share memory"),
        ("numbers", (X, 1.0, f32(1), 1), TypeError, "argument 1 is float64, .* takes i4"),
        ("numbers", (X, 1, 1.0, 1), TypeError, "argument 2 is float64, .* takes f4"),
        ("numbers", (X, 1, 1, 1), TypeError, "argument 2 is a Python int, .* takes f4"),
        ("numbers", (X, 2**31, f32(1), 1), OverflowError, "argument 1 is 2147483648"),
        ("numbers", (X, np.int64(1), f32(1), 1), TypeError, "argument 1 is int64"),
        ("numbers", (X, True, f32(1), 1), TypeError, "argument 1 is bool"),
        ("numbers", (X, 1, f32(1), -1), OverflowError, "argument 3 is -1, which is no uint64"),
    ],
)
def test_arguments_are_checked(wrong, kernel, arguments, error, message):
    with pytest.raises(error, match=message):
        wrong(kernel)((1,), (1,), arguments)


def test_arguments_that_fit(wrong):
    y = nothing(1)
    wrong("numbers")((1,), (1,), (y, np.int32(1), f32(0.5), np.uint64(2**33)))
    assert y[0] == f32(2**33 + 1.5)


def test_names_and_text_are_checked():
    module = on_cpu.RawModule(code=WRONG)
    with pytest.raises(on_cpu.KernelError, match="there is no kernel 'three'"):
        module.get_function("three")
    broken = on_cpu.RawModule(code='extern "C" __global__ void f(int* x) {\n  x[0] = y;\n}')
    with pytest.raises(on_cpu.CompileError, match=r"kernel\.cu:2:.*'y' was not declared"):
        broken.get_function("f")


def test_only_the_users_own_folder_is_executed_from(monkeypatch, tmp_path):
    monkeypatch.setattr(on_cpu.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"minifcn-cuda-on-cpu-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(on_cpu.KernelError, match="others may write to it"):
        on_cpu._cache()


def test_order_is_undone():
    before = dict(on_cpu._setting)
    with pytest.raises(ZeroDivisionError), on_cpu.order("reverse"):
        1 / 0  # noqa: B018
    assert on_cpu._setting == before


FOLLOWS = r"""
extern "C" __global__ void follows(const unsigned long long* table, float* y, int at) {
  y[0] = ((const float*)table[0])[at];
}
"""


def test_addresses_in_a_table_are_followed_to_arrays_that_are_known(monkeypatch):
    kernel = on_cpu.RawModule(code=FOLLOWS).get_function("follows")
    x, y = np.arange(5, dtype=f32), np.zeros(1, f32)
    table = np.array([x.ctypes.data], np.uint64)
    with pytest.raises(on_cpu.KernelError, match="a read outside all arrays"):
        kernel((1,), (1,), (table, y, np.int32(3)))
    monkeypatch.setitem(on_cpu.reachable, x.ctypes.data, x.nbytes)
    kernel((1,), (1,), (table, y, np.int32(3)))
    assert y[0] == 3
    for at in (-1, 5):
        with pytest.raises(on_cpu.KernelError, match="a read outside all arrays"):
            kernel((1,), (1,), (table, y, np.int32(at)))
