// Sums over all pixels, for each channel: the gradient of a bias. Twin of functional/reduction.py
// _sum_rows.
//
// Where many numbers become few, a thread for each result would leave most of the GPU idle. So a
// block adds up only `each` rows, for 32 channels: its 256 threads take 32 channels of 8 rows at a
// time, and in the end the 8 sums of a channel meet in memory that the threads of a block share.
// The sums of all blocks go through the same kernel once more. All is added in an order that the
// shape alone determines: the same bits in each run.

#define CHANNELS 32  // a warp reads 32 numbers that lie side by side
#define ROWS 8       // warps of a block

// sums (parts, C): part p is the sum of rows p · each ... of numbers (count, C). Blocks: (groups of
// 32 channels, parts).
// Twin: functional/reduction.py _sum_rows.
extern "C" __global__ void __launch_bounds__(256) sum_rows(const float* __restrict__ numbers,
                                                           float* __restrict__ sums, int count,
                                                           int C, int each) {
  __shared__ float found[ROWS][CHANNELS];
  const int lane = threadIdx.x % CHANNELS, warp = threadIdx.x / CHANNELS;
  const int c = blockIdx.x * CHANNELS + lane;
  const int first = blockIdx.y * each, stop = min(count, first + each);
  float sum = 0.0f;
  if (c < C)
    for (int row = first + warp; row < stop; row += ROWS) sum += numbers[row * C + c];
  found[warp][lane] = sum;
  __syncthreads();  // all have written; now the first warp may read
  if (warp > 0 || c >= C) return;
  for (int other = 1; other < ROWS; ++other) sum += found[other][lane];
  sums[blockIdx.y * C + c] = sum;
}
