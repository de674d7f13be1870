"""The means by which CUDA kernels are run on a CPU: what their words mean."""

import numpy as np
import on_cpu
import pytest

pytestmark = pytest.mark.skipif(not on_cpu.available(), reason="no g++ on a Linux system")
f32 = np.float32

RIGHT = r"""
extern "C" __global__ void row_sums(const float* a, float* sums, int n) {
  __shared__ float part[64];
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += a[blockIdx.x * n + i];
  part[threadIdx.x] = sum;
  __syncthreads();
  for (int half = 32; half > 0; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}
extern "C" __global__ void turned(float* y, int first) {
  extern __shared__ float room[];
  room[first + threadIdx.x] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = room[first + blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void where_am_i(int* y) {
  int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] = 100 * block + thread;
}
extern "C" __global__ void shuffles(const float* x, float* y, int by, int width) {
  const float mine = x[threadIdx.x];
  y[threadIdx.x] = __shfl_sync(0xffffffffu, mine, by, width);
  y[threadIdx.x + 32] = __shfl_xor_sync(0xffffffffu, mine, by, width);
  y[threadIdx.x + 64] = __shfl_down_sync(0xffffffffu, mine, by, width);
  y[threadIdx.x + 96] = __shfl_up_sync(0xffffffffu, mine, by, width);
}
extern "C" __global__ void of_absent_lane(float* y) {
  if (threadIdx.x < 8) y[threadIdx.x] = __shfl_sync(0xffu, (float)threadIdx.x, threadIdx.x + 4);
}
extern "C" __global__ void warp_turned(float* y) {
  __shared__ float room[32];
  room[threadIdx.x] = threadIdx.x;
  __syncwarp();
  y[threadIdx.x] = room[31 - threadIdx.x];
}
extern "C" __global__ void in_place(float* x, const float* same) {
  x[threadIdx.x] = 2 * same[threadIdx.x];
}
extern "C" __global__ void words(float* y, float x) {
  y[0] = rsqrtf(x), y[1] = __expf(x), y[2] = __logf(x), y[3] = min(x, 3.0f), y[4] = max(3, 2);
  y[5] = __int_as_float(__float_as_int(x)), y[6] = __popc(255), y[7] = __umulhi(1u << 31, 6);
  y[8] = __ldg(y), y[9] = WORD;
}
extern "C" __global__ void packed(const float* x, unsigned* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[3 * i] = to_tf32(x[i]);
  y[3 * i + 1] = pack_bf16(x[i], 1.0f);
  y[3 * i + 2] = pack_fp16(1.0f, x[i]);
}
extern "C" __global__ void product(const float* a, const float* b, float* c, int kind) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  unsigned left[4], right[2];
  float sums[4] = {1, 1, 1, 1};
  if (kind == 0) {
    for (int e = 0; e < 4; ++e) left[e] = to_tf32(a[(g + e % 2 * 8) * 8 + t + e / 2 * 4]);
    for (int e = 0; e < 2; ++e) right[e] = to_tf32(b[(t + 4 * e) * 8 + g]);
    mma_tf32(sums, left, right);
  } else {
    auto pack = [&](float low, float high) {
      return kind == 1 ? pack_bf16(low, high) : pack_fp16(low, high);
    };
    for (int e = 0; e < 4; ++e) {
      const float* from = a + (g + e % 2 * 8) * 16 + 2 * t + e / 2 * 8;
      left[e] = pack(from[0], from[1]);
    }
    for (int e = 0; e < 2; ++e) {
      const float* from = b + (2 * t + 8 * e) * 8 + g;
      right[e] = pack(from[0], from[8]);
    }
    if (kind == 1) mma_bf16(sums, left, right);
    else mma_fp16(sums, left, right);
  }
  for (int e = 0; e < 4; ++e) c[(g + e / 2 * 8) * 8 + 2 * t + e % 2] = sums[e];
}
// A warp puts 32 rows of 16 bytes into shared memory, and names them in another order.
extern "C" __global__ void quarters(const unsigned* rows, unsigned* y, int transposed) {
  extern __shared__ unsigned room[];
  unsigned words[4];
  for (int e = 0; e < 4; ++e) room[4 * threadIdx.x + e] = rows[4 * threadIdx.x + e];
  __syncwarp();
  const unsigned* row = room + (5 * threadIdx.x + 3) % 32 * 4;
  if (transposed) ldmatrix_transposed(words, row);
  else ldmatrix(words, row);
  for (int e = 0; e < 4; ++e) y[4 * threadIdx.x + e] = words[e];
}
// Four copies of a block's 4 x 32 numbers, each a group; waits for all but the `left` newest.
template <int left>
__device__ void copies(const float* x, float* y, int barrier, int from, int to) {
  extern __shared__ float room[];
  for (int i = 0; i < 4; ++i) {
    cp_async16(room + 128 * i + 4 * threadIdx.x + to, x + 128 * i + 4 * threadIdx.x + from, i < 3);
    cp_async_commit();
  }
  cp_async_wait<left>();
  if (barrier) __syncthreads();
  for (int i = 0; i < 4; ++i)
    for (int e = 0; e < 4; ++e) {
      const int at = 128 * i + (4 * threadIdx.x + e) % 128;
      y[at] = room[barrier ? at / 128 * 128 + 127 - at % 128 : at];
    }
  if (barrier) __syncthreads();
  cp_async_wait<0>();
}
extern "C" __global__ void copied(const float* x, float* y) { copies<0>(x, y, 1, 0, 0); }
extern "C" __global__ void too_early(const float* x, float* y) { copies<2>(x, y, 1, 0, 0); }
extern "C" __global__ void misaligned_copy(const float* x, float* y, int to) {
  copies<0>(x, y, 0, 1 - to, to);
}
"""


@pytest.fixture(scope="module")
def right():
    return on_cpu.RawModule(code=RIGHT, options=("-std=c++17", "-DWORD=42")).get_function


def nothing(*shape):
    return np.full(shape, np.nan, f32)


def test_barriers_and_shared_memory(right, rng, every_order):
    a, sums = rng.standard_normal((5, 100)).astype(f32), nothing(5)
    right("row_sums")((5,), (64,), (a, sums, 100))
    np.testing.assert_allclose(sums, a.sum(1), rtol=1e-4, atol=1e-5)


def test_shared_memory_of_the_launch(right, every_order):
    y = nothing(48)
    right("turned")((1,), (48,), (y, 2), shared_mem=200)
    np.testing.assert_array_equal(y, np.arange(48)[::-1])


def test_places_in_grid_and_block(right, every_order):
    y = np.full(24 * 30, -1, np.int32)
    right("where_am_i")((2, 3, 4), (5, 3, 2), (y,))
    expected = [100 * block + thread for block in range(24) for thread in range(30)]
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("by", "width"), [(1, 32), (16, 32), (31, 32), (3, 8), (5, 8)])
def test_shuffles(right, every_order, by, width):
    x, y = np.arange(32, dtype=f32), nothing(4, 32)
    right("shuffles")((1,), (32,), (x, y, by, width))
    lane, part = np.arange(32), np.arange(32) // width * width
    np.testing.assert_array_equal(y[0], part + by % width)
    np.testing.assert_array_equal(y[1], np.where(lane ^ by < part + width, lane ^ by, lane))
    np.testing.assert_array_equal(y[2], np.where(lane + by < part + width, lane + by, lane))
    np.testing.assert_array_equal(y[3], np.where(lane - by >= part, lane - by, lane))


def test_shuffle_from_a_lane_that_takes_no_part(right):
    y = nothing(8)
    right("of_absent_lane")((1,), (32,), (y,))
    np.testing.assert_array_equal(y, [4, 5, 6, 7, *[np.nan] * 4])


def test_barrier_of_a_warp(right, every_order):
    y = nothing(32)
    right("warp_turned")((1,), (32,), (y,))
    np.testing.assert_array_equal(y, np.arange(32)[::-1])


def test_one_array_twice(right):
    x = np.arange(32, dtype=f32)
    right("in_place")((1,), (32,), (x, x))
    np.testing.assert_array_equal(x, 2 * np.arange(32))


def test_words_of_the_language_and_constants(right):
    y = nothing(10)
    right("words")((1,), (1,), (y, f32(4)))
    np.testing.assert_allclose(y, [0.5, np.e**4, np.log(4), 3, 3, 4, 8, 3, 0.5, 42], rtol=1e-6)


def nearest(x, bits, ties):
    """Round to so many bits of mantissa, counting the first; ties "even" or "away" from zero."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    scaled = np.ldexp(mantissa, bits)
    whole = np.rint(scaled) if ties == "even" else np.sign(x) * np.floor(abs(scaled) + 0.5)
    return np.ldexp(whole, exponent - bits)


def test_numbers_of_tensor_cores(right, rng):
    x = rng.standard_normal(3000) * 10.0 ** rng.integers(-4, 4, 3000)
    ties = np.ldexp(1 + (2 * rng.integers(0, 1 << 10, 1000) + 1) / (1 << 11), 3)  # for 10 bits
    ties_bf16 = np.ldexp(1 + (2 * rng.integers(0, 1 << 7, 1000) + 1) / (1 << 8), -2)
    tiny = np.arange(-40, 40) * 2.0**-26  # between the smallest numbers of fp16
    x = np.concatenate([x, ties, -ties, ties_bf16, tiny, [0, -0.0, 65519, 65520, 1e5, np.inf]])
    x = np.concatenate([x, np.full(-len(x) % 64, -np.inf)]).astype(f32)
    y = np.zeros((len(x), 3), np.uint32)
    right("packed")((len(x) // 64,), (64,), (x, y))
    finite = np.isfinite(x)
    np.testing.assert_array_equal(y[:, 0].view(f32)[finite], nearest(x[finite], 11, "away"))
    np.testing.assert_array_equal(y[:, 0].view(f32)[~finite], x[~finite])
    assert (y[:, 1] >> 16 == 0x3F80).all()
    bf16 = (y[:, 1] << 16).view(f32)
    np.testing.assert_array_equal(bf16[finite], nearest(x[finite], 8, "even"))
    np.testing.assert_array_equal(bf16[~finite], x[~finite])
    assert (y[:, 2] & 0xFFFF == 0x3C00).all()
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal((y[:, 2] >> 16).astype(np.uint16), expected.view(np.uint16))


def test_nan_of_tensor_cores_stays_nan(right):
    x, y = np.full(1, np.nan, f32), np.zeros((1, 3), np.uint32)
    right("packed")((1,), (1,), (x, y))
    as_floats = [*(y[0, :2] << [0, 16]).astype(np.uint32).view(f32)]
    assert np.isnan([*as_floats, (y[0, 2:] >> 16).astype(np.uint16).view(np.float16)[0]]).all()


@pytest.mark.parametrize(("kind", "depth", "bound"), [(0, 8, 2e-3), (1, 16, 2e-2), (2, 16, 2e-3)])
def test_products_of_tensor_cores(right, rng, every_order, kind, depth, bound):
    a, b = rng.standard_normal((16, depth)).astype(f32), rng.standard_normal((depth, 8)).astype(f32)
    c = nothing(16, 8)
    right("product")((1,), (32,), (a, b, c, kind))
    np.testing.assert_allclose(c, 1 + a.astype(np.float64) @ b, atol=bound * 5)
    whole, c = (np.arange(16 * depth) % 7).reshape(16, depth).astype(f32), nothing(16, 8)
    eye = np.eye(depth, 8, dtype=f32)
    right("product")((1,), (32,), (whole, eye, c, kind))
    np.testing.assert_array_equal(c, 1 + whole[:, :8])


@pytest.mark.parametrize("transposed", [0, 1])
def test_quarters_by_lanes(right, every_order, transposed):
    """Lane 8 e + i names row i of quarter e; of it, lane 4 g + t gets 2 numbers of row g."""
    numbers = np.arange(256, dtype=np.uint16).reshape(32, 8)  # those of 16 bits in each row
    y = np.zeros((32, 4), np.uint32)
    right("quarters")((1,), (32,), (numbers.view(np.uint32), y, transposed), shared_mem=512)
    quarters = numbers[(5 * np.arange(32) + 3) % 32].reshape(4, 8, 8)
    for lane in range(32):
        g, t = divmod(lane, 4)
        for e, quarter in enumerate(quarters):
            two = quarter[2 * t : 2 * t + 2, g] if transposed else quarter[g, 2 * t : 2 * t + 2]
            assert y[lane, e] == int(two[0]) + 65536 * int(two[1]), (lane, e)


def test_copies_arrive_when_waited_for(right, rng, every_order):
    x = rng.standard_normal((4, 128)).astype(f32)
    y = nothing(4, 128)
    right("copied")((1,), (32,), (x, y), shared_mem=2048)
    np.testing.assert_array_equal(y[:3], x[:3, ::-1])
    np.testing.assert_array_equal(y[3], 0)  # asked for no copy: zeros
    right("too_early")((1,), (32,), (x, y), shared_mem=2048)
    np.testing.assert_array_equal(y[:2], x[:2, ::-1])
    assert np.isnan(y[2:]).all()


def test_misaligned_copies(right):
    x, y = nothing(4, 132), nothing(4, 132)
    for to in (0, 1):
        with pytest.raises(on_cpu.KernelError, match="no multiple of 16"):
            right("misaligned_copy")((1,), (32,), (x, y, to), shared_mem=4096)
