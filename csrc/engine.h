// Pixels in, results out: the executor of one plan with its threads and memory. No Python.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cpu/executor.h"

namespace faceattr {

// Callable from any number of threads at once, and in a forked child, also when the fork happened inside other calls.
class Engine {
 public:
  // `isa`: level name, or empty for all that the machine has. Throws std::invalid_argument for a plan that does not fit
  // together, cpu::DeviceError for an instruction set that is not there.
  Engine(Plan plan, const std::string& isa, int threads);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // outputs[o] holds `images` times output_floats(o) floats. The bits depend neither on the number of images nor on
  // threads or callers. Throws std::bad_alloc before anything is written.
  void run(const cpu::Pixels& pixels, std::int64_t images, float* const* outputs) const;

  // The same with the seconds of each phase. `batched` deals the images to the threads as run() does, and the seconds
  // are those of the calling thread, which gets its share; otherwise all threads run one image at a time.
  std::vector<double> profile(const cpu::Pixels& pixels, std::int64_t images, float* const* outputs,
                              bool batched = false) const;

  const cpu::Executor& executor() const { return executor_; }
  int threads() const { return threads_; }
  std::uint32_t features() const { return features_; }

 private:
  struct Workspace;
  class Runtime;

  Runtime& runtime() const;
  void run_chunk(const cpu::Pixels& pixels, std::int64_t first, std::int64_t images, float* const* outputs,
                 Runtime& runtime, Workspace& workspace, bool batched, double* seconds) const;
  void run(const cpu::Pixels& pixels, std::int64_t images, float* const* outputs, bool batched, double* seconds) const;

  const std::uint32_t features_;
  const int threads_;
  const cpu::Executor executor_;
  mutable std::atomic<Runtime*> runtime_{nullptr};  // threads and workspaces, of this process
};

}  // namespace faceattr
