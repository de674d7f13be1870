// One step of gradient descent, and the clipping of gradients before it: twins of optim.py
// SGD._update and clip_grad_norm_.
//
// A net has dozens of arrays of weights, most of them small. A kernel started for each would take
// longer to start than to run. So one does all of them: a table in memory tells where they are, and
// each block takes a piece of one of them. CuPy would besides read and write the weights, the
// gradient and the momentum once for each + and each ·. Here each number is read once, all is
// computed in registers, and each result is written once.

#define PIECE 4096    // numbers of a block: PIECE in sgd.py
#define AT_A_TIME 4   // of a thread: so many are on their way from memory while it waits for the first
#define THREADS 256   // of a block

// A row of the table: an array of weights.
struct Row {
  unsigned long long first;    // the number of its first block
  unsigned long long count;    // numbers in it
  unsigned long long settings; // which row of `settings` is for it
  unsigned long long w, gradient, h;  // where these are; h is 0 where there is no momentum
};

// Returns the last of the rows whose first block is not behind this one, by halving.
__device__ __forceinline__ Row row_of_block(const Row* table, int rows) {
  int low = 0, high = rows;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table[middle].first <= blockIdx.x) low = middle;
    else high = middle;
  }
  return table[low];
}

// w -= rate · g, with g = gradient + decay · w. With momentum, and g times the rate first where caffe
// is 1:
//   h = momentum · h + g,  and w -= h, or g + momentum · h where nesterov is 1;
// that is multiplied with the rate where caffe is 0. Each row of `settings` has rate, momentum and
// decay. `wanted` is where an int is, or 0. If that int is 0, nothing is done: so nobody has to wait
// for it.
// Twin: optim.py SGD._update.
extern "C" __global__ void __launch_bounds__(THREADS) descend(const unsigned long long* table,
                                                              const float* settings,
                                                              unsigned long long wanted, int rows,
                                                              int nesterov, int caffe) {
  if (wanted && *(const int*)wanted == 0) return;
  const Row row = row_of_block((const Row*)table, rows);
  const float rate = settings[3 * row.settings], momentum = settings[3 * row.settings + 1];
  const float decay = settings[3 * row.settings + 2];
  float* const w = (float*)row.w;
  float* const h = (float*)row.h;
  const float* const gradient = (const float*)row.gradient;
  const int start = (int)(blockIdx.x - row.first) * PIECE, stop = min((int)row.count, start + PIECE);
  for (int first = start + threadIdx.x; first < stop; first += AT_A_TIME * THREADS) {
    float weights[AT_A_TIME], ways[AT_A_TIME], momenta[AT_A_TIME] = {};
#pragma unroll
    for (int e = 0; e < AT_A_TIME; ++e) {
      const int i = first + e * THREADS;
      if (i >= stop) continue;
      weights[e] = w[i], ways[e] = gradient[i];
      if (h) momenta[e] = h[i];
    }
#pragma unroll
    for (int e = 0; e < AT_A_TIME; ++e) {
      const int i = first + e * THREADS;
      if (i >= stop) continue;
      float g = ways[e];
      if (decay != 0.0f) g += weights[e] * decay;
      if (h) {
        if (caffe) g *= rate;
        const float after = momenta[e] * momentum + g;
        h[i] = after;
        const float way = nesterov ? after * momentum + g : after;
        w[i] = weights[e] - (caffe ? way : way * rate);
      } else {
        w[i] = weights[e] - g * rate;
      }
    }
  }
}

// Returns to the first thread the sum of a number of each thread of a block, always in one order;
// `found` is shared memory.
__device__ __forceinline__ double sum_of_block(double mine, double* found) {
  found[threadIdx.x] = mine;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();  // all have written; now half of them read
    if (threadIdx.x < half) found[threadIdx.x] += found[threadIdx.x + half];
  }
  return threadIdx.x == 0 ? found[0] : 0.0;
}

// sums[2 + block] = the sum of g² of a block's piece of the gradients, in float64.
// Twin: optim.py clip_grad_norm_, its squares.
extern "C" __global__ void __launch_bounds__(THREADS) sum_squares(const unsigned long long* table,
                                                                  double* sums, int rows) {
  __shared__ double found[THREADS];
  const Row row = row_of_block((const Row*)table, rows);
  const float* const gradient = (const float*)row.gradient;
  const int start = (int)(blockIdx.x - row.first) * PIECE, stop = min((int)row.count, start + PIECE);
  double sum = 0.0;
  for (int i = start + threadIdx.x; i < stop; i += THREADS) {
    const double g = gradient[i];
    sum += g * g;
  }
  sum = sum_of_block(sum, found);
  if (threadIdx.x == 0) sums[2 + blockIdx.x] = sum;
}

// sums[0] = the norm: the root of the sum of the `count` sums from sums[2] on. sums[1] = what to
// multiply the gradients with, so that it becomes `most`; 1 if it is less, or not finite. One block.
// Twin: optim.py clip_grad_norm_, its norm and factor.
extern "C" __global__ void __launch_bounds__(THREADS) norm_and_factor(double* sums, float most,
                                                                      int count) {
  __shared__ double found[THREADS];
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += THREADS) sum += sums[2 + i];
  sum = sum_of_block(sum, found);
  if (threadIdx.x > 0) return;
  const double norm = sqrt(sum);
  sums[0] = norm;
  sums[1] = norm > most && norm - norm == 0.0 ? most / (norm + 1e-6) : 1.0;  // PyTorch's form
}

// The gradients, times sums[1]; if that is 1, they are not even read.
// Twin: optim.py clip_grad_norm_, where gradients are multiplied.
extern "C" __global__ void __launch_bounds__(THREADS) scale(const unsigned long long* table,
                                                            const double* sums, int rows) {
  const float factor = (float)sums[1];
  if (factor == 1.0f) return;
  const Row row = row_of_block((const Row*)table, rows);
  float* const gradient = (float*)row.gradient;
  const int start = (int)(blockIdx.x - row.first) * PIECE, stop = min((int)row.count, start + PIECE);
  for (int i = start + threadIdx.x; i < stop; i += THREADS) gradient[i] *= factor;
}
