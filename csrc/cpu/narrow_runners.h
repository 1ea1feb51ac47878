// Runners of the phases that read narrow maps; see runners.h. One implementation for both formats: the kernel says how
// wide values and weights are, its family what they are. Maps of integers are as wide as the quantized kernel wants
// them, all those of an engine.
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
  // For runners that compute the sums in another way: zeroes this member's rows of the borders of what is written; the
  // arguments with the addresses of an image; the kernel.
  void clear_borders(const ImageMemory& memory, const Team& team) const;
  NarrowConvArgs bind(const ImageMemory& memory) const;
  const NarrowConvKernel& conv() const { return *kernel_; }
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

// A quantized convolution some of whose segments go by way of Winograd's transform; see kernels/quantized_winograd.
class QuantizedWinogradRunner {
 public:
  QuantizedWinogradRunner(const QuantizedConvPhase& phase, const Layout& layout);
  void run(const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return winograd_->name; }
  std::size_t scratch_floats(int images) const;
  std::size_t packed_floats() const { return weights_.size() + base_.packed_floats(); }

 private:
  struct Source {
    std::int64_t offset, row_pitch, pixel_pitch;
    int channels, low;
  };

  std::size_t transformed_values() const;
  std::size_t product_sums() const;
  void transform_input(const ImageMemory& memory, int row_begin, int row_end, std::int16_t* transformed) const;
  void run_panels(const NarrowConvArgs& base, int panel, int row_begin, int row_end, const std::int16_t* transformed,
                  std::int32_t* products, std::int32_t* direct) const;

  NarrowConvRunner base_;  // the direct segments, and what becomes of sums
  const PairConvKernel* conv_;
  const QuantizedWinogradKernel* winograd_;
  AlignedBuffer weights_;
  std::vector<Source> sources_;
  TensorShape shape_;
  bool has_direct_;
  int channels_ = 0;    // of all sources, as they are read
  int rows_, columns_;  // of tiles
  int panels_, group_;  // of output channels; `group_` of them are computed at a time
  int strip_rows_;      // of tiles that are transformed at a time
  bool bytes_;          // what maps of integers hold
};

}  // namespace faceattr::cpu
