// Local response normalisation: twin of functional/normalization.py local_response_norm and of its
// gradient. With e[c] the energy around channel c,
//
//   e[c] = k + ratio · sum of x[c']² over the window of c, which reaches from c - before to c + after,
//   y[c] = x[c] · e[c]^-beta,
//
// and with g the gradient in y:
//
//   dx[c] = g[c] · e[c]^-beta - 2 · ratio · beta · x[c] · sum of t[c'] over those whose window has c,
//   t[c]  = g[c] · x[c] · e[c]^(-beta - 1)
//
// A thread for each number. Channels lie side by side, so what a thread reads, its neighbours read,
// too: most of it comes from the cache.

__device__ __forceinline__ float energy_around(const float* pixel, int first, int last, int C,
                                               float ratio, float k) {
  float sum = 0.0f;
  for (int c = max(first, 0); c <= min(last, C - 1); ++c) sum += pixel[c] * pixel[c];
  return sum * ratio + k;
}

// y (pixels, C) from x.
// Twin: functional/normalization.py normalised.
extern "C" __global__ void normalise(const float* __restrict__ x, float* __restrict__ y, int C,
                                     int before, int after, float ratio, float beta, float k,
                                     int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, c = i % C;
  if (i >= count) return;  // the last block may have threads to spare
  const float energy = energy_around(x + i - c, c - before, c + after, C, ratio, k);
  y[i] = x[i] * powf(energy, -beta);
}

// The first part of dx, and t, both (pixels, C).
// Twin: functional/normalization.py normalised, of whose gradient it is `own`.
extern "C" __global__ void own_share(const float* __restrict__ g, const float* __restrict__ x,
                                     float* __restrict__ dx, float* __restrict__ t, int C,
                                     int before, int after, float ratio, float beta, float k,
                                     int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, c = i % C;
  if (i >= count) return;
  const float energy = energy_around(x + i - c, c - before, c + after, C, ratio, k);
  dx[i] = g[i] * powf(energy, -beta);
  t[i] = x[i] * dx[i] / energy;
}

// The second part of dx, subtracted from the first in place. In a launch of its own: all t must be
// there.
// Twin: functional/normalization.py normalised, of whose gradient it is what `others` make.
extern "C" __global__ void share_of_others(const float* __restrict__ t, const float* __restrict__ x,
                                           float* __restrict__ dx, int C, int before, int after,
                                           float factor, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, c = i % C;
  if (i >= count) return;
  float sum = 0.0f;  // over those whose window has c: before and after exchanged
  for (int other = max(c - after, 0); other <= min(c + before, C - 1); ++other)
    sum += t[i - c + other];
  dx[i] -= factor * x[i] * sum;
}
