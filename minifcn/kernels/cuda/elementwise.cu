// Operations that treat each number by itself: twins of kernels/elementwise.py where_positive and of
// the last lines of kernels/im2col.py conv2d (bias and ReLU).

#include "images.cuh"

// result = g · (1 where y is above 0, else 0). A thread for each of `count` groups of numbers.
// Twin: kernels/elementwise.py where_positive.
extern "C" __global__ void where_positive(const float* __restrict__ g, const float* __restrict__ y,
                                          float* __restrict__ result, int count) {
  const int i = thread_number();
  if (i >= count) return;  // the last block may have threads to spare
  const Channels gradient = read(g, i), output = read(y, i);
  Channels product;
#pragma unroll
  for (int e = 0; e < WIDE; ++e)
    product.at[e] = gradient.at[e] * (output.at[e] > 0.0f ? 1.0f : 0.0f);
  write(result, i, product);
}

// y (pixels, C) += bias (C), in place; where relu is 1, what is negative then becomes 0, and a NaN
// stays one. A thread for each of `count` groups of channels of y.
// Twin: kernels/im2col.py conv2d, its last lines.
extern "C" __global__ void add_bias(float* __restrict__ y, const float* __restrict__ bias, int C,
                                    int relu, int count) {
  const int i = thread_number();
  if (i >= count) return;
  Channels sum = read(y, i);
  add(sum, read(bias, i % C));
#pragma unroll
  for (int e = 0; e < WIDE; ++e)
    if (relu && sum.at[e] < 0.0f) sum.at[e] = 0.0f;
  write(y, i, sum);
}
