// Runners of the phases that read narrow maps; see runners.h. One implementation for both formats: weights are 16 bits
// wide and read in pairs, the kernel's family says what they are.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/runners.h"

namespace faceattr::cpu {

// A convolution's numbers as its kernel wants them, before they are packed.
struct NarrowWeights {
  const NarrowConvKernel* kernel;
  std::vector<std::int16_t> weight;  // [oc][K]: integers, or bfloat16
  std::vector<std::int32_t> bias;    // integers, or the bits of floats
  std::vector<float> multiplier;     // empty for bfloat16
};

class NarrowStemRunner {
 public:
  NarrowStemRunner(const QuantizedStemPhase& phase, const Layout& layout);
  NarrowStemRunner(const StemPhase& phase, const Layout& layout);
  // This member's rows. Returns false if it met a non-finite pixel.
  bool run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return conv_->name; }
  std::size_t scratch_floats(int images) const;
  std::size_t packed_floats() const { return weights_.size() + bias_.size() + multiplier_.size(); }

 private:
  NarrowStemRunner(int dst, const NarrowWeights& numbers, const Layout& layout);
  bool load_strip(const Pixels& pixels, std::int64_t image, int first_row, int rows, std::int16_t* strip) const;

  const NarrowConvKernel* conv_;
  const StemKernel* stem_;
  AlignedBuffer weights_, bias_, multiplier_;
  std::vector<float> mean_, doubled_scale_;  // repeated along a row
  std::int64_t runs_[7];
  ConvSegment segment_;
  int size_, channels_, panels_;
  std::int64_t strip_pitch_;  // of an input row
  TensorShape shape_;
  MapPlacement dst_;
};

class NarrowConvRunner {
 public:
  NarrowConvRunner(const QuantizedConvPhase& phase, const Layout& layout);
  NarrowConvRunner(const SegmentedConvPhase& phase, const Layout& layout);
  void run(const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return kernel_->name; }
  std::size_t scratch_floats(int) const { return 0; }
  std::size_t packed_floats() const { return weights_.size() + bias_.size() + multiplier_.size() + inverse_.size(); }

 private:
  template <class Phase>
  NarrowConvRunner(const Phase& phase, const NarrowWeights& numbers, const Layout& layout);
  void bind_segments(const std::vector<Segment>& segments, const Layout& layout);

  const NarrowConvKernel* kernel_;
  AlignedBuffer weights_, bias_, multiplier_, inverse_;
  std::vector<ConvSegment> segments_;
  std::vector<std::int64_t> runs_;
  NarrowConvArgs args_;  // all but the addresses in the arena
  // Of the maps that are written and added; only those that exist are used.
  TensorShape shape_, narrow_shape_;
  MapPlacement floats_, narrow_, residual_;
  bool has_floats_ = false, has_narrow_ = false, has_residual_ = false;
  Blocking blocking_;
};

}  // namespace faceattr::cpu
