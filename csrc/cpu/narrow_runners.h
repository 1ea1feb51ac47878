// Runners of the phases that read narrow maps; see runners.h. One implementation for both formats: the kernel says how
// wide values and weights are, its family what they are. Maps of integers are as wide as the quantized kernel wants
// them, all those of an engine.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/byte_stem.h"
#include "cpu/runners.h"

namespace faceattr::cpu {

struct NarrowWeights;  // narrow_pack.h

class NarrowStemRunner {
 public:
  NarrowStemRunner(const QuantizedStemPhase& phase, const Layout& layout);
  NarrowStemRunner(const StemPhase& phase, const Layout& layout);
  // This member's rows. Returns false if it met a non-finite pixel.
  bool run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return bytes_ ? bytes_->kernel() : conv_->name; }
  std::size_t scratch_floats(int images) const;
  std::size_t packed_floats() const {
    return weights_.size() + bias_.size() + multiplier_.size() + (bytes_ ? bytes_->packed_floats() : 0);
  }

 private:
  NarrowStemRunner(int dst, const StemConvKernel& kernel, const NarrowWeights& numbers, const Layout& layout);
  bool load_strip(const Pixels& pixels, std::int64_t image, int first_row, int rows, std::int16_t* strip) const;

  const StemConvKernel* conv_;
  const StemKernel* stem_;
  AlignedBuffer weights_, bias_, multiplier_;
  std::vector<float> mean_, doubled_scale_;  // repeated along a row
  int size_, channels_, panels_;
  TensorShape shape_;
  MapPlacement dst_;
  std::optional<ByteStem> bytes_;  // for strips of pixels that are bytes, where kernels multiply such
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
  NarrowConvRunner(const Phase& phase, const NarrowConvKernel& kernel, const NarrowWeights& numbers,
                   const Layout& layout);

  const NarrowConvKernel* kernel_;
  AlignedBuffer weights_, bias_, multiplier_, inverse_;
  BoundSegments segments_;
  NarrowConvArgs args_;  // all but the addresses in the arena
  // Of the maps that are written and added; only those that exist are used.
  TensorShape shape_, narrow_shape_;
  MapPlacement floats_, narrow_, residual_;
  bool has_floats_ = false, has_narrow_ = false, has_residual_ = false;
  Blocking blocking_;
};

// Floats in the arena that a Winograd convolution of narrow maps works in; see workspace_floats().
std::size_t narrow_workspace_floats(const Plan& plan, const WinogradConvPhase& phase);
std::size_t narrow_workspace_floats(const Plan& plan, const QuantizedConvPhase& phase);

// A convolution of narrow maps some of whose segments go by way of Winograd's transform; see kernels/narrow_winograd.
class NarrowWinogradRunner {
 public:
  // `workspace`: offset of workspace_floats() in the arena.
  NarrowWinogradRunner(const QuantizedConvPhase& phase, const Layout& layout, std::size_t workspace);
  NarrowWinogradRunner(const WinogradConvPhase& phase, const Layout& layout, std::size_t workspace);
  // A group of images: where transformed maps are kept whole, a panel's weights are loaded once for all of them.
  void run(const ImageMemory& memory, int images, const Team& team) const;
  const char* kernel() const { return winograd_->name; }
  std::size_t scratch_floats(int images) const;
  std::size_t packed_floats() const { return weights_.size() + base_.packed_floats(); }

 private:
  struct Source {
    std::int64_t offset, row_pitch, pixel_pitch;
    int height, width, channels;  // without the border
    int low;                      // of integers
  };
  NarrowWinogradRunner(NarrowConvRunner base, const NarrowConvKernel& products,
                       const NarrowWinogradTransforms& winograd, const std::vector<Segment>& segments,
                       const std::vector<std::int16_t>& weight, int dst, const Layout& layout);
  ImageMemory of_image(const ImageMemory& group, int image) const;
  std::size_t product_sums(int images) const;  // in scratch, behind strip_floats()
  std::size_t own_floats() const;              // of a whole map's transformed input, in scratch
  std::size_t strip_floats() const;            // of transformed input
  void transform_input(const ImageMemory& memory, int tile_begin, int tile_end, int first_tile,
                       std::int16_t* transformed, std::int64_t pitch) const;
  void run_whole_maps(const ImageMemory& memory, int images, const Team& team) const;
  void run_strips(const ImageMemory& memory, const Team& team) const;
  void run_panels(const ImageMemory& memory, int images, int panel_begin, int row_begin, int row_end,
                  const std::int16_t* transformed, std::int32_t* products) const;

  NarrowConvRunner base_;             // the direct segments, and what becomes of sums
  const NarrowConvKernel* products_;  // of transformed values, which have 16 bits; panels are those of base_
  const NarrowWinogradTransforms* winograd_;
  AlignedBuffer weights_;
  std::vector<Source> sources_;
  std::vector<WinogradPoint> points_;
  TensorShape shape_;
  bool has_direct_ = false;
  bool whole_map_ = false;     // the transformed input of the whole map is kept in the arena, else strip by strip
  std::size_t workspace_ = 0;  // where
  std::size_t slot_;           // floats from one image's arena to the next
  int channels_;               // of all sources, as they are read
  int rows_, columns_;         // of tiles
  int panels_, group_;         // of output channels; `group_` of them are computed at a time
  int strip_rows_;             // of tiles that are transformed at a time
};

}  // namespace faceattr::cpu
