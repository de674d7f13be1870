// Convolution on tensor cores, without a matrix of patches: twins of kernels/im2col.py conv2d and
// conv2d_weight.
//
// A convolution is a matrix product Y = A · W: row m of A is the patch under output pixel m, and
// column k of it is one number of a patch, (kernel row, kernel column, channel). A is never made. A
// block of threads computes a tile of Y, 128 rows by TILE columns, and goes through k in steps of
// 32: each step copies the numbers it needs, straight from the image, to shared memory,
//
//                      TILE columns (output channels)
//                     +-----------+
//           32 of k   |  W  (b)   |
//                     +-----------+
//        +--------+   +-----------+
//   128  | A  (a) |   |     Y     |   8 warps, each 64 rows x TILE/4 columns, in registers
//  rows  |        |   |           |
//        +--------+   +-----------+
//
// while the tensor cores multiply what the step before has brought (two buffers each, cp.async).
// Channels lie side by side in memory, so 4 of them are one copy of 16 bytes: channel numbers must
// be multiples of 4. Where a patch hangs over the image's edge, zeros are "copied".
//
// Constants given at compile time: TILE (64 or 128), PRECISION (0: tf32, 1: bf16, 2: fp16). Sums
// are float32 always.

#include "tensor_core.cuh"

#define ROWS 128     // of a tile of the result
#define DEPTH 32     // of k in a step
#define THREADS 256  // 8 warps
#define WARP_ROWS 64
#define WARP_COLUMNS (TILE / 4)
#define MI (WARP_ROWS / 16)   // tensor-core tiles of 16 x 8 in a warp's part: rows,
#define NJ (WARP_COLUMNS / 8)  // and columns

// Rows in shared memory are a little longer than needed: the 32 lanes of a warp then read from the
// 32 banks of shared memory at once, as the numbers of a fragment (see tensor_core.cuh) lie in
// different ones. Numbers of 16 bits are read in pairs, so they need another length.
#if PRECISION == 0
#define SPARE_ALONG_K 4   // rows that run along k: lane (g, t) reads bank 4g + t
#define SPARE_ACROSS_K 8  // rows that run across: bank 8t + g
#else
#define SPARE_ALONG_K 8   // bank 8g + 2t, two at a time
#define SPARE_ACROSS_K 4  // bank 8t + g, and the row below
#endif
#define ALONG (DEPTH + SPARE_ALONG_K)
#define ACROSS (ROWS + SPARE_ACROSS_K)
#define B_ROW (TILE + SPARE_ACROSS_K)

// One number, or two, of a fragment in the form that the tensor core takes; `next` is how far apart
// two numbers are that follow each other in k.
__device__ __forceinline__ unsigned part(const float* number, int next) {
#if PRECISION == 0
  return to_tf32(number[0]);
#elif PRECISION == 1
  return pack_bf16(number[0], number[next]);
#else
  return pack_fp16(number[0], number[next]);
#endif
}

// Multiply what is in shared memory, and add it to a warp's part of the result.
//   a: 128 rows x 32 of k; element (row, k) is a[row * row_step + k * k_step]
//   b: 32 of k x TILE columns, in rows of B_ROW
__device__ __forceinline__ void multiply(float (*sums)[NJ][4], const float* a, int row_step, int k_step,
                                         const float* b, int warp_row, int warp_column) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#if PRECISION == 0
  const int DEEP = 8, WIDE = 1;  // k of one instruction, and how many numbers a register holds
#else
  const int DEEP = 16, WIDE = 2;
#endif
#pragma unroll
  for (int k = 0; k < DEPTH; k += DEEP) {
    unsigned left[MI][4], right[NJ][2];
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int row = warp_row + 16 * i + g + e % 2 * 8, at = k + WIDE * t + e / 2 * (DEEP / 2);
        left[i][e] = part(a + row * row_step + at * k_step, k_step);
      }
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        int column = warp_column + 8 * j + g, at = k + WIDE * t + e * (DEEP / 2);
        right[j][e] = part(b + at * B_ROW + column, B_ROW);
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

__device__ __forceinline__ void clear(float (*sums)[NJ][4]) {
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
}

// y (N, OH, OW, O) = the convolution of x (N, H, W, C) with w (KH, KW, C, O), plus bias (O); where
// relu is 1, what is negative becomes 0. Blocks: (rows of tiles, columns of tiles). Shared memory:
// two times a (128, ALONG) and b (32, B_ROW).
extern "C" __global__ void __launch_bounds__(THREADS) conv2d(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
    float* __restrict__ y, int N, int H, int W, int C, int OH, int OW, int O, int KH, int KW, int SH,
    int SW, int PH, int PW, int DH, int DW, int relu) {
  extern __shared__ float memory[];
  float* const a_buffers = memory;
  float* const b_buffers = memory + 2 * ROWS * ALONG;
  const int thread = threadIdx.x, warp = thread / 32;
  const int warp_row = warp / 4 * WARP_ROWS, warp_column = warp % 4 * WARP_COLUMNS;
  const int pixels = N * OH * OW, first_row = blockIdx.x * ROWS, first_column = blockIdx.y * TILE;

  // This thread copies 4 channels of 4 rows of a. Where the patches of these rows start:
  const int a_row = thread / 8, a_channel = thread % 8 * 4;
  int top[4], left[4], image[4];
  bool real[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int m = first_row + a_row + 32 * i;
    real[i] = m < pixels;
    m = real[i] ? m : 0;
    top[i] = m / OW % OH * SH - PH;
    left[i] = m % OW * SW - PW;
    image[i] = m / OW / OH * H;
  }
  // And of b: VECTORS copies make a row, so the block copies THREADS / VECTORS rows at a time.
  const int VECTORS = TILE / 4, AT_ONCE = THREADS / VECTORS;
  const int b_row = thread / VECTORS, b_column = thread % VECTORS * 4;

  const int chunks = (C + DEPTH - 1) / DEPTH, steps = KH * KW * chunks;
  auto copy = [&](int step) {
    const int tap = step / chunks, channel = step % chunks * DEPTH;
    const int down = tap / KW * DH, across = tap % KW * DW;
    float* a = a_buffers + step % 2 * ROWS * ALONG;
    float* b = b_buffers + step % 2 * DEPTH * B_ROW;
    const int c = channel + a_channel;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int h = top[i] + down, v = left[i] + across;
      const bool there = real[i] && c < C && h >= 0 && h < H && v >= 0 && v < W;
      const int place = there ? ((image[i] + h) * W + v) * C + c : 0;
      cp_async16(a + (a_row + 32 * i) * ALONG + a_channel, x + place, there);
    }
#pragma unroll
    for (int row = b_row; row < DEPTH; row += AT_ONCE) {
      const bool there = channel + row < C && first_column + b_column < O;
      const int place = there ? (tap * C + channel + row) * O + first_column + b_column : 0;
      cp_async16(b + row * B_ROW + b_column, w + place, there);
    }
    cp_async_commit();
  };

  float sums[MI][NJ][4];
  clear(sums);
  copy(0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      copy(step + 1);
      cp_async_wait<1>();  // all but the newest copies have arrived
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();  // those of the other threads, too
    multiply(sums, a_buffers + step % 2 * ROWS * ALONG, ALONG, 1, b_buffers + step % 2 * DEPTH * B_ROW,
             warp_row, warp_column);
    __syncthreads();  // the next copies go where this was read
  }

  const int g = thread % 32 / 4, t = thread % 4;
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int m = first_row + warp_row + 16 * i + g + 8 * half;
        const int o = first_column + warp_column + 8 * j + 2 * t;
        if (m >= pixels || o >= O) continue;
        float2 out = make_float2(sums[i][j][2 * half] + bias[o], sums[i][j][2 * half + 1] + bias[o + 1]);
        if (relu) {  // written so that NaN stays NaN
          out.x = out.x < 0.0f ? 0.0f : out.x;
          out.y = out.y < 0.0f ? 0.0f : out.y;
        }
        *(float2*)(y + m * O + o) = out;
      }
}

// The gradient in the weight: dw (KH * KW * C, O) = the sum over output pixels m of A[m, row] g[m, o].
// Now pixels are what is summed over, and there are many: so blockIdx.z takes some of them, `each`,
// and writes what they give to its own part of partial (parts, KH * KW * C, O); `sum_parts` adds up
// the parts, always in one order. Blocks: (rows of tiles, columns of tiles, parts).
extern "C" __global__ void __launch_bounds__(THREADS) conv2d_weight(
    const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ partial, int N,
    int H, int W, int C, int OH, int OW, int O, int KH, int KW, int SH, int SW, int PH, int PW, int DH,
    int DW, int each) {
  extern __shared__ float memory[];
  float* const a_buffers = memory;
  float* const b_buffers = memory + 2 * DEPTH * ACROSS;
  const int thread = threadIdx.x, warp = thread / 32;
  const int warp_row = warp / 4 * WARP_ROWS, warp_column = warp % 4 * WARP_COLUMNS;
  const int rows = KH * KW * C, first_row = blockIdx.x * ROWS, first_column = blockIdx.y * TILE;
  const int first_pixel = blockIdx.z * each, pixels = min(N * OH * OW, first_pixel + each);

  // This thread copies the same 4 rows of A (channels of one tap) for 4 pixels of a step.
  const int a_pixel = thread / 32, a_row = thread % 32 * 4, row = first_row + a_row;
  const int tap = row / C, channel = row % C;
  const int down = tap / KW * DH - PH, across = tap % KW * DW - PW;
  const int VECTORS = TILE / 4, AT_ONCE = THREADS / VECTORS;
  const int b_pixel = thread / VECTORS, b_column = thread % VECTORS * 4;

  const int steps = (pixels - first_pixel + DEPTH - 1) / DEPTH;
  auto copy = [&](int step) {
    float* a = a_buffers + step % 2 * DEPTH * ACROSS;
    float* b = b_buffers + step % 2 * DEPTH * B_ROW;
    const int start = first_pixel + step * DEPTH;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int m = start + a_pixel + 8 * i;
      const int h = m / OW % OH * SH + down, v = m % OW * SW + across;
      const bool there = m < pixels && row < rows && h >= 0 && h < H && v >= 0 && v < W;
      const int place = there ? ((m / OW / OH * H + h) * W + v) * C + channel : 0;
      cp_async16(a + (a_pixel + 8 * i) * ACROSS + a_row, x + place, there);
    }
#pragma unroll
    for (int k = b_pixel; k < DEPTH; k += AT_ONCE) {
      const bool there = start + k < pixels && first_column + b_column < O;
      const int place = there ? (start + k) * O + first_column + b_column : 0;
      cp_async16(b + k * B_ROW + b_column, g + place, there);
    }
    cp_async_commit();
  };

  float sums[MI][NJ][4];
  clear(sums);
  if (steps > 0) copy(0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) {
      copy(step + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    multiply(sums, a_buffers + step % 2 * DEPTH * ACROSS, 1, ACROSS, b_buffers + step % 2 * DEPTH * B_ROW,
             warp_row, warp_column);
    __syncthreads();
  }

  const int lane_row = thread % 32 / 4, lane_column = thread % 4 * 2;
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < NJ; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = first_row + warp_row + 16 * i + lane_row + 8 * half;
        const int o = first_column + warp_column + 8 * j + lane_column;
        if (r >= rows || o >= O) continue;
        *(float2*)(partial + (blockIdx.z * rows + r) * O + o) =
            make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
      }
}

// total (count) = partial (parts, count) summed over the parts, first to last. A thread per number.
extern "C" __global__ void sum_parts(const float* __restrict__ partial, float* __restrict__ total,
                                     int parts, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float sum = 0.0f;
  for (int p = 0; p < parts; ++p) sum += partial[p * count + i];
  total[i] = sum;
}
