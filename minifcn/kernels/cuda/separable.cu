// Bilinear upsampling and its transpose, along one axis: twins of kernels/separable.py upsample and
// downsample, and of the matrix R there:
//
//   y = R · x    with R[stride · p + a - padding, p] = tent[a].
//
// Most of R is zero, and here it is never made: number q of y only sees those p for which
// a = q + padding - stride · p is in the tent, two of them if the tent is 2 · stride long.
//
// An image is enlarged along its columns, then along its rows. What lies before the axis in memory
// is `outer`, what lies behind it `inner`: for the rows of (N, H, W, C), inner is W · C.
//
// Whether a weight is made of tents, the CPU would have to wait to be told. So the GPU decides: each
// kernel that works with the tents does nothing if there are none, and each that works with the whole
// weight does nothing if there are. tent[length] is 1 or 0 and says which.

#include "images.cuh"

__device__ __forceinline__ void add_times(Channels& sum, float factor, Channels more) {
#pragma unroll
  for (int e = 0; e < WIDE; ++e) sum.at[e] += factor * more.at[e];
}

// y (outer, size, inner) = R · x, of x (outer, n, inner). A thread for each of `count` groups of y.
// Twin: kernels/separable.py upsample.
extern "C" __global__ void upsample(const float* __restrict__ x, const float* __restrict__ tent,
                                    float* __restrict__ y, int n, int size, int inner, int length,
                                    int stride, int padding, int count) {
  const int i = thread_number();
  if (i >= count || tent[length] == 0.0f) return;  // the last block may have threads to spare
  const int before = i / inner / size, at = i / inner % size + padding;
  const int first = max(0, (at - length + stride) / stride), last = min(n - 1, at / stride);
  Channels sum = filled(0.0f);
  for (int p = first; p <= last; ++p)
    add_times(sum, tent[at - stride * p], read(x, (before * n + p) * inner + i % inner));
  write(y, i, sum);
}

// x (outer, n, inner) = Rᵀ · y, of y (outer, size, inner). A thread for each of `count` groups of x.
// Twin: kernels/separable.py downsample.
extern "C" __global__ void downsample(const float* __restrict__ y, const float* __restrict__ tent,
                                      float* __restrict__ x, int n, int size, int inner, int length,
                                      int stride, int padding, int count) {
  const int i = thread_number();
  if (i >= count || tent[length] == 0.0f) return;
  const int before = i / inner / n, start = i / inner % n * stride - padding;
  Channels sum = filled(0.0f);
  for (int a = max(0, -start); a < min(length, size - start); ++a)
    add_times(sum, tent[a], read(y, (before * size + start + a) * inner + i % inner));
  write(x, i, sum);
}

// ---- is it made of tents? ------------------------------------------------------------------------

// The weight's number at row a and column b, from channel `in` to channel `out`; in memory it is
// (length, length, C, C). The tent is the middle row of the first channel's kernel, over the root of
// its middle: tent[a] · tent[b] then are the kernel.
__device__ __forceinline__ float tent_at(const float* weight, int length, int C, int a) {
  const float* const middle = weight + length / 2 * length * C * C;
  return middle[a * C * C] / sqrtf(middle[length / 2 * C * C]);
}

// same[block] = 1 if none of the weight's `count` numbers that this block sees differs from what
// tents would make, else 0.
// Twin: kernels/separable.py tent_of.
extern "C" __global__ void __launch_bounds__(256) compare(const float* __restrict__ weight,
                                                          int* __restrict__ same, int length, int C,
                                                          int count) {
  __shared__ int differs[256];
  differs[threadIdx.x] = 0;
  for (int i = thread_number(); i < count; i += gridDim.x * blockDim.x) {
    const int in = i % C, out = i / C % C, tap = i / C / C;
    const float product = tent_at(weight, length, C, tap / length) *
                          tent_at(weight, length, C, tap % length);
    const float wanted = in == out ? product : 0.0f, most = in == out ? 1e-7f : 0.0f;
    // Written so that a NaN differs, too.
    if (!(fabsf(weight[i] - wanted) <= most + 1e-6f * fabsf(wanted))) differs[threadIdx.x] = 1;
  }
  __syncthreads();  // all have written
  if (threadIdx.x > 0) return;
  for (int thread = 1; thread < 256; ++thread) differs[0] |= differs[thread];
  same[blockIdx.x] = !differs[0];
}

// tent (length + 1) = the tent of the weight; then 1 if all `parts` of it are made of tents, else 0.
// Twin: kernels/separable.py tent_of.
extern "C" __global__ void agree(const float* __restrict__ weight, const int* __restrict__ same,
                                 float* __restrict__ tent, int length, int C, int parts) {
  const int i = thread_number();
  if (i < length) tent[i] = tent_at(weight, length, C, i);
  if (i != length) return;
  bool all = true;
  for (int part = 0; part < parts; ++part) all &= same[part] == 1;
  tent[length] = all ? 1.0f : 0.0f;
}

// ---- if it is not --------------------------------------------------------------------------------

// y (N, OH, OW, C) = the transposed convolution of x (N, H, W, C) with the whole weight. Some threads
// share the `count` numbers of y: not one for each, as all have to be started, only to return.
// Twin: kernels/im2col.py conv_transpose2d.
extern "C" __global__ void upsample_by_all(const float* __restrict__ x,
                                           const float* __restrict__ weight,
                                           const float* __restrict__ tent, float* __restrict__ y,
                                           int H, int W, int C, int OH, int OW, int length, int SH,
                                           int SW, int PH, int PW, int count) {
  if (tent[length] == 1.0f) return;
  for (int i = thread_number(); i < count; i += gridDim.x * blockDim.x) {
    const Place here = place_of(i, OH, OW, C);
    float sum = 0.0f;
    for (int a = (here.row + PH) % SH; a < length; a += SH)
      for (int b = (here.column + PW) % SW; b < length; b += SW) {
        const int row = (here.row + PH - a) / SH, column = (here.column + PW - b) / SW;
        if (here.row + PH < a || here.column + PW < b || row >= H || column >= W) continue;
        const float* const pixel = x + ((here.n * H + row) * W + column) * C;
        const float* const factors = weight + ((a * length + b) * C + here.c) * C;
        for (int in = 0; in < C; ++in) sum += pixel[in] * factors[in];
      }
    y[i] = sum;
  }
}

// x (N, H, W, C) = the convolution of y (N, OH, OW, C) with it, which is the transpose of the above.
// Twin: kernels/im2col.py conv2d.
extern "C" __global__ void downsample_by_all(const float* __restrict__ y,
                                             const float* __restrict__ weight,
                                             const float* __restrict__ tent, float* __restrict__ x,
                                             int H, int W, int C, int OH, int OW, int length, int SH,
                                             int SW, int PH, int PW, int count) {
  if (tent[length] == 1.0f) return;
  for (int i = thread_number(); i < count; i += gridDim.x * blockDim.x) {
    const Place here = place_of(i, H, W, C);
    float sum = 0.0f;
    for (int a = 0; a < length; ++a)
      for (int b = 0; b < length; ++b) {
        const int row = here.row * SH + a - PH, column = here.column * SW + b - PW;
        if (!inside(row, column, OH, OW)) continue;
        const float* const pixel = y + ((here.n * OH + row) * OW + column) * C;
        const float* const factors = weight + (a * length + b) * C * C + here.c;
        for (int out = 0; out < C; ++out) sum += pixel[out] * factors[out * C];
      }
    x[i] = sum;
  }
}
