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

// No thread may leave before the shuffles: threads beyond the last pixel work on the last one, too.
struct Share {
  int pixel, lane;
  bool real;
};
__device__ __forceinline__ Share share_of(int pixels) {
  const int thread = blockIdx.x * blockDim.x + threadIdx.x, pixel = thread / LANES;
  return {min(pixel, pixels - 1), thread % LANES, pixel < pixels};
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

// loss (pixels) = log(sum of exp(logits)) - logits[target], of logits (pixels, C); 0 where the target
// is `ignored`, and NaN where it is no class. LANES threads for each pixel.
extern "C" __global__ void cross_entropy(const float* __restrict__ logits,
                                         const int* __restrict__ target, float* __restrict__ loss,
                                         int ignored, int C, int pixels) {
  const Share my = share_of(pixels);
  float largest, sum;
  largest_and_sum(logits + my.pixel * C, my.lane, C, largest, sum);
  if (!my.real || my.lane > 0) return;
  const int label = target[my.pixel];
  const bool is_class = label >= 0 && label < C;
  const float at_target = is_class ? logits[my.pixel * C + label] - largest : NOT_A_NUMBER;
  loss[my.pixel] = label == ignored ? 0.0f : logf(sum) - at_target;
}

// error (pixels, C) = (softmax(logits) - 1 at the target) · the pixel's share. A pixel whose target
// is `ignored` has none.
extern "C" __global__ void softmax_error(const float* __restrict__ logits,
                                         const int* __restrict__ target,
                                         const float* __restrict__ share, float* __restrict__ error,
                                         int ignored, int C, int pixels) {
  const Share my = share_of(pixels);
  float largest, sum;
  largest_and_sum(logits + my.pixel * C, my.lane, C, largest, sum);
  if (!my.real) return;
  const int label = target[my.pixel];
  for (int c = my.lane; c < C; c += LANES) {
    const int i = my.pixel * C + c;
    const float one = c == label && label != ignored ? 1.0f : 0.0f;
    error[i] = (expf(logits[i] - largest) / sum - one) * share[my.pixel];
  }
}
