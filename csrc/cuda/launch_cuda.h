// launch() by nvcc: see launch.h.
#pragma once

#include <cuda_runtime.h>

namespace faceattr::cuda {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kMaxThreads, Kernel::kMinBlocks)
    kernel_entry(const __grid_constant__ typename Kernel::Params params) {
  Kernel::run(params);
}

template <class Kernel>
void launch(const LaunchConfig& config, const typename Kernel::Params& params) {
  using Params = typename Kernel::Params;
  static_assert(std::is_trivially_copyable_v<Params> && sizeof(Params) <= 4096);
  const auto check = [](cudaError_t code, const char* step) {
    if (code == cudaSuccess) return;
    cudaGetLastError();  // an error of the launch is told once, here
    throw LaunchError(std::string("kernel ") + Kernel::kName + ": " + step + ": " + cudaGetErrorString(code), code);
  };
  void (*const entry)(Params) = kernel_entry<Kernel>;
  if (config.shared_bytes > 48 * 1024) {  // more than that a kernel must ask for
    check(
        cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(config.shared_bytes)),
        "shared memory");
  }
  if (config.cluster > 8) {
    check(cudaFuncSetAttribute(entry, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "cluster size");
  }
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(static_cast<unsigned>(config.grid.x), static_cast<unsigned>(config.grid.y),
                        static_cast<unsigned>(config.grid.z));
  launch.blockDim = dim3(static_cast<unsigned>(config.threads));
  launch.dynamicSmemBytes = config.shared_bytes;
  launch.stream = static_cast<cudaStream_t>(config.stream);
  cudaLaunchAttribute attributes[3];
  launch.attrs = attributes;
  if (config.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[launch.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(config.cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  }
  if (config.dependent) {
    cudaLaunchAttribute& attribute = attributes[launch.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (config.cooperative) {
    cudaLaunchAttribute& attribute = attributes[launch.numAttrs++];
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }
  check(cudaLaunchKernelEx(&launch, entry, params), "launch");
}

}  // namespace faceattr::cuda
