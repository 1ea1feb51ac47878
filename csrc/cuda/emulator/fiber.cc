#include "cuda/emulator/fiber.h"

#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
// void faceattr_switch_stack(void** save, void* load): pushes what a callee must preserve, exchanges the stack
// pointers, pops. The rounding mode is the same on all fibers.
extern "C" void faceattr_switch_stack(void** save, void* load);
asm(R"(
.text
.globl faceattr_switch_stack
.hidden faceattr_switch_stack
.type faceattr_switch_stack, @function
faceattr_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size faceattr_switch_stack, . - faceattr_switch_stack
)");
#endif

namespace faceattr::cuda::emulator {
namespace {

// Kernels keep their registers here: 200 accumulators take 800 bytes. Sanitizers make frames several times larger.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif
constexpr uint64_t kGuard = 0x5afe57ac5afe57acu;

thread_local Fiber* running = nullptr;
thread_local Fiber* left = nullptr;

}  // namespace

Fiber::~Fiber() {
#if defined(__SANITIZE_THREAD__)
  if (others_) __tsan_destroy_fiber(others_);
#endif
}

void Fiber::abandon_others() {
#if defined(__SANITIZE_THREAD__)
  if (others_) __tsan_destroy_fiber(others_);
  others_ = __tsan_create_fiber(0);
#endif
}

void Fiber::prepare(void (*entry)()) {
  if (!stack_) stack_.reset(new char[kStackBytes]);  // not cleared: pages that are never used are never touched
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_.get(), kStackBytes);
#endif
  std::memcpy(stack_.get(), &kGuard, sizeof kGuard);
  entry_ = entry;
  bottom_ = stack_.get();
  size_ = kStackBytes;
  fake_stack_ = nullptr;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack_.get()) + kStackBytes) & ~uintptr_t{15});
  *--top = nullptr;  // start() sees the alignment that a call leaves
  *--top = reinterpret_cast<void*>(&Fiber::start);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_.get();
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::start, 0);
#endif
}

void Fiber::start() {
  arrived(*running);
  running->entry_();
}

void Fiber::arrived([[maybe_unused]] Fiber& self) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(self.fake_stack_, &bottom, &size);
  if (!left->stack_) {
    left->bottom_ = bottom;
    left->size_ = size;
  }
#endif
}

void Fiber::switch_from_to(Fiber& from, Fiber& to) {
  left = &from;
  running = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom_, to.size_);
#elif defined(__SANITIZE_THREAD__)
  if (!from.stack_) {
    from.self_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(from.others_, 0);
  } else if (!to.stack_) {
    __tsan_switch_to_fiber(to.self_, 0);
  }
#endif
#if defined(__x86_64__)
  faceattr_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#else
  swapcontext(&from.context_, &to.context_);
#endif
  arrived(from);
}

bool Fiber::overflowed() const {
  uint64_t guard;
  std::memcpy(&guard, stack_.get(), sizeof guard);
  return guard != kGuard;
}

}  // namespace faceattr::cuda::emulator
