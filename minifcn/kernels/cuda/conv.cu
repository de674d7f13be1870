// Convolution of float32 numbers, rounded to tf32 just before they are multiplied: twins of
// kernels/im2col.py conv2d and conv2d_weight. What they do is told in conv.cuh: `convolve` and
// `weight_gradient`.

#include "conv.cuh"

// Twin: kernels/im2col.py conv2d.
extern "C" __global__ void __launch_bounds__(THREADS) conv2d(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
    float* __restrict__ y, int N, int H, int W, int C, int OH, int OW, int O, int KH, int KW, int SH,
    int SW, int PH, int PW, int DH, int DW, int each, int biased, int relu) {
  const Sizes sizes = {N, H, W, C, OH, OW, O, KH, KW, SH, SW, PH, PW, DH, DW};
  convolve(x, w, bias, y, sizes, each, biased, relu);
}

// Twin: kernels/im2col.py conv2d_weight.
extern "C" __global__ void __launch_bounds__(THREADS) conv2d_weight(
    const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ dw, int N, int H,
    int W, int C, int OH, int OW, int O, int KH, int KW, int SH, int SW, int PH, int PW, int DH, int DW,
    int each) {
  const Sizes sizes = {N, H, W, C, OH, OW, O, KH, KW, SH, SW, PH, PW, DH, DW};
  weight_gradient(x, g, dw, sizes, each);
}
