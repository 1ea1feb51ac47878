// Runs a plan on the CPU: the phases of a group of images by one team, the heads of a batch by all. Immutable after
// construction; every call brings its own memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "cpu/narrow_runners.h"
#include "cpu/runners.h"

namespace faceattr::cpu {

class Executor {
 public:
  // Throws std::invalid_argument if the plan does not fit together.
  Executor(Plan plan, std::uint32_t features);
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Images that a thread takes at a time where there are enough: phases from first_grouped() on run layer by layer over
  // them. 1 where no phase gains from that.
  int group_images() const;
  int first_grouped() const { return memory_.first_grouped; }

  // Memory that a caller brings: per team and per thread for groups of up to `images`, per image of a batch.
  std::size_t arena_floats(int images) const { return memory_.arena_floats + (images - 1) * memory_.slot_floats; }
  std::size_t scratch_floats(int images) const;
  std::size_t vector_floats() const { return vector_floats_; }

  std::size_t packed_floats() const;         // weights
  std::vector<std::string> kernels() const;  // name per phase
  int phase_count() const { return static_cast<int>(runners_.size()); }
  const std::vector<Output>& outputs() const { return plan_.outputs; }
  std::vector<int> output_shape(const Output& output) const;  // of one image: height, width, channels; or channels
  std::int64_t output_floats(const Output& output) const;     // per image

  // Every phase up to the pooled vectors of `images` consecutive images, and the outputs that are maps, into their
  // places of the caller's arrays. `memory`, `non_finite`: the first image's. non_finite[i] is set if this member met a
  // non-finite pixel. With `seconds`, member 0 adds the time of each phase.
  void run_images(const Pixels& pixels, std::int64_t first, int images, const ImageMemory& memory,
                  float* const* outputs, std::atomic<bool>* non_finite, const Team& team, double* seconds) const;

  // The linear heads of `images` rows of vectors.
  void run_heads(float* vectors, std::int64_t images, const Team& team, double* seconds) const;

  // The outputs that are vectors, of one image.
  void copy_vectors(const float* vectors, std::int64_t image, float* const* outputs) const;

  // Every output of one image becomes NaN.
  void fill_nan(std::int64_t image, float* const* outputs) const;

 private:
  using Runner = std::variant<StemRunner, WinogradStemRunner, ConvRunner, WinogradRunner, NarrowStemRunner,
                              NarrowConvRunner, NarrowWinogradRunner, QuantizeRunner, MeansRunner, LinearRunner>;

  template <class Runner, class... Arguments>
  void add(const Arguments&... arguments);
  ImageMemory of_image(const ImageMemory& group, int image) const;
  const char* weights_after(int phase, const Team& team) const;
  bool run_phase(int phase, const Pixels& pixels, std::int64_t first, int images, const ImageMemory& memory,
                 std::atomic<bool>* non_finite, const Team& team) const;
  void copy_maps(const ImageMemory& memory, std::int64_t image, float* const* outputs, const Team& team) const;

  Plan plan_;  // its weights are dropped once packed
  std::vector<TensorKind> kinds_;
  MemoryPlan memory_;
  std::vector<std::size_t> vector_offsets_;  // by tensor
  std::size_t vector_floats_ = 0;
  std::vector<Runner> runners_;  // by phase
};

}  // namespace faceattr::cpu
