// Pooling: twins of kernels/pooling.py max_pool2d, max_scatter, max_gather, sum_pool2d, sum_spread.
//
// Window (p, q) of KH x KW places has its place (a, b) on pixel
//
//   (SH · p + DH · a - PH, SW · q + DW · b - PW)
//
// of the image (H, W), if that is inside. A result like the windows, (N, OH, OW, C), is made by one
// thread for each number, which goes through the places of its window. A result like the image is
// made the other way round: a thread has one pixel, and goes through the windows over it ("gather").
// So no two threads ever add to the same number, and the order of additions is always the same.

#include "images.cuh"
#include "special.cuh"

// Where the windows of a pooling lie, in one variable.
struct Window {
  int OH, OW, SH, SW, PH, PW, DH, DW;
};

// The pixel under place (a, b) of a window.
__device__ __forceinline__ Place pixel_under(Place window, int a, int b, Window g) {
  const int row = g.SH * window.row + g.DH * a - g.PH;
  const int column = g.SW * window.column + g.DW * b - g.PW;
  return {window.n, row, column, window.c};
}

// The window of which place (a, b) is on a pixel; its n is -1 if there is none.
__device__ __forceinline__ Place window_over(Place pixel, int a, int b, Window g) {
  const int down = pixel.row + g.PH - g.DH * a, across = pixel.column + g.PW - g.DW * b;
  const bool there = down >= 0 && across >= 0 && down % g.SH == 0 && across % g.SW == 0 &&
                     down / g.SH < g.OH && across / g.SW < g.OW;
  return {there ? pixel.n : -1, down / g.SH, across / g.SW, pixel.c};
}

// A NaN counts as larger than anything.
__device__ __forceinline__ bool is_larger(float x, float than) { return x > than || x != x; }
__device__ __forceinline__ bool is_maximum(float x, float largest) {
  return x == largest || x != x;
}

// y (N, OH, OW, C) = the largest number of each window of x (N, H, W, C); where relu is 1, at least 0.
// A thread for each of `count` groups of channels of y.
// Twin: kernels/pooling.py max_pool2d.
extern "C" __global__ void max_pool2d(const float* __restrict__ x, float* __restrict__ y, int H,
                                      int W, int C, int OH, int OW, int KH, int KW, int SH, int SW,
                                      int PH, int PW, int DH, int DW, int relu, int count) {
  const Window g = {OH, OW, SH, SW, PH, PW, DH, DW};
  const int i = thread_number();
  if (i >= count) return;  // the last block may have threads to spare
  const Place window = place_of(i, OH, OW, C);
  Channels largest = filled(MINUS_INFINITY);
  for (int a = 0; a < KH; ++a)
    for (int b = 0; b < KW; ++b) {
      const Place pixel = pixel_under(window, a, b, g);
      if (!inside(pixel.row, pixel.column, H, W)) continue;
      const Channels here = read(x, group_at(pixel, H, W, C));
#pragma unroll
      for (int e = 0; e < WIDE; ++e)
        if (is_larger(here.at[e], largest.at[e])) largest.at[e] = here.at[e];
    }
#pragma unroll
  for (int e = 0; e < WIDE; ++e)
    if (relu && largest.at[e] < 0.0f) largest.at[e] = 0.0f;
  write(y, i, largest);
}

// result (N, H, W, C) = each number of the gradient (N, OH, OW, C) at the first maximum y of its
// window of x, in reading order, added up. A thread for each of `count` groups of channels of the
// result: it takes from each window over it whose first maximum it is.
// Twin: kernels/pooling.py max_scatter.
extern "C" __global__ void max_scatter(const float* __restrict__ gradient,
                                       const float* __restrict__ x, const float* __restrict__ y,
                                       float* __restrict__ result, int H, int W, int C, int OH,
                                       int OW, int KH, int KW, int SH, int SW, int PH, int PW,
                                       int DH, int DW, int count) {
  const Window g = {OH, OW, SH, SW, PH, PW, DH, DW};
  const int i = thread_number();
  if (i >= count) return;
  const Place here = place_of(i, H, W, C);
  const Channels own = read(x, i);
  Channels sum = filled(0.0f);
  for (int a = 0; a < KH; ++a)
    for (int b = 0; b < KW; ++b) {
      const Place window = window_over(here, a, b, g);
      if (window.n < 0) continue;
      const int w = group_at(window, OH, OW, C);
      const Channels largest = read(y, w);
      bool mine[WIDE], any = false;
#pragma unroll
      for (int e = 0; e < WIDE; ++e) any |= mine[e] = is_maximum(own.at[e], largest.at[e]);
      // Unless an earlier place of the window has the maximum, too.
      for (int before = 0; any && before < a * KW + b; ++before) {
        const Place pixel = pixel_under(window, before / KW, before % KW, g);
        if (!inside(pixel.row, pixel.column, H, W)) continue;
        const Channels earlier = read(x, group_at(pixel, H, W, C));
        any = false;
#pragma unroll
        for (int e = 0; e < WIDE; ++e) any |= mine[e] &= !is_maximum(earlier.at[e], largest.at[e]);
      }
      if (!any) continue;
      const Channels share = read(gradient, w);
#pragma unroll
      for (int e = 0; e < WIDE; ++e)
        if (mine[e]) sum.at[e] += share.at[e];
    }
  write(result, i, sum);
}

// The same where no two windows share a pixel, without y: each number of x is then read once. A thread
// for each of `count` groups of channels of the gradient, which has a window: it looks for the first
// maximum, then writes to each place. Pixels in no window are left as they are.
// Twin: kernels/pooling.py max_scatter.
extern "C" __global__ void max_scatter_apart(const float* __restrict__ gradient,
                                             const float* __restrict__ x,
                                             float* __restrict__ result, int H, int W, int C,
                                             int OH, int OW, int KH, int KW, int SH, int SW, int PH,
                                             int PW, int DH, int DW, int count) {
  const Window g = {OH, OW, SH, SW, PH, PW, DH, DW};
  const int i = thread_number();
  if (i >= count) return;
  const Place window = place_of(i, OH, OW, C);
  Channels largest = filled(MINUS_INFINITY);
  int first[WIDE];
#pragma unroll
  for (int e = 0; e < WIDE; ++e) first[e] = -1;
  for (int place = 0; place < KH * KW; ++place) {
    const Place pixel = pixel_under(window, place / KW, place % KW, g);
    if (!inside(pixel.row, pixel.column, H, W)) continue;
    const Channels here = read(x, group_at(pixel, H, W, C));
#pragma unroll
    for (int e = 0; e < WIDE; ++e) {
      const bool was_nan = largest.at[e] != largest.at[e];
      if (first[e] >= 0 && (was_nan || !is_larger(here.at[e], largest.at[e]))) continue;
      largest.at[e] = here.at[e], first[e] = place;
    }
  }
  const Channels share = read(gradient, i);
  for (int place = 0; place < KH * KW; ++place) {
    const Place pixel = pixel_under(window, place / KW, place % KW, g);
    if (!inside(pixel.row, pixel.column, H, W)) continue;
    Channels part = filled(0.0f);
#pragma unroll
    for (int e = 0; e < WIDE; ++e)
      if (first[e] == place) part.at[e] = share.at[e];
    write(result, group_at(pixel, H, W, C), part);
  }
}

// result (N, OH, OW, C) = for each window, the number of v (like x) where x has its first maximum
// y. A thread for each of `count` groups of channels of the result.
// Twin: kernels/pooling.py max_gather.
extern "C" __global__ void max_gather(const float* __restrict__ v, const float* __restrict__ x,
                                      const float* __restrict__ y, float* __restrict__ result,
                                      int H, int W, int C, int OH, int OW, int KH, int KW, int SH,
                                      int SW, int PH, int PW, int DH, int DW, int count) {
  const Window g = {OH, OW, SH, SW, PH, PW, DH, DW};
  const int i = thread_number();
  if (i >= count) return;
  const Place window = place_of(i, OH, OW, C);
  const Channels largest = read(y, i);
  Channels taken = filled(0.0f);
  bool found[WIDE] = {};
  for (int a = 0; a < KH; ++a)
    for (int b = 0; b < KW; ++b) {
      const Place pixel = pixel_under(window, a, b, g);
      if (!inside(pixel.row, pixel.column, H, W)) continue;
      const int at = group_at(pixel, H, W, C);
      const Channels here = read(x, at), value = read(v, at);
#pragma unroll
      for (int e = 0; e < WIDE; ++e) {
        const bool first = !found[e] && is_maximum(here.at[e], largest.at[e]);
        if (first) taken.at[e] = value.at[e];
        found[e] |= first;
      }
    }
  write(result, i, taken);
}

// y (N, OH, OW, C) = the sum of each window of x (N, H, W, C); zeros beyond the edges. A thread for
// each of `count` groups of channels of y.
// Twin: kernels/pooling.py sum_pool2d.
extern "C" __global__ void sum_pool2d(const float* __restrict__ x, float* __restrict__ y, int H,
                                      int W, int C, int OH, int OW, int KH, int KW, int SH, int SW,
                                      int PH, int PW, int DH, int DW, int count) {
  const Window g = {OH, OW, SH, SW, PH, PW, DH, DW};
  const int i = thread_number();
  if (i >= count) return;
  const Place window = place_of(i, OH, OW, C);
  Channels sum = filled(0.0f);
  for (int a = 0; a < KH; ++a)
    for (int b = 0; b < KW; ++b) {
      const Place pixel = pixel_under(window, a, b, g);
      if (inside(pixel.row, pixel.column, H, W)) add(sum, read(x, group_at(pixel, H, W, C)));
    }
  write(y, i, sum);
}

// result (N, H, W, C) = each number of the gradient (N, OH, OW, C) at all pixels of its window,
// added up. A thread for each of `count` groups of channels of the result.
// Twin: kernels/pooling.py sum_spread.
extern "C" __global__ void sum_spread(const float* __restrict__ gradient,
                                      float* __restrict__ result, int H, int W, int C, int OH,
                                      int OW, int KH, int KW, int SH, int SW, int PH, int PW,
                                      int DH, int DW, int count) {
  const Window g = {OH, OW, SH, SW, PH, PW, DH, DW};
  const int i = thread_number();
  if (i >= count) return;
  const Place here = place_of(i, H, W, C);
  Channels sum = filled(0.0f);
  for (int a = 0; a < KH; ++a)
    for (int b = 0; b < KW; ++b) {
      const Place window = window_over(here, a, b, g);
      if (window.n >= 0) add(sum, read(gradient, group_at(window, OH, OW, C)));
    }
  write(result, i, sum);
}
