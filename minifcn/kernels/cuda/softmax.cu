// Softmax and cross-entropy: twins of kernels/softmax.py cross_entropy and softmax_error.
//
// A pixel has one number (logit) for each class, side by side in memory: 21, perhaps. With a thread
// for each pixel, neighbouring threads would read numbers that are 21 apart. So LANES threads share
// a pixel: lane l has the classes l, l + LANES, l + 2 · LANES and so on. What they find is put
// together by shuffles, in which the threads of a warp show each other their registers:
//
//   lane       0     1     2     3
//             m0    m1    m2    m3
//   with ^1:  m01   m01   m23   m23      each takes the larger of its own and its neighbour's,
//   with ^2:  m     m     m     m        then of the one two further on: all have the maximum
//
// The same with sums. It always adds in one order, so results never change from run to run.
//
// LANES is given at compile time: a power of two, at most 32.

#include "special.cuh"

// The scores may be a window of larger images: image n begins at n · `image`, and its row r so much
// further on as r · `row` says, both counted in numbers.
struct Window {
  int H, W, C, image, row;
};

// No thread may leave before the shuffles: threads beyond the last pixel work on the last one, too.
struct Share {
  int pixel, lane, start;  // `start`: where the pixel's logits begin
  bool real;
};
__device__ __forceinline__ Share share_of(int pixels, Window at) {
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  const int pixel = min(thread / LANES, pixels - 1), line = pixel / at.W;
  const int start = line / at.H * at.image + line % at.H * at.row + pixel % at.W * at.C;
  return {pixel, thread % LANES, start, thread / LANES < pixels};
}

__device__ __forceinline__ float together_max(float mine) {
#pragma unroll
  for (int across = 1; across < LANES; across *= 2)
    mine = fmaxf(mine, __shfl_xor_sync(0xffffffffu, mine, across));
  return mine;
}

__device__ __forceinline__ float together_sum(float mine) {
#pragma unroll
  for (int across = 1; across < LANES; across *= 2)
    mine += __shfl_xor_sync(0xffffffffu, mine, across);
  return mine;
}

// The largest logit of a pixel, and the sum of exp(logit - largest): nothing overflows. A NaN is
// left out of the maximum, and makes the sum NaN.
__device__ __forceinline__ void largest_and_sum(const float* logits, int lane, int C,
                                                float& largest, float& sum) {
  float mine = MINUS_INFINITY;
  for (int c = lane; c < C; c += LANES) mine = fmaxf(mine, logits[c]);
  largest = together_max(mine);
  mine = 0.0f;
  for (int c = lane; c < C; c += LANES) mine += expf(logits[c] - largest);
  sum = together_sum(mine);
}

// loss (pixels) = log(sum of exp(logits)) - logits[target], of logits (N, H, W, C); 0 where the target
// is `ignored`, and NaN where it is no class. LANES threads for each pixel.
// Twin: kernels/softmax.py cross_entropy.
extern "C" __global__ void cross_entropy(const float* __restrict__ logits,
                                         const int* __restrict__ target, float* __restrict__ loss,
                                         int ignored, int H, int W, int C, int image, int row,
                                         int pixels) {
  const Share my = share_of(pixels, {H, W, C, image, row});
  float largest, sum;
  largest_and_sum(logits + my.start, my.lane, C, largest, sum);
  if (!my.real || my.lane > 0) return;
  const int label = target[my.pixel];
  const bool is_class = label >= 0 && label < C;
  const float at_target = is_class ? logits[my.start + label] - largest : NOT_A_NUMBER;
  loss[my.pixel] = label == ignored ? 0.0f : logf(sum) - at_target;
}

// error (N, H, W, C) = (softmax(logits) - 1 at the target) · the pixel's share. A pixel whose target
// is `ignored` has none.
// Twin: kernels/softmax.py softmax_error.
extern "C" __global__ void softmax_error(const float* __restrict__ logits,
                                         const int* __restrict__ target,
                                         const float* __restrict__ share, float* __restrict__ error,
                                         int ignored, int H, int W, int C, int image, int row,
                                         int pixels) {
  const Share my = share_of(pixels, {H, W, C, image, row});
  float largest, sum;
  largest_and_sum(logits + my.start, my.lane, C, largest, sum);
  if (!my.real) return;
  const int label = target[my.pixel];
  for (int c = my.lane; c < C; c += LANES) {
    const float one = c == label && label != ignored ? 1.0f : 0.0f;
    const float excess = expf(logits[my.start + c] - largest) / sum - one;
    error[my.pixel * C + c] = excess * share[my.pixel];
  }
}
