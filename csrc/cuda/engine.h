// Pixels in, results out, on one device: a Program with its weights uploaded, and the memory of its calls. No Python.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device_memory.h"
#include "cuda/program.h"
#include "cuda/runtime.h"

namespace faceattr::cuda {

struct Pixels {
  const void* data = nullptr;  // uint8 [N, S, S, 3] or float32 [N, 3, S, S]
  bool u8 = true;
};

// Which kernels may be used.
enum class Kernels {
  kBest,
  kPortable,
  kHopper,  // or CudaError
};

// Callable from any number of threads at once; in a forked child, every call throws CudaError. Other errors of the
// runtime or of a launch throw CudaError or LaunchError; an error that sticks does so in every later call.
class CudaEngine {
 public:
  // Throws std::invalid_argument for a plan that does not fit together.
  CudaEngine(Plan plan, int device, Kernels kernels);
  ~CudaEngine();
  CudaEngine(const CudaEngine&) = delete;
  CudaEngine& operator=(const CudaEngine&) = delete;

  // Gives `stream` all the work and returns: pixels (aligned to 16 bytes) and outputs are on the device, and outputs[o]
  // holds `images` times output_floats(o) floats.
  void run(const Pixels& pixels, std::int64_t images, const std::vector<float*>& outputs, Stream stream) const;

  // The same into new memory; output o begins at offsets[o], a multiple of 256 bytes.
  std::shared_ptr<DeviceMemory> run(const Pixels& pixels, std::int64_t images, std::vector<std::size_t>* offsets,
                                    Stream stream) const;

  // run() with pixels and outputs on the host: returns when the outputs are there.
  void run_host(const Pixels& pixels, std::int64_t images, const std::vector<float*>& outputs) const;

  // run(), phase by phase; returns the seconds of each, summed over the images.
  std::vector<double> profile(const Pixels& pixels, std::int64_t images, const std::vector<float*>& outputs,
                              Stream stream) const;

  // A copy of `bytes` of the host in stream order; `src` may be changed as soon as this returns.
  std::shared_ptr<DeviceMemory> upload(const void* src, std::size_t bytes, Stream stream) const;
  // A C-contiguous copy of four axes of items of 1 or 4 bytes at `src`, `strides` items apart.
  std::shared_ptr<DeviceMemory> make_contiguous(const void* src, int item_bytes, const std::vector<std::int64_t>& shape,
                                                const std::vector<std::int64_t>& strides, Stream stream) const;

  const Program& program() const;
  const DeviceInfo& info() const;
  int device() const;
  bool hopper() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Lets `stream` of `device` go on only when `other` has come to where it is now.
void order_streams(int device, Stream stream, Stream other);

}  // namespace faceattr::cuda
