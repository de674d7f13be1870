// What kernels for images (N, H, W, C) share: who does what, and how memory is read.
//
// Each thread makes one number of the result. Threads are numbered like the numbers in memory, so
// the 32 threads of a warp, which run side by side, ask for 32 numbers that lie side by side: the
// memory delivers them at once ("coalesced"). If each read one of its own elsewhere, the same would
// take up to 32 deliveries, and reading and writing is all that takes time here.
//
// WIDE is given at compile time: 4 if the number of channels is a multiple of 4, else 1. With 4, a
// thread makes four neighbouring channels, in one instruction of 16 bytes for each read and write.
// In all that follows, C counts such groups of channels, and arrays are groups, too.

struct Channels {
  float at[WIDE];
};

__device__ __forceinline__ Channels read(const float* array, int group) {
#if WIDE == 4
  const float4 four = ((const float4*)array)[group];
  return {four.x, four.y, four.z, four.w};
#else
  return {array[group]};
#endif
}

__device__ __forceinline__ void write(float* array, int group, Channels c) {
#if WIDE == 4
  ((float4*)array)[group] = make_float4(c.at[0], c.at[1], c.at[2], c.at[3]);
#else
  array[group] = c.at[0];
#endif
}

__device__ __forceinline__ Channels filled(float value) {
  Channels c;
#pragma unroll
  for (int e = 0; e < WIDE; ++e) c.at[e] = value;
  return c;
}

__device__ __forceinline__ void add(Channels& sum, Channels more) {
#pragma unroll
  for (int e = 0; e < WIDE; ++e) sum.at[e] += more.at[e];
}

// This thread's number, counted through all blocks.
__device__ __forceinline__ int thread_number() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Where group i of an array (N, H, W, C) is.
struct Place {
  int n, row, column, c;
};
__device__ __forceinline__ Place place_of(int i, int H, int W, int C) {
  return {i / C / W / H, i / C / W % H, i / C % W, i % C};
}

// And back.
__device__ __forceinline__ int group_at(Place p, int H, int W, int C) {
  return ((p.n * H + p.row) * W + p.column) * C + p.c;
}

__device__ __forceinline__ bool inside(int row, int column, int H, int W) {
  return row >= 0 && row < H && column >= 0 && column < W;
}
