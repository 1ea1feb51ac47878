// A call stack of its own that runs until it switches away: one per emulated CUDA thread.
#pragma once

#include <cstddef>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace faceattr::cuda::emulator {

class Fiber {
 public:
  Fiber() = default;  // of the host thread's own stack, to switch back to
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // Of a host's fiber, before it switches to new ones: those of before will not run on.
  void abandon_others();

  // Makes the next switch to this fiber call entry(), which must never return. Whatever ran here before is forgotten,
  // without unwinding.
  void prepare(void (*entry)());

  // Leaves `from`, which runs, for `to`; returns when someone switches to `from`.
  static void switch_from_to(Fiber& from, Fiber& to);

  // Whether the stack's far end was written to.
  bool overflowed() const;

 private:
  static void start();
  static void arrived(Fiber& self);

  std::unique_ptr<char[]> stack_;
  void (*entry_)() = nullptr;
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  // For AddressSanitizer, which must know the bounds of the stack that runs.
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  size_t size_ = 0;
  // ThreadSanitizer's contexts: of the host thread, and one for all fibers that it switches to. One for each of them
  // would take seconds to make.
  void* self_ = nullptr;
  void* others_ = nullptr;
};

}  // namespace faceattr::cuda::emulator
