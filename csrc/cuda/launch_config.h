// What a launch takes and what it throws.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "cuda/types.h"

namespace faceattr::cuda {

struct LaunchConfig {
  Index3 grid = {1, 1, 1};
  int threads = 32;          // per block, a multiple of 32
  size_t shared_bytes = 0;   // per block, at most 232448 (sm_90), 101376 (sm_86, sm_89), 166912 (sm_80)
  int cluster = 1;           // blocks in x; more than 8 only where the device has room
  bool dependent = false;    // programmatic dependent launch, see dependency_wait
  bool cooperative = false;  // all blocks run at once, so that they may wait for each other
  void* stream = nullptr;    // a cudaStream_t; the emulator runs at once and ignores it
};

// The launch failed, or on the emulator the kernel did something that it must not do: the message says which kernel,
// and there which block and thread.
struct LaunchError : std::runtime_error {
  explicit LaunchError(const std::string& message, int code = 0) : std::runtime_error(message), code(code) {}
  int code;  // the cudaError_t; 0 on the emulator
};

}  // namespace faceattr::cuda
