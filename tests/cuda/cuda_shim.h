// Runs CUDA C on a CPU, to find mistakes in it: one block after another, in one operating system
// thread. The threads of a block are fibers, which run until they come to a barrier.
//
// What shows: wrong results; a missing barrier (threads run in several orders, and shared memory
// holds NaN until it is written); a barrier that some threads never reach; reads and writes outside
// an array (its neighbours are pages that must not be touched); overflow of whole numbers, indices
// outside shared arrays, misaligned vectors (the compiler's sanitizer); copies that are not waited
// for. What does not: speed, races between blocks, the rounding of fused multiply-adds.
#pragma once
#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <csetjmp>
#include <csignal>
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

static dim3 gridDim, blockDim;
static uint3 blockIdx, threadIdx;
static const int warpSize = 32;

extern "C" char __start_shim_shared[] __attribute__((weak));
extern "C" char __stop_shim_shared[] __attribute__((weak));

namespace shim {

// ---- errors ------------------------------------------------------------------------------------

static char error[400];
static jmp_buf scheduler;  // where a fiber returns to

static void fail(const char* what, int line) {
  if (error[0]) return;  // the first one counts
  snprintf(error, sizeof error, "%s (line %d, block %u,%u,%u, thread %u,%u,%u)", what, line,
           blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}

[[noreturn]] static void stop(const char* what, int line) {
  fail(what, line);
  _longjmp(scheduler, 1);
}

static const void* touched;  // the address of a read or write outside all arrays

static void on_fault(int, siginfo_t* info, void*) {
  touched = info->si_addr;
  stop("read or write outside an array", 0);
}

// ---- memory that ends where pages begin that must not be touched --------------------------------

static const size_t PAGE = 4096;

struct Guarded {
  char *map, *data;
  size_t mapped;
};

// The bytes start at a multiple of 256, as on a GPU, or end at the guard page (up to 15 bytes off).
static Guarded guarded(size_t bytes, bool at_end) {
  size_t inner = (bytes + PAGE) / PAGE * PAGE, all = inner + 2 * PAGE;
  char* map = (char*)mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(map + PAGE, inner, PROT_READ | PROT_WRITE);
  memset(map + PAGE, 0xff, inner);  // NaN, as floats
  size_t offset = at_end ? (inner - bytes) / 16 * 16 : 0;
  return {map, map + PAGE + offset, all};
}

// Tells whether the bytes between the guard pages and the array are as they were.
static bool intact(const Guarded& g, size_t bytes) {
  for (char* p = g.map + PAGE; p < g.data; ++p) if (*p != (char)0xff) return false;
  for (char* p = g.data + bytes; p < g.map + g.mapped - PAGE; ++p) if (*p != (char)0xff) return false;
  return true;
}

// ---- fibers ------------------------------------------------------------------------------------

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

struct Fiber {
  State state;
  bool started;
  int line;       // of the barrier it waits at
  unsigned mask;  // of the lanes that must come to a warp's barrier
  uint3 index;
  ucontext_t start;
  jmp_buf place;
  char* stack;
};

static const size_t STACK = 64 * 1024;
static std::vector<Fiber> fibers;
static int now;                // the fiber that runs
static size_t count;           // of threads in a block
static void (*kernel_body)();  // the kernel with its arguments
static char* dynamic_shared;

// A fiber is the same thread of one block after the other: to start one anew takes system calls.
static void enter() {
  for (;;) {
    kernel_body();
    fibers[now].state = DONE;
    if (!_setjmp(fibers[now].place)) _longjmp(scheduler, 1);
  }
}

static __attribute__((noinline)) void resume(int i) {
  Fiber& f = fibers[i];
  now = i, threadIdx = f.index, f.state = READY;
  if (_setjmp(scheduler)) return;
  if (f.started) _longjmp(f.place, 1);
  f.started = true;
  setcontext(&f.start);
}

static __attribute__((noinline)) void wait(State at, int line, unsigned mask) {
  Fiber& f = fibers[now];
  f.state = at, f.line = line, f.mask = mask;
  if (!_setjmp(f.place)) _longjmp(scheduler, 1);
  threadIdx = f.index;
}

static void start_block() {
  if (__start_shim_shared) memset(__start_shim_shared, 0xff, __stop_shim_shared - __start_shim_shared);
  while (fibers.size() < count) {
    fibers.emplace_back();  // nothing in it has started
    fibers.back().stack = (char*)malloc(STACK);
  }
  for (unsigned i = 0; i < count; ++i) {
    Fiber& f = fibers[i];
    f.started = f.started && f.state == DONE;  // an error may have left it in the middle
    f.state = READY;
    f.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    if (f.started) continue;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack, f.start.uc_stack.ss_size = STACK, f.start.uc_link = nullptr;
    makecontext(&f.start, enter, 0);
  }
}

// Lets all threads go on that wait at a barrier which all have reached; tells if there were any.
static bool release_block() {
  size_t waiting = 0, done = 0;
  int line = 0;
  bool same = true;
  for (size_t i = 0; i < count; ++i) {
    Fiber& f = fibers[i];
    done += f.state == DONE;
    if (f.state != AT_BLOCK_BARRIER) continue;
    same = same && (!waiting || f.line == line);
    line = f.line;
    ++waiting;
  }
  if (!waiting || waiting + done < count) return false;
  if (done) fail("__syncthreads() is not reached by threads that have returned", line);
  if (!same) fail("__syncthreads() divergence: threads wait at different lines", line);
  for (size_t i = 0; i < count; ++i) fibers[i].state = READY;
  return true;
}

// The same for a warp's barrier: all lanes of the mask must have come to the same line.
static bool release_warps() {
  bool any = false;
  for (size_t i = 0; i < count; ++i) {
    Fiber& f = fibers[i];
    if (f.state != AT_WARP_BARRIER) continue;
    if (!(f.mask >> (i % 32) & 1)) fail("a lane outside the mask calls a warp's primitive", f.line);
    bool all = true;
    size_t first = i / 32 * 32, last = first + 32 < count ? first + 32 : count;
    for (size_t j = first; j < last; ++j) {
      Fiber& g = fibers[j];
      if (!(f.mask >> (j - first) & 1)) continue;
      if (g.state == DONE) fail("a warp's primitive names a lane that has returned", f.line);
      all = all && g.state == AT_WARP_BARRIER && g.mask == f.mask && g.line == f.line;
    }
    if (!all) continue;
    unsigned mask = f.mask;
    for (size_t j = first; j < last; ++j) if (mask >> (j - first) & 1) fibers[j].state = READY;
    any = true;
  }
  return any;
}

static void run_block(const std::vector<int>& order) {
  start_block();
  for (;;) {
    bool ran = false;
    for (int i : order) {
      if (fibers[i].state != READY) continue;
      ran = true;
      resume(i);
      if (error[0]) return;
    }
    bool released = release_block();
    released = release_warps() || released;
    if (error[0] || (!ran && !released)) break;
  }
  for (size_t i = 0; i < count && !error[0]; ++i)
    if (fibers[i].state != DONE) fail("deadlock: a barrier is not reached by all", fibers[i].line);
}

// ---- a launch ----------------------------------------------------------------------------------

enum Order { FORWARD, REVERSE, SHUFFLED };

static std::vector<int> ordered(size_t n, int how, unsigned seed) {
  std::vector<int> p(n);
  for (size_t i = 0; i < n; ++i) p[i] = how == REVERSE ? n - 1 - i : i;
  for (size_t i = n; how == SHUFFLED && i-- > 1;) {
    seed = seed * 1664525u + 1013904223u;
    std::swap(p[i], p[(seed >> 8) % (i + 1)]);
  }
  return p;
}

static void** arguments;

template <class... A, size_t... I>
static void call(void (*kernel)(A...), std::index_sequence<I...>) {
  kernel(*(std::remove_cv_t<A>*)arguments[I]...);
}

template <auto kernel, class... A>
static void body_of(void (*)(A...)) {
  kernel_body = [] { call((void (*)(A...))kernel, std::index_sequence_for<A...>{}); };
}

static const char* launch(const unsigned* grid, const unsigned* block, size_t shared, void** args,
                          int how, unsigned seed) {
  gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
  error[0] = 0, touched = nullptr, arguments = args;
  count = (size_t)block[0] * block[1] * block[2];
  Guarded room = guarded(shared, true);
  dynamic_shared = room.data;
  struct sigaction ours = {}, before, bus;
  ours.sa_sigaction = on_fault, ours.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &ours, &before), sigaction(SIGBUS, &ours, &bus);
  std::vector<int> threads = ordered(count, how, seed);
  for (int b : ordered((size_t)grid[0] * grid[1] * grid[2], how, seed + 1)) {
    blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    memset(room.data, 0xff, shared);
    run_block(threads);
    if (error[0]) break;
  }
  sigaction(SIGSEGV, &before, nullptr), sigaction(SIGBUS, &bus, nullptr);
  munmap(room.map, room.mapped);
  return error[0] ? error : nullptr;
}

// The kinds of a kernel's parameters: P and that of what it points to, or a NumPy kind and size;
// then c if it is not written to.
template <class T>
static void describe(char*& out) {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_pointer_v<U>) {
    *out++ = 'P';
    return describe<std::remove_pointer_t<U>>(out);
  } else {
    char kind = std::is_same_v<U, bool>      ? 'b'
                : std::is_floating_point_v<U> ? 'f'
                : std::is_unsigned_v<U>       ? 'u'
                : std::is_integral_v<U>       ? 'i'
                                              : 'V';
    out += sprintf(out, "%c%d%c", kind, (int)sizeof(U), std::is_const_v<T> ? 'c' : 'w');
  }
}

template <class... A>
static const char* signature(void (*)(A...)) {
  static char text[2000];
  char* out = text;
  ((describe<A>(out), *out++ = ' '), ...);
  *out = 0;
  return text;
}

// ---- what a block and a warp do together -------------------------------------------------------

static uint64_t exchanged[32][32];  // by warp and lane

template <class T>
static T shuffle(unsigned mask, T value, int source, int line) {
  int warp = now / 32, lane = now % 32;
  memcpy(&exchanged[warp][lane], &value, sizeof value);
  wait(AT_WARP_BARRIER, line, mask);
  if (source >= 0 && source < 32 && (size_t)warp * 32 + source < count)
    memcpy(&value, &exchanged[warp][source], sizeof value);
  wait(AT_WARP_BARRIER, -line, mask);
  return value;
}

static unsigned mask_or_all(unsigned mask = 0xffffffffu) { return mask; }

}  // namespace shim

#define __syncthreads() shim::wait(shim::AT_BLOCK_BARRIER, __LINE__, 0)
#define __syncwarp(...) shim::wait(shim::AT_WARP_BARRIER, __LINE__, shim::mask_or_all(__VA_ARGS__))
#define SHIM_LANE (shim::now % 32)
#define __shfl_sync(mask, v, lane) shim::shuffle(mask, v, (int)(lane), __LINE__)
#define __shfl_xor_sync(mask, v, bits) shim::shuffle(mask, v, SHIM_LANE ^ (int)(bits), __LINE__)
#define __shfl_down_sync(mask, v, by) shim::shuffle(mask, v, SHIM_LANE + (int)(by) < 32 ? SHIM_LANE + (int)(by) : -1, __LINE__)
#define __shfl_up_sync(mask, v, by) shim::shuffle(mask, v, SHIM_LANE - (int)(by), __LINE__)

// ---- functions ---------------------------------------------------------------------------------

template <class T>
static T __ldg(const T* p) { return *p; }
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
static inline int __popc(unsigned x) { return __builtin_popcount(x); }

// ---- tensor cores and asynchronous copies: the wrappers of tensor_core.cuh ---------------------

namespace shim {

struct Copy {
  char* to;
  char bytes[16];
  int group;
};
static std::vector<Copy> copies[1024];  // by thread, that have not arrived
static int groups[1024];                // that each thread has closed

static float rounded_fp16(float x) { return (float)(_Float16)x; }
static float rounded_bf16(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  if ((u & 0x7f800000u) != 0x7f800000u) u += 0x7fffu + (u >> 16 & 1);  // to nearest, ties to even
  u &= 0xffff0000u;
  memcpy(&x, &u, 4);
  return x;
}
static unsigned bits16(float x, bool brain) {
  if (brain) { x = rounded_bf16(x); uint32_t u; memcpy(&u, &x, 4); return u >> 16; }
  _Float16 h = (_Float16)x;
  uint16_t u;
  memcpy(&u, &h, 2);
  return u;
}
static float of_bits16(unsigned u, bool brain) {
  float x;
  if (brain) { u <<= 16; memcpy(&x, &u, 4); return x; }
  uint16_t half = u;
  _Float16 h;
  memcpy(&h, &half, 2);
  return (float)h;
}

static float left[32][16][16], right[32][16][8];  // by warp: A (16, k) and B (k, 8)

// c += A · B for a warp, whose lanes have put their parts of A and B into `left` and `right`.
static void multiply(float* c, int depth, int line) {
  int warp = now / 32, g = now % 32 / 4, t = now % 4;
  wait(AT_WARP_BARRIER, line, 0xffffffffu);
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < depth; ++k) c[e] += left[warp][g + e / 2 * 8][k] * right[warp][k][2 * t + e % 2];
  wait(AT_WARP_BARRIER, -line, 0xffffffffu);
}

static void multiply16(float* c, const unsigned* a, const unsigned* b, bool brain, int line) {
  int warp = now / 32, g = now % 32 / 4, t = now % 4;
  for (int h = 0; h < 2; ++h) {
    for (int e = 0; e < 4; ++e)
      left[warp][g + e % 2 * 8][2 * t + h + e / 2 * 8] = of_bits16(a[e] >> 16 * h & 0xffff, brain);
    for (int e = 0; e < 2; ++e)
      right[warp][2 * t + h + e * 8][g] = of_bits16(b[e] >> 16 * h & 0xffff, brain);
  }
  multiply(c, 16, line);
}

}  // namespace shim

// What the copy writes is NaN until it is waited for; zeros arrive where there is nothing to read.
static void cp_async16(void* to, const void* from, bool there) {
  if ((uintptr_t)to % 16 || (there && (uintptr_t)from % 16)) shim::stop("cp.async: an address is no multiple of 16", 0);
  shim::Copy copy = {(char*)to, {}, shim::groups[shim::now]};
  if (there) memcpy(copy.bytes, from, 16);
  memset(to, 0xff, 16);
  shim::copies[shim::now].push_back(copy);
}
static void cp_async_commit() { ++shim::groups[shim::now]; }
template <int pending>
static void cp_async_wait() {  // until at most so many groups are on their way
  std::vector<shim::Copy> &all = shim::copies[shim::now], later;
  for (shim::Copy& copy : all) {
    if (copy.group < shim::groups[shim::now] - pending) memcpy(copy.to, copy.bytes, 16);
    else later.push_back(copy);
  }
  all = later;
}

static unsigned to_tf32(float x) {  // 10 bits of mantissa, to nearest, ties away from zero
  uint32_t u;
  memcpy(&u, &x, 4);
  if ((u & 0x7f800000u) != 0x7f800000u) u += 0x1000u;
  return u & 0xffffe000u;
}
static unsigned pack_bf16(float low, float high) { return shim::bits16(low, true) | shim::bits16(high, true) << 16; }
static unsigned pack_fp16(float low, float high) { return shim::bits16(low, false) | shim::bits16(high, false) << 16; }

static void mma_tf32(float* c, const unsigned* a, const unsigned* b) {
  int warp = shim::now / 32, g = shim::now % 32 / 4, t = shim::now % 4;
  for (int e = 0; e < 4; ++e) memcpy(&shim::left[warp][g + e % 2 * 8][t + e / 2 * 4], &a[e], 4);
  for (int e = 0; e < 2; ++e) memcpy(&shim::right[warp][t + 4 * e][g], &b[e], 4);
  shim::multiply(c, 8, __LINE__);
}
static void mma_bf16(float* c, const unsigned* a, const unsigned* b) { shim::multiply16(c, a, b, true, __LINE__); }
static void mma_fp16(float* c, const unsigned* a, const unsigned* b) { shim::multiply16(c, a, b, false, __LINE__); }

// ---- the sanitizer's reports become errors that name the line ----------------------------------

namespace shim {
struct Place { const char* file; uint32_t line, column; };
static void undefined(const void* data, const char* what) { fail(what, ((const Place*)data)->line); }
}  // namespace shim

#define SHIM_REPORT(name, what, ...) \
  extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_##name(void* data, ##__VA_ARGS__) { shim::undefined(data, what); }
SHIM_REPORT(add_overflow, "a sum of whole numbers overflows", void*, void*)
SHIM_REPORT(sub_overflow, "a difference of whole numbers overflows", void*, void*)
SHIM_REPORT(mul_overflow, "a product of whole numbers overflows", void*, void*)
SHIM_REPORT(negate_overflow, "a whole number overflows", void*)
SHIM_REPORT(divrem_overflow, "division by zero", void*, void*)
SHIM_REPORT(shift_out_of_bounds, "a shift by too many bits", void*, void*)
SHIM_REPORT(out_of_bounds, "an index outside its array", void*)
SHIM_REPORT(type_mismatch_v1, "an address that is null or misaligned for its type", void*)
SHIM_REPORT(pointer_overflow, "an address that overflows", void*, void*)
