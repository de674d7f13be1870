// The matrix of patches (im2col) and its transpose (col2im): twins of kernels/im2col.py patches and
// of the additions in kernels/few_pixels.py conv_transpose2d.
//
// Row m of the matrix is the patch under pixel m of the output, or of a band of its rows: `rows`
// rows from number `first` on, OW pixels each. Place (a, b) of the patch under pixel (p, q) is pixel
//
//   (SH · p + DH · a - PH, SW · q + DW · b - PW)
//
// of the image. Each number of the image may be in KH · KW patches. To add up all patches, one could
// go through them and add each number to its place; but then threads meet at the same place, and
// must wait for each other ("atomic" additions, in any order: results differ from run to run). So
// col2im gathers: each thread has one number of the image, and looks for the patches that hold it.

#include "images.cuh"

// columns (N, rows, OW, KH, KW, C) = the patches of x (N, H, W, C); zeros beyond the edges. A thread
// for each of `count` groups of channels of columns.
// Twin: kernels/im2col.py patches.
extern "C" __global__ void im2col(const float* __restrict__ x, float* __restrict__ columns, int H,
                                  int W, int C, int first, int rows, int OW, int KH, int KW, int SH,
                                  int SW, int PH, int PW, int DH, int DW, int count) {
  const int i = thread_number();
  if (i >= count) return;  // the last block may have threads to spare
  const int taps = KH * KW, tap = i / C % taps;
  const Place pixel = place_of(i / C / taps, rows, OW, 1);
  const int row = SH * (first + pixel.row) + DH * (tap / KW) - PH;
  const int column = SW * pixel.column + DW * (tap % KW) - PW;
  const bool there = inside(row, column, H, W);
  const Place from = {pixel.n, row, column, i % C};
  write(columns, i, there ? read(x, group_at(from, H, W, C)) : filled(0.0f));
}

// x (N, H, W, C) += the patches in columns (N, rows, OW, KH, KW, C), at the places that they were
// taken from. A thread for each of `count` groups of channels in the rows of x from `top` to
// `top` + `height` - 1, which hold all that a patch reaches.
// Twin: kernels/few_pixels.py conv_transpose2d, its additions.
extern "C" __global__ void col2im(const float* __restrict__ columns, float* __restrict__ x, int H,
                                  int W, int C, int first, int rows, int OW, int KH, int KW, int SH,
                                  int SW, int PH, int PW, int DH, int DW, int top, int height,
                                  int count) {
  const int i = thread_number();
  if (i >= count) return;
  Place here = place_of(i, height, W, C);
  here.row += top;
  Channels sum = filled(0.0f);
  for (int a = 0; a < KH; ++a) {
    const int down = here.row + PH - DH * a;  // SH times the patch's row, if this is a multiple
    const int p = down / SH - first;
    if (down < 0 || down % SH || p < 0 || p >= rows) continue;
    for (int b = 0; b < KW; ++b) {
      const int across = here.column + PW - DW * b, q = across / SW;
      if (across < 0 || across % SW || q >= OW) continue;
      const int patch = (here.n * rows + p) * OW + q;
      add(sum, read(columns, (patch * KH * KW + a * KW + b) * C + here.c));
    }
  }
  const int to = group_at(here, H, W, C);
  add(sum, read(x, to));
  write(x, to, sum);
}
