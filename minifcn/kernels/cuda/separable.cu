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

#include "images.cuh"

__device__ __forceinline__ void add_times(Channels& sum, float factor, Channels more) {
#pragma unroll
  for (int e = 0; e < WIDE; ++e) sum.at[e] += factor * more.at[e];
}

// y (outer, size, inner) = R · x, of x (outer, n, inner). A thread for each of `count` groups of y.
extern "C" __global__ void upsample(const float* __restrict__ x, const float* __restrict__ tent,
                                    float* __restrict__ y, int n, int size, int inner, int length,
                                    int stride, int padding, int count) {
  const int i = thread_number();
  if (i >= count) return;  // the last block may have threads to spare
  const int before = i / inner / size, at = i / inner % size + padding;
  const int first = max(0, (at - length + stride) / stride), last = min(n - 1, at / stride);
  Channels sum = filled(0.0f);
  for (int p = first; p <= last; ++p)
    add_times(sum, tent[at - stride * p], read(x, (before * n + p) * inner + i % inner));
  write(y, i, sum);
}

// x (outer, n, inner) = Rᵀ · y, of y (outer, size, inner). A thread for each of `count` groups of x.
extern "C" __global__ void downsample(const float* __restrict__ y, const float* __restrict__ tent,
                                      float* __restrict__ x, int n, int size, int inner, int length,
                                      int stride, int padding, int count) {
  const int i = thread_number();
  if (i >= count) return;
  const int before = i / inner / n, start = i / inner % n * stride - padding;
  Channels sum = filled(0.0f);
  for (int a = max(0, -start); a < min(length, size - start); ++a)
    add_times(sum, tent[a], read(y, (before * size + start + a) * inner + i % inner));
  write(x, i, sum);
}
