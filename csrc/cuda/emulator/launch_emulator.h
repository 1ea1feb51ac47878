// launch() on the emulator: see launch.h.
#pragma once

#include "cuda/emulator/machine.h"

namespace faceattr::cuda {

template <class Kernel>
void launch(const LaunchConfig& config, const typename Kernel::Params& params) {
  using Params = typename Kernel::Params;
  static_assert(std::is_trivially_copyable_v<Params> && sizeof(Params) <= 4096);
  emulator::run_grid(
      Kernel::kName, Kernel::kMaxThreads, config,
      [](const void* data) { Kernel::run(*static_cast<const Params*>(data)); }, &params);
}

}  // namespace faceattr::cuda
