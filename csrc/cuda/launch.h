// The seam between host and kernels: launch<Kernel>(config, params) is a CUDA launch under nvcc and a run on the
// emulator under any other compiler. A kernel is
//
//   struct Scale {
//     static constexpr const char* kName = "scale";
//     static constexpr int kMaxThreads = 256;  // per block
//     static constexpr int kMinBlocks = 2;     // per multiprocessor, for the compiler's register budget
//     struct Params { const float* src; float* dst; int n; };  // trivially copyable, at most 4096 bytes
//     static FA_DEVICE void run(const Params& params);         // calls primitives only
//   };
#pragma once

#include <type_traits>

#include "cuda/launch_config.h"
#include "cuda/primitives.h"

namespace faceattr::cuda {

template <class Kernel>
void launch(const LaunchConfig& config, const typename Kernel::Params& params);

}  // namespace faceattr::cuda

#if defined(__CUDACC__)
#include "cuda/launch_cuda.h"
#else
#include "cuda/emulator/launch_emulator.h"
#endif
