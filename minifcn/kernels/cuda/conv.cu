// Convolution on tensor cores, without a matrix of patches: twins of kernels/im2col.py conv2d and
// conv2d_weight.
//
// A convolution is a matrix product Y = A · W: row m of A is the patch under output pixel m, and
// column k of it is one number of a patch (kernel row, kernel column, channel). A is never made. A
// block of threads computes a tile of Y and goes through k in steps of DEPTH. Each step copies the
// numbers it needs, straight from the image, to shared memory:
//
//                       COLUMNS (output channels)
//                      +-----------+
//          DEPTH of k  |  W   (b)  |
//                      +-----------+
//          DEPTH of k
//        +------------+-----------+      Four warps share the tile. Each computes WARP_ROWS rows x
//   ROWS |  A    (a)  |     Y     |      WARP_COLUMNS columns of it, in registers: with 64 x 64 of
//        |            |           |      them, a number of a or b is read twice, and used 128 times.
//        +------------+-----------+
//
// Copies take long to arrive. So there are STAGES pairs of a and b: while the tensor cores multiply
// one pair, STAGES - 1 others are on their way (cp.async).
//
// Channels lie side by side in memory, so 4 of them are one copy of 16 bytes: channel numbers must
// be multiples of 4. Where a patch hangs over the image's edge, zeros are "copied".
//
// Constants given at compile time: ROWS, COLUMNS, DEPTH, STAGES, and PRECISION (0: tf32, 1: bf16,
// 2: fp16), to which numbers are rounded just before they are multiplied. Sums are float32 always.

#include "tensor_core.cuh"

constexpr int WARP_ROWS = COLUMNS < 64 ? 32 : 64, WARP_COLUMNS = COLUMNS < 128 ? 32 : 64;
constexpr int WARPS_ACROSS = COLUMNS / WARP_COLUMNS;
constexpr int THREADS = 32 * (ROWS / WARP_ROWS) * WARPS_ACROSS;
static_assert(THREADS == 128 && DEPTH % 16 == 0 && STAGES >= 2, "other constants need other loops");
constexpr int MI = WARP_ROWS / 16, NJ = WARP_COLUMNS / 8;  // a warp's tiles of 16 x 8

// A tile of A lies in shared memory in rows along k (ALONG numbers long; the forward kernel) or in
// rows across k (ACROSS; the weight's). Rows are a little longer than needed: of 32 lanes that read
// at once, each must meet another one of the 32 banks (place % 32) of shared memory. With g = lane / 4
// and t = lane % 4, lane (g, t) reads
//   along k:   row g at 2t and 2t + 1, half a warp at a time: with rows of 24, four rows begin at the
//              banks 0, 24, 16 and 8, and their lanes take the 8 that follow
//   across k:  row 2t at g, and then row 2t + 1: with 2 rows of 36, 68 or 132, at bank 8t + g
constexpr int ALONG = DEPTH + 8, ACROSS = ROWS + 4, B_ROW = COLUMNS + 4;
constexpr int B_SIZE = DEPTH * B_ROW;

// Where the numbers of a tile are read. `along` tells how its rows lie.
template <bool along>
__device__ __forceinline__ float2 two_of_k(const float* tile, int row_length, int row, int k) {
  if (along) return *(const float2*)(tile + row * row_length + k);
  return make_float2(tile[k * row_length + row], tile[(k + 1) * row_length + row]);
}

// Multiply a and b, a step's tiles in shared memory, and add that to a warp's part of the result.
//
// How the numbers of A and B are dealt out to the lanes is told in tensor_core.cuh. In which order
// they come along k is ours to choose, if A and B agree. For tf32, the numbers 2t and 2t + 1 are
// passed off as t and t + 4: then a lane reads two neighbours for all precisions.
template <bool along>
__device__ __forceinline__ void multiply(float (*sums)[NJ][4], const float* a, const float* b) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
  const int first_row = warp / WARPS_ACROSS * WARP_ROWS + g;
  const int first_column = warp % WARPS_ACROSS * WARP_COLUMNS + g;
  constexpr int DEEP = PRECISION == 0 ? 8 : 16;  // of k, in one instruction
#pragma unroll
  for (int k = 0; k < DEPTH; k += DEEP) {
    unsigned left[MI][4], right[NJ][2];
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int e = 0; e < DEEP / 4; ++e) {  // 2 rows, times 8 or 16 of k
        const int row = first_row + 16 * i + 8 * (e % 2);
        const float2 p = two_of_k<along>(a, along ? ALONG : ACROSS, row, k + 8 * (e / 2) + 2 * t);
#if PRECISION == 0
        left[i][e] = to_tf32(p.x), left[i][e + 2] = to_tf32(p.y);
#elif PRECISION == 1
        left[i][e] = pack_bf16(p.x, p.y);
#else
        left[i][e] = pack_fp16(p.x, p.y);
#endif
      }
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < DEEP / 8; ++e) {
        const float2 p = two_of_k<false>(b, B_ROW, first_column + 8 * j, k + 8 * e + 2 * t);
#if PRECISION == 0
        right[j][0] = to_tf32(p.x), right[j][1] = to_tf32(p.y);
#elif PRECISION == 1
        right[j][e] = pack_bf16(p.x, p.y);
#else
        right[j][e] = pack_fp16(p.x, p.y);
#endif
      }
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int j = 0; j < NJ; ++j) {
#if PRECISION == 0
        mma_tf32(sums[i][j], left[i], right[j]);
#elif PRECISION == 1
        mma_bf16(sums[i][j], left[i], right[j]);
#else
        mma_fp16(sums[i][j], left[i], right[j]);
#endif
      }
  }
}

// Go through all steps: `copy(a, b)` starts the copies of the next one.
template <bool along, class Copy>
__device__ __forceinline__ void multiply_all(float (*sums)[NJ][4], float* memory, int steps, Copy copy) {
  constexpr int A_SIZE = along ? ROWS * ALONG : DEPTH * ACROSS;
#pragma unroll
  for (int i = 0; i < MI * NJ * 4; ++i) sums[i / (NJ * 4)][i / 4 % NJ][i % 4] = 0.0f;
#pragma unroll
  for (int step = 0; step < STAGES - 1; ++step) {
    float* a = memory + step * (A_SIZE + B_SIZE);
    if (step < steps) copy(a, a + A_SIZE);
    cp_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<STAGES - 2>();  // this thread's copies for this step have arrived,
    __syncthreads();              // and those of all others; and nobody reads the step before
    const int ahead = step + STAGES - 1;
    float* next = memory + ahead % STAGES * (A_SIZE + B_SIZE);  // where the step before was
    if (ahead < steps) copy(next, next + A_SIZE);
    cp_async_commit();
    const float* a = memory + step % STAGES * (A_SIZE + B_SIZE);
    multiply<along>(sums, a, a + A_SIZE);
  }
}

// Write a warp's part of a tile to y (rows, O); with a bias (O) if there is one, and a ReLU if asked.
__device__ __forceinline__ void store(const float (*sums)[NJ][4], float* y, int rows, int O,
                                      const float* bias, int relu) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_row = blockIdx.x * ROWS + warp / WARPS_ACROSS * WARP_ROWS + lane / 4;
  const int first_column = blockIdx.y * COLUMNS + warp % WARPS_ACROSS * WARP_COLUMNS + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < NJ; ++j) {
    const int o = first_column + 8 * j;
    if (o >= O) continue;
    const float2 more = bias ? make_float2(bias[o], bias[o + 1]) : make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + 16 * i + 8 * half;
        if (row >= rows) continue;
        float2 out = make_float2(sums[i][j][2 * half] + more.x, sums[i][j][2 * half + 1] + more.y);
        if (relu) {  // written so that NaN stays NaN
          out.x = out.x < 0.0f ? 0.0f : out.x;
          out.y = out.y < 0.0f ? 0.0f : out.y;
        }
        *(float2*)(y + row * O + o) = out;
      }
  }
}

// y (N, OH, OW, O) = the convolution of x (N, H, W, C) with w (KH, KW, C, O); plus bias (O) if biased
// is 1; where relu is 1, what is negative becomes 0. Blocks: (rows of tiles, columns of tiles,
// parts). If there are not tiles enough to keep the GPU busy, several blocks share a tile: each part
// takes `each` of the steps and writes its sums to y (parts, N, OH, OW, O); then `sum_parts` follows.
extern "C" __global__ void __launch_bounds__(THREADS) conv2d(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
    float* __restrict__ y, int N, int H, int W, int C, int OH, int OW, int O, int KH, int KW, int SH,
    int SW, int PH, int PW, int DH, int DW, int each, int biased, int relu) {
  extern __shared__ __align__(16) float memory[];
  const int thread = threadIdx.x, pixels = N * OH * OW;

  // This thread copies 4 channels of some rows of a. Where the patches of these rows start: their
  // first row and column in the image, and their place in x (which may lie outside: so no sign).
  constexpr int A_VECTORS = DEPTH / 4, A_AT_ONCE = THREADS / A_VECTORS, A_COPIES = ROWS / A_AT_ONCE;
  const int a_row = thread / A_VECTORS, a_channel = thread % A_VECTORS * 4;
  int top[A_COPIES], left[A_COPIES];
  unsigned start[A_COPIES];
#pragma unroll
  for (int i = 0; i < A_COPIES; ++i) {
    const int m = blockIdx.x * ROWS + a_row + A_AT_ONCE * i;
    top[i] = m < pixels ? m / OW % OH * SH - PH : -(1 << 30);  // beyond the last pixel: never inside
    left[i] = m % OW * SW - PW;
    start[i] = (((unsigned)(m / OW / OH) * H + top[i]) * W + left[i]) * C;
  }
  // And of b: 4 columns of some rows.
  constexpr int B_VECTORS = COLUMNS / 4, B_AT_ONCE = THREADS / B_VECTORS;
  const int b_row = thread / B_VECTORS, b_column = thread % B_VECTORS * 4;
  const int o = blockIdx.y * COLUMNS + b_column;

  // Taps change fastest: neighbouring taps read nearly the same pixels, which are still in the cache.
  const int taps = KH * KW, all = taps * ((C + DEPTH - 1) / DEPTH);
  const int first = blockIdx.z * each, steps = min(each, all - first);
  int channel = first / taps * DEPTH, kernel_row = first % taps / KW, kernel_column = first % KW;
  auto copy = [&](float* a, float* b) {
    const int down = kernel_row * DH, across = kernel_column * DW, c = channel + a_channel;
    const unsigned shift = (unsigned)(down * W + across) * C + c;
#pragma unroll
    for (int i = 0; i < A_COPIES; ++i) {
      const int h = top[i] + down, v = left[i] + across;
      const bool there = c < C && h >= 0 && h < H && v >= 0 && v < W;
      cp_async16_cached(a + (a_row + A_AT_ONCE * i) * ALONG + a_channel,
                        x + (there ? start[i] + shift : 0), there);
    }
    const int tap = kernel_row * KW + kernel_column;
#pragma unroll
    for (int row = b_row; row < DEPTH; row += B_AT_ONCE) {
      const bool there = channel + row < C && o < O;
      cp_async16(b + row * B_ROW + b_column, w + (there ? (tap * C + channel + row) * O + o : 0), there);
    }
    if (++kernel_column == KW) kernel_column = 0, ++kernel_row;
    if (kernel_row == KH) kernel_row = 0, channel += DEPTH;
  };
  float sums[MI][NJ][4];
  multiply_all<true>(sums, memory, steps, copy);
  store(sums, y + blockIdx.z * pixels * O, pixels, O, biased ? bias : nullptr, relu);
}

// Division by a number that is used again and again, in three instructions instead of some twenty:
// m / by is (the high half of m · factor, plus m) >> shift, for all m from 0 to 2^31 - 1.
struct Divisor {
  unsigned factor;
  int shift = 0;
  __device__ explicit Divisor(unsigned by) {
    while ((1u << shift) < by) ++shift;
    factor = (unsigned)(((unsigned long long)((1u << shift) - by) << 32) / by) + 1;
  }
  __device__ int operator()(int m) const { return (int)((__umulhi(m, factor) + m) >> shift); }
};

// The gradient in the weight: dw (KH * KW * C, O) = the sum over output pixels m of A[m, row] g[m, o].
// Now pixels are what is summed over, and there are many: part blockIdx.z takes `each` of them, a
// multiple of DEPTH, and writes what they give to dw (parts, KH * KW * C, O); then `sum_parts`
// follows, if there are several. Blocks: (rows of tiles, columns of tiles, parts).
extern "C" __global__ void __launch_bounds__(THREADS) conv2d_weight(
    const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ dw, int N, int H,
    int W, int C, int OH, int OW, int O, int KH, int KW, int SH, int SW, int PH, int PW, int DH, int DW,
    int each) {
  extern __shared__ __align__(16) float memory[];
  const int thread = threadIdx.x, rows = KH * KW * C;
  const Divisor by_width(OW), by_height(OH);

  // This thread copies the same 4 rows of A (channels of one tap) for some pixels of a step.
  constexpr int A_VECTORS = ROWS / 4, A_AT_ONCE = THREADS / A_VECTORS;
  const int a_pixel = thread / A_VECTORS, a_row = thread % A_VECTORS * 4;
  // Beyond the last row they are any numbers; what comes of them is not written.
  const int row = blockIdx.x * ROWS + a_row, tap = row / C, channel = row % C;
  const int down = tap / KW * DH - PH, across = tap % KW * DW - PW;
  constexpr int B_VECTORS = COLUMNS / 4, B_AT_ONCE = THREADS / B_VECTORS;
  const int b_pixel = thread / B_VECTORS, b_column = thread % B_VECTORS * 4;
  const int o = blockIdx.y * COLUMNS + b_column;

  int first = blockIdx.z * each;  // pixel of a step
  const int pixels = min(N * OH * OW, first + each);
  auto copy = [&](float* a, float* b) {
#pragma unroll
    for (int k = a_pixel; k < DEPTH; k += A_AT_ONCE) {
      const int m = first + k, line = by_width(m), image = by_height(line);
      const int h = (line - image * OH) * SH + down, v = (m - line * OW) * SW + across;
      const bool there = m < pixels && h >= 0 && h < H && v >= 0 && v < W;
      const int place = there ? ((image * H + h) * W + v) * C + channel : 0;
      cp_async16(a + k * ACROSS + a_row, x + place, there);
    }
#pragma unroll
    for (int k = b_pixel; k < DEPTH; k += B_AT_ONCE) {
      const bool there = first + k < pixels && o < O;
      cp_async16(b + k * B_ROW + b_column, g + (there ? (first + k) * O + o : 0), there);
    }
    first += DEPTH;
  };
  float sums[MI][NJ][4];
  multiply_all<false>(sums, memory, (pixels - first + DEPTH - 1) / DEPTH, copy);
  store(sums, dw + blockIdx.z * rows * O, rows, O, nullptr, 0);
}

// total (count) = partial (parts, count) summed over the parts, first to last: always in one order.
// Then bias (O) and ReLU as in conv2d, where total is (count / O, O). A thread for each number.
extern "C" __global__ void sum_parts(const float* __restrict__ partial, float* __restrict__ total,
                                     int parts, int count, const float* __restrict__ bias, int O,
                                     int biased, int relu) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float sum = 0.0f;
  for (int part = 0; part < parts; ++part) sum += partial[part * count + i];
  if (biased) sum += bias[i % O];
  total[i] = relu && sum < 0.0f ? 0.0f : sum;
}
