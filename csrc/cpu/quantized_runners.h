// Runners of the phases that write maps of integers; see runners.h.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/runners.h"

namespace faceattr::cpu {

class QuantizedStemRunner {
 public:
  QuantizedStemRunner(const QuantizedStemPhase& phase, const Layout& layout);
  // This member's rows. Returns false if it met a non-finite pixel.
  bool run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return conv_->name; }
  std::size_t scratch_floats() const;
  std::size_t packed_floats() const { return weights_.size() + bias_.size() + multiplier_.size(); }

 private:
  bool load_strip(const Pixels& pixels, std::int64_t image, int first_row, int rows, std::int16_t* strip) const;

  const QuantizedConvKernel* conv_;
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

class QuantizedConvRunner {
 public:
  QuantizedConvRunner(const QuantizedConvPhase& phase, const Layout& layout);
  void run(const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return kernel_->name; }
  std::size_t packed_floats() const { return weights_.size() + bias_.size() + multiplier_.size() + inverse_.size(); }

 private:
  const QuantizedConvKernel* kernel_;
  AlignedBuffer weights_, bias_, multiplier_, inverse_;
  std::vector<ConvSegment> segments_;
  std::vector<std::int64_t> runs_;
  QuantizedConvArgs args_;  // all but the addresses in the arena
  // Of the maps that are written and added; only those that exist are used.
  TensorShape shape_, integers_shape_;
  MapPlacement floats_, integers_, residual_;
  bool has_floats_ = false, has_integers_ = false, has_residual_ = false;
  Blocking blocking_;
};

}  // namespace faceattr::cpu
