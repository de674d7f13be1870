// Which numbers dropout keeps: twin of kernels/elementwise.py dropout_mask, to the bit.
//
// NumPy's generator (PCG64, O'Neill 2014) is a state of 128 bits. Each step computes
//
//   state = FACTOR · state + increment    (modulo 2^128)
//
// and mixes the state to 64 random bits, which make two numbers from 0 to 1: the lower half first. It
// looks as if numbers could only be drawn one after the other. But two steps at once are
// state = FACTOR² · state + (FACTOR + 1) · increment: of the same form, with other constants. So are
// four, eight and so on. Each thread can jump to where its numbers begin, and from there go on in
// strides of as many steps as there are threads. Nothing has to be sent to the GPU but the state.

#define FACTOR_HIGH 0x2360ed051fc65da4ull
#define FACTOR_LOW 0x4385df649fccf645ull

typedef unsigned long long Bits;  // 64 of them

struct Whole {  // a number of 128 bits
  Bits high, low;
};

__device__ __forceinline__ Whole plus(Whole a, Whole b) {
  const Bits low = a.low + b.low;
  return {a.high + b.high + (low < a.low), low};  // a sum below its summand has overflowed
}

__device__ __forceinline__ Whole times(Whole a, Whole b) {
  return {__umul64hi(a.low, b.low) + a.high * b.low + a.low * b.high, a.low * b.low};
}

// Some number of steps, in one: state -> factor · state + term.
struct Jump {
  Whole factor, term;
};

__device__ __forceinline__ Whole after(Jump jump, Whole state) {
  return plus(times(jump.factor, state), jump.term);
}

// `steps` steps in one: one, two, four, eight ... at once, of which those are taken whose bit is set.
__device__ __forceinline__ Jump jump_of(unsigned steps, Whole increment) {
  Jump some = {{0, 1}, {0, 0}}, power = {{FACTOR_HIGH, FACTOR_LOW}, increment};
  for (; steps; steps >>= 1) {
    if (steps & 1) some = {times(power.factor, some.factor), after(power, some.term)};
    power = {times(power.factor, power.factor), after(power, power.term)};
  }
  return some;
}

// 64 random bits: both halves of the state mixed, and rotated by its highest six bits.
__device__ __forceinline__ Bits mixed(Whole state) {
  const Bits both = state.high ^ state.low;
  const int by = (int)(state.high >> 58);
  return both >> by | both << (64 - by) % 64;
}

// As NumPy makes a float of 32 bits: 24 of them, as a fraction.
__device__ __forceinline__ float fraction(Bits bits) {
  return ((unsigned)bits >> 8) * (1.0f / 16777216);
}

// mask (count) = scale where a random number is at least p, else 0. `words` tell where the generator
// is: its state and its increment, each the higher half first; whether the second half of 64 bits was
// left over, and that half. It comes first then. Each of `threads` threads draws pair after pair.
// Twin: kernels/elementwise.py dropout_mask.
extern "C" __global__ void dropout_mask(float* __restrict__ mask,
                                        const unsigned long long* __restrict__ words, float p,
                                        float scale, int count, int threads) {
  const int thread = blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= threads) return;
  const int start = (int)words[4];
  if (start && thread == 0) mask[0] = fraction(words[5]) >= p ? scale : 0.0f;
  const Whole increment = {words[2], words[3]};
  const Jump stride = jump_of(threads, increment);
  Whole state = after(jump_of(thread + 1, increment), {words[0], words[1]});
  for (int pair = thread; pair < (count - start + 1) / 2; pair += threads) {
    const Bits bits = mixed(state);
    const int i = start + 2 * pair;
    mask[i] = fraction(bits) >= p ? scale : 0.0f;
    if (i + 1 < count) mask[i + 1] = fraction(bits >> 32) >= p ? scale : 0.0f;
    state = after(stride, state);
  }
}
