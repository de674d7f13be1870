// Runs CUDA C on a CPU, to find mistakes in it: one block after another, in one operating system
// thread. The threads of a block are fibers, which run until they come to a barrier.
//
// What shows: wrong results; a missing barrier, between the threads of a block or of the grid, as each
// read and write is recorded (besides, threads run in several orders, and shared memory holds NaN
// until it is written); a barrier that some threads never reach; reads and writes outside an array;
// overflow of whole numbers, indices outside local and shared arrays, misaligned vectors (the
// compiler's sanitizer); copies that are not waited for; a kernel that never ends. What does not:
// speed, and the rounding of fused multiply-adds.
//
// This file says in C++ what the words of CUDA C mean; shim_threads.h has the fibers and their
// barriers, shim_memory.h the arrays and the record of who touches them, shim_tensor_core.h what a
// warp asks of a tensor core, and shim_launch.h starts a kernel.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

// ---- words of the language ---------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// One copy is enough, as blocks run one after another. In a section of its own, it can be poisoned.
#define __shared__ static __attribute__((section("shim_shared")))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

static dim3 gridDim, blockDim;
static uint3 blockIdx, threadIdx;
static const int warpSize = 32;

#include "shim_threads.h"

#include "shim_memory.h"

#include "shim_tensor_core.h"

// ---- what a block and a warp do together -------------------------------------------------------

// The compiler fills in the line from which each is called: two barriers are the same one only if
// they stand in the same line.
static inline void __syncthreads(int line = __builtin_LINE()) { shim::wait(shim::AT_BLOCK_BARRIER, line, 0); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  shim::wait(shim::AT_WARP_BARRIER, line, mask);
}

// Lanes exchange numbers within parts of the warp, `width` lanes each. A lane that would read from
// outside its part gets its own number back.
template <class T>
static T __shfl_sync(unsigned mask, T value, int lane, int width = 32, int line = __builtin_LINE()) {
  return shim::shuffle(mask, value, shim::now % 32 / width * width + (lane & (width - 1)), line);
}
template <class T>
static T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
  int lane = shim::now % 32, source = lane ^ bits;
  return shim::shuffle(mask, value, source < lane / width * width + width ? source : lane, line);
}
template <class T>
static T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
  int lane = shim::now % 32, source = lane + (int)by;
  return shim::shuffle(mask, value, source < lane / width * width + width ? source : lane, line);
}
template <class T>
static T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
  int lane = shim::now % 32, source = lane - (int)by;
  return shim::shuffle(mask, value, source >= lane / width * width ? source : lane, line);
}

// ---- functions ---------------------------------------------------------------------------------

template <class T>
static inline T __ldg(const T* p) { return *p; }
template <class A, class B>
static constexpr auto min(A a, B b) -> std::common_type_t<A, B> { return b < a ? b : a; }
template <class A, class B>
static constexpr auto max(A a, B b) -> std::common_type_t<A, B> { return a < b ? b : a; }
#define __expf expf
#define __logf logf
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __int_as_float(int i) { float f; memcpy(&f, &i, 4); return f; }
static inline int __float_as_int(float f) { int i; memcpy(&i, &f, 4); return i; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)a * b >> 64; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }

#include "shim_launch.h"

// NVIDIA's run-time compiler has no headers that define these.
#undef INFINITY
#undef NAN
