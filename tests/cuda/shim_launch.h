// Starts a kernel: all blocks of a grid, one after another, in the order asked for.
#include <sys/time.h>

#ifndef SHIM_SECONDS
#define SHIM_SECONDS 60  // that a launch may compute
#endif

namespace shim {

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
SHIM_UNRECORDED static void call(void (*kernel)(A...), std::index_sequence<I...>) {
  kernel(*(std::remove_cv_t<A>*)arguments[I]...);
}

template <auto kernel, class... A>
static void body_of(void (*)(A...)) {
  kernel_body = [] { call((void (*)(A...))kernel, std::index_sequence_for<A...>{}); };
}

SHIM_UNRECORDED static void on_time_out(int) {
  fail("it does not end in time");
  if (now >= 0) _longjmp(scheduler, 1);
}

// While a kernel runs, forbidden accesses come to `on_fault`, on a stack of its own as a thread's
// may be full; and when it has computed for too long, `on_time_out` is called.
struct Signals {
  struct sigaction segv, bus, alarm;
  stack_t stack;
  Signals() {
    static char room[64 * 1024];
    stack_t ours = {room, 0, sizeof room};
    sigaltstack(&ours, &stack);
    struct sigaction fault = {}, time_out = {};
    fault.sa_sigaction = on_fault, fault.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    time_out.sa_handler = on_time_out, time_out.sa_flags = SA_NODEFER | SA_ONSTACK;
    sigaction(SIGSEGV, &fault, &segv), sigaction(SIGBUS, &fault, &bus);
    sigaction(SIGVTALRM, &time_out, &alarm);
    set_timer(SHIM_SECONDS);
  }
  ~Signals() {
    set_timer(0);
    sigaction(SIGSEGV, &segv, nullptr), sigaction(SIGBUS, &bus, nullptr);
    sigaction(SIGVTALRM, &alarm, nullptr), sigaltstack(&stack, nullptr);
  }
  static void set_timer(int seconds) {
    itimerval timer = {{0, 0}, {seconds, 0}};
    setitimer(ITIMER_VIRTUAL, &timer, nullptr);
  }
};

// Returns what went wrong, or nothing.
static const char* launch(const unsigned* grid, const unsigned* block, size_t shared, void** args,
                          int how, unsigned seed) {
  gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
  error[0] = 0, touched = nullptr, access = __ehdr_start, arguments = args;
  count = (size_t)block[0] * block[1] * block[2];
  new_shared(shared);
  std::vector<int> threads = ordered(count, how, seed);
  {
    Signals signals;
    for (int b : ordered((size_t)grid[0] * grid[1] * grid[2], how, seed + 1)) {
      block_number = b;
      blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
      run_block(threads);
      if (error[0]) break;
    }
  }
  watch_nothing();
  munmap(dynamic_room.map, dynamic_room.mapped);
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

}  // namespace shim

// What the runner calls; it adds for each kernel `sim_launch_NAME` and `sim_signature_NAME`.
extern "C" shim::Array sim_array(size_t bytes, size_t offset) { return shim::new_array(bytes, offset); }
extern "C" void sim_watch(shim::Array a, bool constant, bool small) { shim::watch(a, false, constant, small); }
extern "C" const void* sim_touched() { return shim::touched; }
extern "C" void sim_free(shim::Array a) { munmap(a.map, a.mapped); }
#define SHIM_EXPORT(kernel)                                                                          \
  extern "C" const char* sim_launch_##kernel(const unsigned* grid, const unsigned* block, size_t shared, \
                                             void** args, int how, unsigned seed) {                  \
    shim::body_of<&kernel>(&kernel);                                                                 \
    return shim::launch(grid, block, shared, args, how, seed);                                       \
  }                                                                                                  \
  extern "C" const char* sim_signature_##kernel() { return shim::signature(&kernel); }
