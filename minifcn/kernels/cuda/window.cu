// Images with a frame of zeros around them: twin of functional/slicing.py put_slice, which is the
// gradient of a crop. CuPy would write the zeros, then the numbers, number by number.

#include "images.cuh"

// y (N, H, W, C) = x (N, h, w, C) from row `top` and column `left` on, and zeros around it. A thread
// for each of `count` groups of channels of y.
// Twin: functional/slicing.py put_slice.
extern "C" __global__ void put(const float* __restrict__ x, float* __restrict__ y, int H, int W,
                               int C, int h, int w, int top, int left, int count) {
  const int i = thread_number();
  if (i >= count) return;  // the last block may have threads to spare
  Place here = place_of(i, H, W, C);
  here.row -= top;
  here.column -= left;
  const bool there = inside(here.row, here.column, h, w);
  write(y, i, there ? read(x, group_at(here, h, w, C)) : filled(0.0f));
}
