// One step of gradient descent: twin of optim.py SGD._update.
//
// CuPy would read and write the weights, the gradient and the momentum once for each + and each ·.
// Here each number is read once, all is computed in registers, and each result is written once.

// w -= rate · (gradient + decay · w). A thread for each of `count` weights.
extern "C" __global__ void descend(float* __restrict__ w, const float* __restrict__ gradient,
                                   float rate, float decay, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;  // the last block may have threads to spare
  float g = gradient[i];
  if (decay != 0.0f) g += w[i] * decay;
  w[i] -= g * rate;
}

// With g = gradient + decay · w, times the rate first where caffe is 1:
//   h = momentum · h + g,  and w -= h, or g + momentum · h where nesterov is 1;
// that is multiplied with the rate where caffe is 0.
extern "C" __global__ void descend_with_momentum(float* __restrict__ w,
                                                 const float* __restrict__ gradient,
                                                 float* __restrict__ h, float rate, float momentum,
                                                 float decay, int nesterov, int caffe, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float g = gradient[i];
  if (decay != 0.0f) g += w[i] * decay;
  if (caffe) g *= rate;
  const float after = h[i] * momentum + g;
  h[i] = after;
  const float way = nesterov ? after * momentum + g : after;
  w[i] -= caffe ? way : way * rate;
}
