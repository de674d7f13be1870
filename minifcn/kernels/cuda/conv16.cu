// Convolution of numbers of 16 bits, bf16 or fp16, and the kernel that rounds to them: twins of
// kernels/im2col.py conv2d and conv2d_weight. What they do is told in conv.cuh: `convolve` and
// `weight_gradient`.

#include "conv.cuh"

// Twin: kernels/im2col.py conv2d.
extern "C" __global__ void __launch_bounds__(THREADS) conv2d(
    const unsigned short* __restrict__ x, const unsigned short* __restrict__ w,
    const float* __restrict__ bias, float* __restrict__ y, int N, int H, int W, int C, int OH, int OW,
    int O, int KH, int KW, int SH, int SW, int PH, int PW, int DH, int DW, int each, int biased,
    int relu) {
  const Sizes sizes = {N, H, W, C, OH, OW, O, KH, KW, SH, SW, PH, PW, DH, DW};
  convolve(x, w, bias, y, sizes, each, biased, relu);
}

// Twin: kernels/im2col.py conv2d_weight.
extern "C" __global__ void __launch_bounds__(THREADS) conv2d_weight(
    const unsigned short* __restrict__ x, const unsigned short* __restrict__ g,
    float* __restrict__ dw, int N, int H, int W, int C, int OH, int OW, int O, int KH, int KW, int SH,
    int SW, int PH, int PW, int DH, int DW, int each) {
  const Sizes sizes = {N, H, W, C, OH, OW, O, KH, KW, SH, SW, PH, PW, DH, DW};
  weight_gradient(x, g, dw, sizes, each);
}

// rounded = numbers, 8 of them a thread. The same number is multiplied hundreds of times: so it is
// rounded once, before, and half as many bytes go through the caches and shared memory.
// No twin, as the CPU never rounds: tests compare with NumPy's float16, and with the bits of bf16.
extern "C" __global__ void round16(const float* __restrict__ numbers,
                                   unsigned short* __restrict__ rounded, int eights) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= eights) return;
  const float4 low = ((const float4*)numbers)[2 * i], high = ((const float4*)numbers)[2 * i + 1];
#if PRECISION == 1
  const uint4 both = make_uint4(pack_bf16(low.x, low.y), pack_bf16(low.z, low.w),
                                pack_bf16(high.x, high.y), pack_bf16(high.z, high.w));
#else
  const uint4 both = make_uint4(pack_fp16(low.x, low.y), pack_fp16(low.z, low.w),
                                pack_fp16(high.x, high.y), pack_fp16(high.z, high.w));
#endif
  ((uint4*)rounded)[i] = both;
}
