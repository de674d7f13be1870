// Convolution on tensor cores, without a matrix of patches: twins of kernels/im2col.py conv2d and
// conv2d_weight. Here is all of it but the kernels' names: conv.cu is for float32 numbers, which it
// rounds to tf32; conv16.cu for numbers that were rounded to 16 bits before.
//
// A convolution is a matrix product Y = A · B: row m of A is the patch under output pixel m, column k
// of it is one number of a patch (kernel row, kernel column, channel), and B is the weight. A is never
// made. A block of threads computes a tile of Y and goes through k in steps of DEPTH. Each step copies
// the numbers it needs, straight from the image, to shared memory:
//
//                       COLUMNS (output channels)
//                      +-----------+
//          DEPTH of k  |     b     |       The warps share the tile. Each computes 64 rows x 64 (or
//                      +-----------+       32) columns of it, in registers, so a number of a or b is
//          DEPTH of k                      used 64 times for each time that a warp reads it.
//        +------------+-----------+
//   ROWS |     a      |  tile of  |  ----> + bias, ReLU, to memory: once
//        |            |     Y     |
//        +------------+-----------+
//
// Nothing may wait for memory, so everything is fetched ahead:
//
//   image, weight --cp.async--> shared memory --ldmatrix--> registers --mma--> sums
//                  STAGES - 1 steps ahead       one piece ahead
//
// Copies move 16 bytes, WIDE neighbouring channels: channel numbers must be multiples of WIDE. Where
// a patch hangs over the image's edge, zeros are "copied"; the address, outside x then, is not used
// (it is computed without a sign, as such numbers may wrap round).
//
// Constants given at compile time: ROWS, COLUMNS, DEPTH, STAGES, TURNED (see `convolve`), and PRECISION
// (0: tf32, 1: bf16, 2: fp16). Sums are float32 always.

#include "tensor_core.cuh"

#if PRECISION == 0
typedef float Number;
#else
typedef unsigned short Number;  // the 16 bits of a bf16 or fp16
#endif
constexpr int WIDE = 16 / sizeof(Number);  // numbers of a vector of 16 bytes
constexpr int PIECE = 2 * WIDE;            // of k: what one mma multiplies
constexpr int PIECES = DEPTH / PIECE;      // of a step

constexpr int WARP_ROWS = 64, WARP_COLUMNS = COLUMNS > 64 ? 64 : 32;
constexpr int WARPS_ACROSS = COLUMNS / WARP_COLUMNS;
constexpr int THREADS = 32 * (ROWS / WARP_ROWS) * WARPS_ACROSS;
constexpr int MI = WARP_ROWS / 16, NJ = WARP_COLUMNS / 8;  // a warp's tiles of 16 x 8
static_assert(PIECES % 2 == 0 && STAGES >= 2 && THREADS >= 128, "other constants need other loops");

// ---- tiles in shared memory ----------------------------------------------------------------------

// A tile of a has SIZE = ROWS rows of y and DEPTH of k, one of b SIZE = COLUMNS. It lies in shared
// memory as its numbers lie in the array that they come from: in rows along k (patches, whose
// channels are neighbours), or in rows across k (the weight, with output channels side by side).
//
// Shared memory has 32 banks of 4 bytes, and gives 8 vectors of 16 bytes at once if they take all
// banks: if their places differ % 8. Reading goes down a column of 8 rows, so in each row vectors
// stand in another order: vector v at place v ^ (something that differs between the rows), e.g. with
// rows of 8 vectors
//                 row 0:  0 1 2 3 4 5 6 7
//                 row 1:  1 0 3 2 5 4 7 6
//                 row 2:  2 3 0 1 6 7 4 5  ...    and so in each column stand 8 different vectors
//
// float32 across k is read otherwise, as no ldmatrix can turn it over: number by number, 8 neighbours
// in each of 4 rows at once. There rows are 8 numbers longer than needed, so that 4 of them begin at
// different banks, too.
template <bool along, int SIZE>
struct Tile {
  static constexpr bool BY_LANES = !along && sizeof(Number) == 4;
  static constexpr int LENGTH = along ? DEPTH : SIZE, ROW = LENGTH + (BY_LANES ? 8 : 0);  // numbers
  static constexpr int HEIGHT = along ? SIZE : DEPTH, NUMBERS = HEIGHT * ROW;
  static constexpr int VECTORS = LENGTH / WIDE;                   // of a row
  static constexpr int TOGETHER = VECTORS < 8 ? 8 / VECTORS : 1;  // rows that fill all banks once
  static constexpr int ORDERS = BY_LANES ? 1 : VECTORS < 8 ? VECTORS : 8;

  static __device__ __forceinline__ int place(unsigned row, unsigned vector) {
    return row * ROW + (vector ^ row / TOGETHER % ORDERS) * WIDE;
  }

  // Reads a warp's next piece, 16 rows or columns of y (from `first` on) x PIECE of k, as an mma wants
  // it: four words a lane, one of each quarter (8 x a vector). Word e is of the first or second 8 (its
  // `side`), and of the first or second half of k (`deep`). Which is which differs: the quarters of a
  // are counted along the side first, those of b along k.
  //
  // Of float32 across k, a lane reads two neighbours of a at once, and takes them for the two sides:
  // row 2 g of y is then row g of the mma, and row 2 g + 1 its row g + 8. `store` knows it.
  template <bool of_a>
  static __device__ __forceinline__ void read(unsigned* words, const Number* tile, int first, int k) {
    const unsigned lane = threadIdx.x % 32;
    if (BY_LANES) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int side = of_a ? e % 2 : e / 2, deep = of_a ? e / 2 : e % 2;
        const unsigned row = k + 4 * deep + lane % 4;
        const unsigned column = first + (of_a ? lane / 4 * 2 : lane / 4 + 8 * side);
        const Number* number = tile + place(row, column / WIDE) + column % WIDE;
        if (!of_a) words[e] = *(const unsigned*)number;
        else if (side == 0) *(uint2*)(words + e) = *(const uint2*)number;
      }
    } else {  // lane 8 e + i names the i-th row of quarter e
      const unsigned e = lane / 8, side = of_a ? e % 2 : e / 2, deep = of_a ? e / 2 : e % 2;
      if (along) ldmatrix(words, tile + place(first + 8 * side + lane % 8, k / WIDE + deep));
      else ldmatrix_transposed(words, tile + place(k + 8 * deep + lane % 8, first / 8 + side));
    }
  }
};

// ---- from tiles to sums --------------------------------------------------------------------------

// A warp's part of a piece, and the products of it.
struct Piece {
  unsigned left[MI][4], right[NJ / 2][4];

  template <class A, class B>
  __device__ __forceinline__ void read(const Number* a, const Number* b, int k) {
    const int warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < MI; ++i)
      A::template read<true>(left[i], a, warp / WARPS_ACROSS * WARP_ROWS + 16 * i, k);
#pragma unroll
    for (int j = 0; j < NJ / 2; ++j)
      B::template read<false>(right[j], b, warp % WARPS_ACROSS * WARP_COLUMNS + 16 * j, k);
  }

  __device__ __forceinline__ void multiply(float (*sums)[NJ][4]) {
#if PRECISION == 0
#pragma unroll
    for (int e = 0; e < MI * 4; ++e) left[e / 4][e % 4] = to_tf32(__int_as_float(left[e / 4][e % 4]));
#pragma unroll
    for (int e = 0; e < NJ * 2; ++e) right[e / 4][e % 4] = to_tf32(__int_as_float(right[e / 4][e % 4]));
#endif
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int j = 0; j < NJ; ++j) {
        const unsigned* r = right[j / 2] + j % 2 * 2;
#if PRECISION == 0
        mma_tf32(sums[i][j], left[i], r);
#elif PRECISION == 1
        mma_bf16(sums[i][j], left[i], r);
#else
        mma_fp16(sums[i][j], left[i], r);
#endif
      }
  }
};

// Wait until the next step's tiles lie in shared memory. Of the copies under way, the oldest are its.
__device__ __forceinline__ void next_step() {
  cp_async_wait<STAGES - 2>();  // this thread's have arrived,
  __syncthreads();              // and those of all others; and nobody reads the step before any more
}

// Go through all steps: `copy(a, b)` starts the copies of the next one.
template <class A, class B, class Copy>
__device__ __forceinline__ void multiply_all(float (*sums)[NJ][4], Number* memory, int steps, Copy copy) {
  constexpr int STAGE = A::NUMBERS + B::NUMBERS;
#pragma unroll
  for (int i = 0; i < MI * NJ * 4; ++i) sums[i / (NJ * 4)][i / 4 % NJ][i % 4] = 0.0f;
#pragma unroll
  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < steps) copy(memory + step * STAGE, memory + step * STAGE + A::NUMBERS);
    cp_async_commit();
  }
  Number *a = memory, *next = memory + (STAGES - 1) * STAGE;
  Piece pieces[2];
  next_step();
  pieces[0].template read<A, B>(a, a + A::NUMBERS, 0);
  for (int step = 0; step < steps; ++step) {
    if (step + STAGES - 1 < steps) copy(next, next + A::NUMBERS);
    cp_async_commit();
    next = next + STAGE < memory + STAGES * STAGE ? next + STAGE : memory;
#pragma unroll
    for (int piece = 0; piece < PIECES; ++piece) {
      if (piece + 1 == PIECES) {  // the step's last piece is in registers already
        next_step();
        a = a + STAGE < memory + STAGES * STAGE ? a + STAGE : memory;
      }
      // Behind the very last piece stands nothing; it is read, and not used.
      pieces[(piece + 1) % 2].template read<A, B>(a, a + A::NUMBERS, (piece + 1) % PIECES * PIECE);
      pieces[piece % 2].multiply(sums);
    }
  }
}

// Write a warp's part of a tile to y (rows, O); with a bias (O) if there is one, and a ReLU if asked.
// What a lane has of an mma's result, is told in tensor_core.cuh.
template <class A>
__device__ __forceinline__ void store(const float (*sums)[NJ][4], float* y, int rows, int O,
                                      const float* bias, int relu) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_row = blockIdx.x * ROWS + warp / WARPS_ACROSS * WARP_ROWS;
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
        const int row = first_row + 16 * i + (A::BY_LANES ? lane / 4 * 2 + half : lane / 4 + 8 * half);
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

// ---- what is multiplied --------------------------------------------------------------------------

// Of a convolution: x (N, H, W, C), y (N, OH, OW, O), kernel, stride, padding and dilation.
struct Sizes {
  int N, H, W, C, OH, OW, O, KH, KW, SH, SW, PH, PW, DH, DW;
};

// One comparison for two: what is negative is very large without a sign.
__device__ __forceinline__ bool inside(int at, int size) { return (unsigned)at < (unsigned)size; }

// y (N, OH, OW, O) = the convolution of x (N, H, W, C) with w (KH, KW, C, O), plus bias (O) if biased
// is 1; where relu is 1, what is negative becomes 0. If TURNED, w is (KH, KW, O, C) and its taps are
// counted backwards: the weight of the convolution of which this one is the gradient in its input.
//
// Blocks: (rows of tiles, columns of tiles, parts). If there are not tiles enough to keep the GPU
// busy, several blocks share a tile: each part takes `each` of the steps and writes its sums to y
// (parts, N, OH, OW, O); then `sum_parts` follows.
__device__ __forceinline__ void convolve(const Number* x, const Number* w, const float* bias, float* y,
                                         Sizes s, int each, int biased, int relu) {
  extern __shared__ __align__(128) Number memory[];
  typedef Tile<true, ROWS> A;
  typedef Tile<TURNED, COLUMNS> B;
  const int thread = threadIdx.x, pixels = s.N * s.OH * s.OW;

  // This thread copies one vector of some rows of a. Where the patches of these rows start: their
  // first row and column in the image, and their place in x (which may lie outside: so no sign).
  constexpr int A_AT_ONCE = THREADS / A::VECTORS, A_COPIES = ROWS / A_AT_ONCE;
  const int a_row = thread / A::VECTORS, a_vector = thread % A::VECTORS;
  int top[A_COPIES], left[A_COPIES];
  unsigned start[A_COPIES];
#pragma unroll
  for (int i = 0; i < A_COPIES; ++i) {
    const int m = blockIdx.x * ROWS + a_row + A_AT_ONCE * i;
    top[i] = m < pixels ? m / s.OW % s.OH * s.SH - s.PH : -(1 << 30);  // beyond the last: never inside
    left[i] = m % s.OW * s.SW - s.PW;
    start[i] = (((unsigned)(m / s.OW / s.OH) * s.H + top[i]) * s.W + left[i]) * s.C;
  }
  // And of b.
  constexpr int B_AT_ONCE = THREADS / B::VECTORS, B_COPIES = B::HEIGHT / B_AT_ONCE;
  const int b_row = thread / B::VECTORS, b_vector = thread % B::VECTORS;
  const int column = blockIdx.y * COLUMNS;

  // Taps change fastest: neighbouring taps read nearly the same pixels, which are still in the cache.
  const int taps = s.KH * s.KW, all = taps * ((s.C + DEPTH - 1) / DEPTH);
  const int first = blockIdx.z * each, steps = min(each, all - first);
  int channel = first / taps * DEPTH, kernel_row = first % taps / s.KW, kernel_column = first % s.KW;
  auto copy = [&](Number* a, Number* b) {
    const int down = kernel_row * s.DH, across = kernel_column * s.DW, c = channel + a_vector * WIDE;
    const unsigned shift = (unsigned)(down * s.W + across) * s.C + c;
#pragma unroll
    for (int i = 0; i < A_COPIES; ++i) {
      const bool there = c < s.C && inside(top[i] + down, s.H) && inside(left[i] + across, s.W);
      cp_async16_cached(a + A::place(a_row + A_AT_ONCE * i, a_vector), x + (start[i] + shift), there);
    }
    const int tap = kernel_row * s.KW + kernel_column;
#pragma unroll
    for (int i = 0; i < B_COPIES; ++i) {
      const int row = b_row + B_AT_ONCE * i;
      const int k = channel + (TURNED ? b_vector * WIDE : row);
      const int o = column + (TURNED ? row : b_vector * WIDE);
      const unsigned place = TURNED ? ((taps - 1 - tap) * s.O + o) * s.C + k : (tap * s.C + k) * s.O + o;
      cp_async16(b + B::place(row, b_vector), w + place, k < s.C && o < s.O);
    }
    if (++kernel_column == s.KW) kernel_column = 0, ++kernel_row;
    if (kernel_row == s.KH) kernel_row = 0, channel += DEPTH;
  };
  float sums[MI][NJ][4];
  multiply_all<A, B>(sums, memory, steps, copy);
  store<A>(sums, y + blockIdx.z * pixels * s.O, pixels, s.O, biased ? bias : nullptr, relu);
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
__device__ __forceinline__ void weight_gradient(const Number* x, const Number* g, float* dw, Sizes s,
                                                int each) {
  extern __shared__ __align__(128) Number memory[];
  typedef Tile<false, ROWS> A;
  typedef Tile<false, COLUMNS> B;
  const int thread = threadIdx.x, rows = s.KH * s.KW * s.C;
  const Divisor by_width(s.OW), by_height(s.OH);

  // This thread copies the same vector of a's rows (channels of one tap) for some pixels of a step.
  constexpr int A_AT_ONCE = THREADS / A::VECTORS, A_COPIES = DEPTH / A_AT_ONCE;
  const int a_pixel = thread / A::VECTORS, a_vector = thread % A::VECTORS;
  // Beyond the last row they are any numbers; what comes of them is not written.
  const int row = blockIdx.x * ROWS + a_vector * WIDE, tap = row / s.C, channel = row % s.C;
  const int down = tap / s.KW * s.DH - s.PH, across = tap % s.KW * s.DW - s.PW;
  constexpr int B_AT_ONCE = THREADS / B::VECTORS, B_COPIES = DEPTH / B_AT_ONCE;
  const int b_pixel = thread / B::VECTORS, b_vector = thread % B::VECTORS;
  const int o = blockIdx.y * COLUMNS + b_vector * WIDE;

  int first = blockIdx.z * each;  // pixel of a step
  const int pixels = min(s.N * s.OH * s.OW, first + each);
  auto copy = [&](Number* a, Number* b) {
#pragma unroll
    for (int i = 0; i < A_COPIES; ++i) {
      const int k = a_pixel + A_AT_ONCE * i;
      const int m = first + k, line = by_width(m), image = by_height(line);
      const int h = (line - image * s.OH) * s.SH + down, v = (m - line * s.OW) * s.SW + across;
      const bool there = m < pixels && inside(h, s.H) && inside(v, s.W);
      const unsigned place = (((unsigned)image * s.H + h) * s.W + v) * s.C + channel;
      cp_async16(a + A::place(k, a_vector), x + place, there);
    }
#pragma unroll
    for (int i = 0; i < B_COPIES; ++i) {
      const int k = b_pixel + B_AT_ONCE * i;
      const unsigned place = (unsigned)(first + k) * s.O + o;
      cp_async16(b + B::place(k, b_vector), g + place, first + k < pixels && o < s.O);
    }
    first += DEPTH;
  };
  float sums[MI][NJ][4];
  multiply_all<A, B>(sums, memory, (pixels - first + DEPTH - 1) / DEPTH, copy);
  store<A>(sums, dw + blockIdx.z * rows * s.O, rows, s.O, nullptr, 0);
}

// total (count) = partial (parts, count) summed over the parts, first to last: always in one order.
// Then bias (O) and ReLU as in conv2d, where total is (count / O, O). A thread for each number.
// No twin, as the CPU has no such parts: tests compare with NumPy's sum over them.
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
