// The threads of a block as fibers: each has a stack of its own, and hands over to the scheduler at
// a barrier. The scheduler lets them go on when all have come.
#include <csetjmp>
#include <sys/mman.h>
#include <ucontext.h>

extern "C" const char __ehdr_start[] __attribute__((visibility("hidden")));  // this library begins,
extern "C" const char _end[] __attribute__((visibility("hidden")));          // and ends

namespace shim {

// For code between the kernel's accesses to memory, which is not itself to be recorded.
#define SHIM_UNRECORDED __attribute__((no_sanitize("thread", "undefined")))

static char error[600];
static const void* access;  // the place in the code of the latest read or write
static jmp_buf scheduler;   // where a fiber returns to
static int now = -1;        // the fiber that runs, which is the thread's number in its block

// The runner replaces "@17c" by the line that stands in the code at 0x17c. A call returns to the
// byte behind it, which may belong to the next line.
SHIM_UNRECORDED static unsigned offset_of(const void* code) { return (unsigned)((const char*)code - __ehdr_start - 1); }

static const int OF_ACCESS = 0, NOWHERE = -1;  // lines: that of the latest read or write; none

SHIM_UNRECORDED static void fail(const char* what, int line = OF_ACCESS) {
  if (error[0]) return;  // the first one counts
  char where[20] = "";
  if (line != NOWHERE) snprintf(where, sizeof where, line ? "line %d, " : "@%x, ", line ? line : offset_of(access));
  snprintf(error, sizeof error, "%s (%sblock %u,%u,%u, thread %u,%u,%u)", what, where, blockIdx.x,
           blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}

[[noreturn]] SHIM_UNRECORDED static void stop(const char* what, int line = OF_ACCESS) {
  fail(what, line);
  _longjmp(scheduler, 1);
}

// ---- fibers ------------------------------------------------------------------------------------

// A warp's barrier orders what its lanes read and write; a shuffle waits for all lanes, and does not.
enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, AT_SHUFFLE, DONE };

struct Fiber {
  State state;
  bool started;
  int line;       // of the barrier it waits at
  unsigned mask;  // of the lanes that must come to a warp's barrier
  uint3 index;
  ucontext_t start;
  jmp_buf place;
};

// A stack grows downwards, to a page that must not be touched; far beyond it lies only another's.
static const size_t PAGE = 4096, STACK = 64 * 1024, MOST_THREADS = 1024;
static const size_t GAP = 64 * STACK, STACKS = GAP + MOST_THREADS * (PAGE + STACK);
static char* stacks;
static Fiber fibers[MOST_THREADS];
static size_t ready_stacks;
static size_t count;           // of threads in a block
static void (*kernel_body)();  // the kernel with its arguments

// Barriers are counted, so that a read or write can be told from those that are surely over.
static unsigned syncs = 1, block_syncs, warp_syncs[MOST_THREADS / 32];

static void thread_ends();
static void block_starts();

SHIM_UNRECORDED static char* stack_of(size_t i) { return stacks + GAP + i * (PAGE + STACK) + PAGE; }

// A fiber is the same thread of one block after the other: to start one anew takes system calls.
static void enter() {
  for (;;) {
    kernel_body();
    thread_ends();
    fibers[now].state = DONE;
    if (!_setjmp(fibers[now].place)) _longjmp(scheduler, 1);
  }
}

static __attribute__((noinline)) void resume(int i) {
  Fiber& f = fibers[i];
  threadIdx = f.index, f.state = READY;
  if (!_setjmp(scheduler)) {
    now = i;
    if (f.started) _longjmp(f.place, 1);
    f.started = true;
    setcontext(&f.start);
  }
  now = -1;
}

static __attribute__((noinline)) void wait(State at, int line, unsigned mask) {
  Fiber& f = fibers[now];
  f.state = at, f.line = line, f.mask = mask;
  if (!_setjmp(f.place)) _longjmp(scheduler, 1);
  threadIdx = f.index;
}

static void start_block() {
  if (!stacks) stacks = (char*)mmap(nullptr, STACKS, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (; ready_stacks < count; ++ready_stacks) mprotect(stack_of(ready_stacks), STACK, PROT_READ | PROT_WRITE);
  for (unsigned i = 0; i < count; ++i) {
    Fiber& f = fibers[i];
    f.started = f.started && f.state == DONE;  // an error may have left it in the middle
    f.state = READY;
    f.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    if (f.started) continue;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = stack_of(i);
    f.start.uc_stack.ss_size = STACK, f.start.uc_link = nullptr;
    makecontext(&f.start, enter, 0);
  }
  block_syncs = ++syncs;
}

// ---- barriers ----------------------------------------------------------------------------------

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
  block_syncs = ++syncs;
  return true;
}

// The same for a warp's barrier: all lanes of the mask must have come to the same line.
static bool release_warps() {
  bool any = false;
  for (size_t i = 0; i < count; ++i) {
    Fiber& f = fibers[i];
    if (f.state != AT_WARP_BARRIER && f.state != AT_SHUFFLE) continue;
    if (!(f.mask >> (i % 32) & 1)) fail("a lane outside the mask calls a warp's primitive", abs(f.line));
    bool all = true;
    size_t first = i / 32 * 32, last = first + 32 < count ? first + 32 : count;
    for (size_t j = first; j < last; ++j) {
      Fiber& g = fibers[j];
      if (!(f.mask >> (j - first) & 1)) continue;
      if (g.state == DONE) fail("a warp's primitive names a lane that has returned", abs(f.line));
      all = all && g.state == f.state && g.mask == f.mask && g.line == f.line;
    }
    if (!all) continue;
    unsigned mask = f.mask;
    if (f.state == AT_WARP_BARRIER) warp_syncs[i / 32] = ++syncs;
    for (size_t j = first; j < last; ++j) if (mask >> (j - first) & 1) fibers[j].state = READY;
    any = true;
  }
  return any;
}

static void run_block(const std::vector<int>& order) {
  start_block();
  block_starts();
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
  for (size_t i = 0; i < count && !error[0]; ++i) {
    threadIdx = fibers[i].index;
    if (fibers[i].state != DONE) fail("deadlock: a barrier is not reached by all", abs(fibers[i].line));
  }
}

// ---- shuffles ----------------------------------------------------------------------------------

static uint64_t exchanged[MOST_THREADS / 32][32];  // by warp and lane

// All lanes lay down their numbers, wait for each other, take one up, and wait again (at a "line"
// below 0, which is none of the kernel's). The number of a lane that does not take part is NaN.
template <class T>
static T shuffle(unsigned mask, T value, int source, int line) {
  int warp = now / 32, lane = now % 32;
  memcpy(&exchanged[warp][lane], &value, sizeof value);
  wait(AT_SHUFFLE, line, mask);
  if (mask >> source & 1) memcpy(&value, &exchanged[warp][source], sizeof value);
  else memset(&value, 0xff, sizeof value);
  wait(AT_SHUFFLE, -line, mask);
  return value;
}

}  // namespace shim
