// The wrappers of tensor_core.cuh on a CPU: copies that arrive only when they are waited for, and
// products of small matrices, whose parts the lanes of a warp hold.

namespace shim {

// ---- copies ------------------------------------------------------------------------------------

struct Copy {
  char* to;
  char bytes[16];
  int group;
};
static const int MOST_COPIES = 256;
static Copy copies[MOST_THREADS][MOST_COPIES];  // by thread, that have not arrived
static int on_their_way[MOST_THREADS];
static int groups[MOST_THREADS];  // that each thread has closed

// What the copy writes is NaN until it is waited for; zeros arrive where there is nothing to read.
SHIM_UNRECORDED static void depart(void* to, const void* from, bool there, int line, const void* code) {
  if (!is_shared((char*)to)) stop("cp.async: it copies to a place outside shared memory", line);
  if ((uintptr_t)to % 16 || (there && (uintptr_t)from % 16)) stop("cp.async: an address is no multiple of 16", line);
  if (on_their_way[now] == MOST_COPIES) stop("cp.async: too many copies of a thread are not waited for", line);
  Copy& copy = copies[now][on_their_way[now]++] = {(char*)to, {}, groups[now]};
  if (there) record(from, 16, false, code), memcpy(copy.bytes, from, 16);
  record(to, 16, true, code);
  memset(to, 0xff, 16);
}

// Until at most so many groups are on their way. It is now that the copies write.
SHIM_UNRECORDED static void arrive(int pending, const void* code) {
  int later = 0;
  for (int i = 0; i < on_their_way[now]; ++i) {
    Copy& copy = copies[now][i];
    if (copy.group >= groups[now] - pending) copies[now][later++] = copy;
    else record(copy.to, 16, true, code), memcpy(copy.to, copy.bytes, 16);
  }
  on_their_way[now] = later;
}

static void block_starts() {
  poison_shared();
  memset(on_their_way, 0, sizeof on_their_way);  // an error may have left some
}

static void thread_ends() {
  if (on_their_way[now]) stop("cp.async: the kernel ends before a copy is waited for", NOWHERE);
}

// ---- reading matrices --------------------------------------------------------------------------

static const char* rows[MOST_THREADS / 32][32];  // by warp and lane

// Each lane names a row of 16 bytes: lane 8 e + i the i-th of quarter e. It gets a word of each quarter.
SHIM_UNRECORDED static void read_quarters(unsigned* words, const void* row, bool over, int line, const void* code) {
  if (!is_shared((const char*)row)) stop("ldmatrix: it reads a place outside shared memory", line);
  if ((uintptr_t)row % 16) stop("ldmatrix: an address is no multiple of 16", line);
  int warp = now / 32, g = now % 32 / 4, t = now % 4;
  record(row, 16, false, code);
  rows[warp][now % 32] = (const char*)row;
  wait(AT_SHUFFLE, line, 0xffffffffu);
  for (int e = 0; e < 4; ++e) {
    const char** quarter = rows[warp] + 8 * e;
    uint16_t two[2];
    if (over) memcpy(two, quarter[2 * t] + 2 * g, 2), memcpy(two + 1, quarter[2 * t + 1] + 2 * g, 2);
    else memcpy(two, quarter[g] + 4 * t, 4);
    memcpy(words + e, two, 4);
  }
  wait(AT_SHUFFLE, -line, 0xffffffffu);
}

// ---- numbers -----------------------------------------------------------------------------------

static uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static float of_bits(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

static float of_tf32(unsigned u) { return of_bits(u & 0xffffe000u); }  // the rest is not read

// Rounded to nearest, ties to even: the half that is dropped is added first, less one if even.
static unsigned to_bf16(float x) {  // the upper half of a float's bits
  uint32_t u = bits_of(x);
  if (x != x) return u >> 16 | 0x40;
  return (u + 0x7fffu + (u >> 16 & 1)) >> 16;
}
static float of_bf16(unsigned u) { return of_bits(u << 16); }

static unsigned to_fp16(float x) {  // 5 bits of exponent and 10 of mantissa
  uint32_t u = bits_of(x), sign = u >> 16 & 0x8000;
  u &= 0x7fffffffu;
  if (x != x) return sign | 0x7e00;
  if (u >= 0x47800000u) return sign | 0x7c00;                                   // 65536 and more
  if (u < 0x38800000u) return sign | (unsigned)nearbyintf(of_bits(u) * 0x1p24f);  // below 2^-14
  return sign | (((u + 0xfffu + (u >> 13 & 1)) >> 13) - (112u << 10));
}
static float of_fp16(unsigned u) {
  float size = (u & 0x7c00) == 0x7c00 ? (u & 0x3ff ? NAN : INFINITY)
               : u & 0x7c00           ? of_bits((u & 0x7fff) + (112u << 10) << 13)
                                      : (u & 0x3ff) * 0x1p-24f;
  return u & 0x8000 ? -size : size;
}

// ---- products ----------------------------------------------------------------------------------

static float left[MOST_THREADS / 32][16][16], right[MOST_THREADS / 32][16][8];  // by warp: A, B

// c += A · B for a warp, whose lanes have put their parts of A (16, k) and B (k, 8) into `left` and
// `right`. Unrecorded: these are no places of the kernel's.
SHIM_UNRECORDED static void multiply(float* c, int depth, int line) {
  int warp = now / 32, g = now % 32 / 4, t = now % 4;
  wait(AT_SHUFFLE, line, 0xffffffffu);
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < depth; ++k) c[e] += left[warp][g + e / 2 * 8][k] * right[warp][k][2 * t + e % 2];
  wait(AT_SHUFFLE, -line, 0xffffffffu);
}

template <float number(unsigned)>
SHIM_UNRECORDED static void multiply16(float* c, const unsigned* a, const unsigned* b, int line) {
  int warp = now / 32, g = now % 32 / 4, t = now % 4;
  for (int h = 0; h < 2; ++h) {  // the lower and the upper half of a word
    for (int e = 0; e < 4; ++e)
      left[warp][g + e % 2 * 8][2 * t + h + e / 2 * 8] = number(a[e] >> 16 * h & 0xffff);
    for (int e = 0; e < 2; ++e) right[warp][2 * t + h + e * 8][g] = number(b[e] >> 16 * h & 0xffff);
  }
  multiply(c, 16, line);
}

}  // namespace shim

static __attribute__((noinline)) void cp_async16(void* to, const void* from, bool there, int line = __builtin_LINE()) {
  shim::depart(to, from, there, line, __builtin_return_address(0));
}
static __attribute__((noinline)) void cp_async16_cached(void* to, const void* from, bool there, int line = __builtin_LINE()) {
  shim::depart(to, from, there, line, __builtin_return_address(0));
}
static void cp_async_commit() { ++shim::groups[shim::now]; }
template <int pending>
static __attribute__((noinline)) void cp_async_wait() { shim::arrive(pending, __builtin_return_address(0)); }

static __attribute__((noinline)) void ldmatrix(unsigned* words, const void* row, int line = __builtin_LINE()) {
  shim::read_quarters(words, row, false, line, __builtin_return_address(0));
}
static __attribute__((noinline)) void ldmatrix_transposed(unsigned* words, const void* row, int line = __builtin_LINE()) {
  shim::read_quarters(words, row, true, line, __builtin_return_address(0));
}

static unsigned to_tf32(float x) {  // 10 bits of mantissa, to nearest, ties away from zero
  return x != x ? shim::bits_of(x) : (shim::bits_of(x) + 0x1000u) & 0xffffe000u;
}
static unsigned pack_bf16(float low, float high) { return shim::to_bf16(low) | shim::to_bf16(high) << 16; }
static unsigned pack_fp16(float low, float high) { return shim::to_fp16(low) | shim::to_fp16(high) << 16; }

SHIM_UNRECORDED static void mma_tf32(float* c, const unsigned* a, const unsigned* b, int line = __builtin_LINE()) {
  int warp = shim::now / 32, g = shim::now % 32 / 4, t = shim::now % 4;
  for (int e = 0; e < 4; ++e) shim::left[warp][g + e % 2 * 8][t + e / 2 * 4] = shim::of_tf32(a[e]);
  for (int e = 0; e < 2; ++e) shim::right[warp][t + 4 * e][g] = shim::of_tf32(b[e]);
  shim::multiply(c, 8, line);
}
static void mma_bf16(float* c, const unsigned* a, const unsigned* b, int line = __builtin_LINE()) {
  shim::multiply16<shim::of_bf16>(c, a, b, line);
}
static void mma_fp16(float* c, const unsigned* a, const unsigned* b, int line = __builtin_LINE()) {
  shim::multiply16<shim::of_fp16>(c, a, b, line);
}
