// A plan as the GPU runs it: packed weights, a place for every map of a batch, and a list of launches. It owns no
// memory of the device and knows no device: the same Program runs on the emulator.
//
// Maps lie as [image][channels / g][height * width][g], 16 bytes per group of g channels (layout.h). Activations have
// the format that the plan gives them, vectors are float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "plan/phase.h"

namespace faceattr::cuda {

using Stream = void*;  // a cudaStream_t

// What tiles are chosen by.
struct Target {
  int major = 8, minor = 0;  // compute capability
  int multiprocessors = 108;
  std::size_t shared_bytes = 99328;  // that a block may have at most
  bool hopper_kernels = false;       // use those of hopper/ where there are any
  int hopper_images = 0;             // the smallest batch that they take; 0: by estimates of each
};

// Pointers of the device. Everything is ordered by the stream; nothing allocates or synchronises, so that a graph can
// capture it.
struct Call {
  const std::byte* weights = nullptr;  // what Program::weights() holds, aligned to 256 bytes
  std::byte* workspace = nullptr;      // workspace_bytes(images), aligned to 256 bytes
  // uint8 [images, S, S, 3], or float32 [images, 3, S, S], normalised; aligned to 16 bytes.
  const void* pixels = nullptr;
  bool u8 = true;
  // On the host, read during the call: per output, float32 [images, count] of a vector, or [images, height, width,
  // count] of a map. NaN throughout for an image with a pixel that is not finite, or that the format of the stem's
  // input cannot hold.
  float* const* outputs = nullptr;
  int images = 0;  // 1 … max_images()
  Stream stream = nullptr;
};

class Program {
 public:
  // Throws std::invalid_argument where the plan is wrong, or holds what no kernel computes (Winograd's form).
  Program(Plan plan, const Target& target);
  Program(Program&&) noexcept;
  Program& operator=(Program&&) noexcept;
  ~Program();

  const std::vector<std::byte>& weights() const;  // packed, in pieces aligned to 256 bytes
  std::size_t workspace_bytes(int images) const;
  int max_images() const;  // a larger batch runs in chunks
  // Throws LaunchError.
  void enqueue(const Call& call) const;
  int phase_count() const;
  void enqueue_phase(const Call& call, int phase) const;  // phases 0 … phase_count() - 1 in turn are enqueue()
  // What each phase launches for a batch: kernel, tile and grid.
  std::vector<std::string> kernels(int images) const;
  const std::vector<Output>& outputs() const;
  std::int64_t output_floats(const Output& output) const;  // of one image

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace faceattr::cuda
