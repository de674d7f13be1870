// Memory that notices mistakes: each read and write is looked at before it happens. It must be of an
// array, or of the thread's own; and if another thread has been there, a barrier must be between.
#include <csignal>

extern "C" char __start_shim_shared[] __attribute__((weak));  // all variables that are __shared__
extern "C" char __stop_shim_shared[] __attribute__((weak));

namespace shim {

// ---- arrays ------------------------------------------------------------------------------------

// Beyond the pages of an array are pages that must not be touched, for accesses that go unseen.
struct Array {
  char *map, *data;
  size_t mapped, bytes;
};

// The bytes begin `offset` behind a multiple of 256.
static Array new_array(size_t bytes, size_t offset = 0) {
  size_t all = (offset + bytes + PAGE - 1) / PAGE * PAGE + 2 * PAGE;
  char* map = (char*)mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(map + PAGE, all - 2 * PAGE, PROT_READ | PROT_WRITE);
  return {map, map + PAGE + offset, all, bytes};
}

static const void* touched;  // the address of a read or write that is forbidden

SHIM_UNRECORDED static void on_fault(int, siginfo_t* info, void*) {
  touched = info->si_addr;
  if (now < 0) { signal(SIGSEGV, SIG_DFL); return; }  // a mistake in here: end as usual
  bool of_stacks = (size_t)((char*)touched - stacks) < STACKS;
  stop(of_stacks ? "local variables of a thread take more than 64 KB" : "a read or write outside all arrays");
}

// ---- who touches what --------------------------------------------------------------------------

// Two accesses by different threads to one place, one of them a write, need a barrier between them:
// __syncthreads() in a block, __syncwarp() in a warp, and between blocks there is none. For each
// place the latest write is kept, and the latest reads: who of them, as narrowly as one group says.
enum Who : uint8_t { NOBODY, A_THREAD, A_WARP, A_BLOCK, THE_GRID };

struct Access {
  unsigned block, block_sync, warp_sync, code;  // `code`: see offset_of
  uint16_t thread;
  Who who;
};

struct Place {
  Access write, reads;
};

struct Watched {
  char *map, *data;
  size_t mapped, bytes;
  bool shared, constant;
  int shift;  // a place has 1 << shift bytes: 4, or 1 where numbers may be smaller
  Place* places;
};
static Watched watched[1000];  // no std::vector: its functions would be recorded, without end
static int watched_count;
static unsigned block_number;

static size_t size_of_places(size_t bytes, int shift) { return ((bytes >> shift) + 4) * sizeof(Place); }

static void watch(const Array& a, bool shared, bool constant, bool small) {
  int shift = small ? 0 : 2;
  void* places = mmap(nullptr, size_of_places(a.bytes, shift), PROT_READ | PROT_WRITE,  // zero until used
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  watched[watched_count++] = {a.map, a.data, a.mapped, a.bytes, shared, constant, shift, (Place*)places};
}

static void watch_nothing() {
  for (const Watched* w = watched; w < watched + watched_count; ++w)
    munmap(w->places, size_of_places(w->bytes, w->shift));
  watched_count = 0;
}

// Tells whether a barrier, or the order of a thread's own doing, puts an access before what this
// thread does now. What another block has left in shared memory is not there for this one.
SHIM_UNRECORDED static inline bool is_over(const Access& a, bool shared) {
  if (a.who == NOBODY) return true;
  if (a.who == THE_GRID) return false;
  if (a.block != block_number) return shared;
  if (a.block_sync != block_syncs || (a.who == A_THREAD && a.thread == now)) return true;
  return a.who <= A_WARP && a.thread / 32 == now / 32 && a.warp_sync != warp_syncs[now / 32];
}

SHIM_UNRECORDED static void race(const Access& a, const char* then, const char* does) {
  char what[200];
  snprintf(what, sizeof what, "a race: thread %d of block %u %s (@%x) what this one %s, and no barrier is between",
           a.thread, a.block, then, a.code, does);
  stop(what);
}

SHIM_UNRECORDED static void forbidden(const void* address, const char* what) {
  touched = address;
  stop(what);
}

// Returns what an address belongs to; nothing if that is the thread's own.
SHIM_UNRECORDED static const Watched* owner(const char* address, bool is_write) {
  if ((size_t)(address - stack_of(now)) < STACK) return nullptr;
  for (const Watched* w = watched; w < watched + watched_count; ++w)
    if ((size_t)(address - w->map) < w->mapped) return w;
  if ((size_t)(address - __ehdr_start) < (size_t)(_end - __ehdr_start)) return nullptr;  // threadIdx
  bool of_stacks = (size_t)(address - stacks) < STACKS;
  forbidden(address, of_stacks  ? "local variables of a thread take more than 64 KB"
                     : is_write ? "a write outside all arrays"
                                : "a read outside all arrays");
  return nullptr;
}

SHIM_UNRECORDED static void record(const void* address, int bytes, bool is_write, const void* code) {
  if (now < 0) return;  // the scheduler
  access = code;
  const Watched* w = owner((const char*)address, is_write);
  if (!w) return;
  size_t at = (const char*)address - w->data, end = at + bytes;
  if (at >= w->bytes || end > w->bytes)
    forbidden(address, is_write ? "a write outside an array" : "a read outside an array");
  if (w->constant && is_write) forbidden(address, "a write to an array that is constant");
  if (w->constant) return;
  Access mine = {block_number, block_syncs, warp_syncs[now / 32], offset_of(code), (uint16_t)now, A_THREAD};
  for (; at < end; at += 4) {
    Place& place = w->places[at >> w->shift];
    if (!is_over(place.write, w->shared)) race(place.write, "wrote", is_write ? "writes" : "reads");
    const Access& reads = place.reads;
    bool over = is_over(reads, w->shared);
    if (is_write) {
      if (!over) race(reads, "read", "writes");
      place.write = mine, place.reads.who = NOBODY;
    } else {
      mine.who = over                                                    ? A_THREAD
                 : reads.who == THE_GRID || reads.block != block_number ? THE_GRID
                 : reads.who <= A_WARP && reads.thread / 32 == now / 32 ? A_WARP
                                                                         : A_BLOCK;
      place.reads = mine;
    }
  }
}

// ---- shared memory -----------------------------------------------------------------------------

// It is NaN until it is written.
static Array dynamic_room, static_room;
static char* dynamic_shared;

static void new_shared(size_t bytes) {
  dynamic_room = new_array(bytes);
  dynamic_shared = dynamic_room.data;
  watch(dynamic_room, true, false, true);
  if (!__start_shim_shared) return;
  size_t size = __stop_shim_shared - __start_shim_shared;
  static_room = {__start_shim_shared, __start_shim_shared, size, size};
  watch(static_room, true, false, true);
}

static void poison_shared() {
  memset(dynamic_room.data, 0xff, dynamic_room.bytes);
  memset(static_room.data, 0xff, static_room.bytes);
}

SHIM_UNRECORDED static bool is_shared(const char* address) {
  return (size_t)(address - dynamic_room.data) < dynamic_room.bytes ||
         (size_t)(address - static_room.data) < static_room.bytes;
}

}  // namespace shim

// The compiler, told to look for races between operating system threads (-fsanitize=thread), calls
// one of these before each read and write.
#define SHIM_RECORD(bytes)                                                            \
  extern "C" SHIM_UNRECORDED __attribute__((visibility("hidden"))) void               \
  __tsan_read##bytes(void* p) { shim::record(p, bytes, false, __builtin_return_address(0)); } \
  extern "C" SHIM_UNRECORDED __attribute__((visibility("hidden"))) void               \
  __tsan_write##bytes(void* p) { shim::record(p, bytes, true, __builtin_return_address(0)); }
SHIM_RECORD(1)
SHIM_RECORD(2)
SHIM_RECORD(4)
SHIM_RECORD(8)
SHIM_RECORD(16)
extern "C" __attribute__((visibility("hidden"))) void __tsan_init() {}
extern "C" SHIM_UNRECORDED __attribute__((visibility("hidden"))) void __tsan_read_range(void* p, size_t n) {
  shim::record(p, n, false, __builtin_return_address(0));
}
extern "C" SHIM_UNRECORDED __attribute__((visibility("hidden"))) void __tsan_write_range(void* p, size_t n) {
  shim::record(p, n, true, __builtin_return_address(0));
}

// Another sanitizer, of undefined behaviour, calls these when it has found some, with the line.
namespace shim {
struct Line { const char* file; uint32_t line, column; };
SHIM_UNRECORDED static void undefined(const void* data, const char* what) {
  fail(what, ((const Line*)data)->line);
  if (now >= 0) _longjmp(scheduler, 1);
}
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
