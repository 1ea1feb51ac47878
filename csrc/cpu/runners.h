// One runner per kind of phase: weights packed for a kernel, addresses resolved, ready to run for any image.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "cpu/blocking.h"
#include "cpu/bound_segments.h"
#include "cpu/dispatch.h"
#include "plan/memory_planner.h"
#include "plan/phase.h"

namespace faceattr::cpu {

// A batch of images: uint8 [images, size, size, 3], or float32 [images, 3, size, size] already normalised.
struct Pixels {
  const std::uint8_t* u8 = nullptr;
  const float* f32 = nullptr;
};

// Where the phases of one image read and write. Of a group, the first image's: the arenas of the others follow at the
// slots of the memory plan, their vectors at the pitch of a row.
struct ImageMemory {
  float* arena = nullptr;    // maps
  float* scratch = nullptr;  // this thread's own
  float* vectors = nullptr;  // the image's row of vectors
};

// What a runner needs to know of its surroundings.
struct Layout {
  const Plan& plan;
  const MemoryPlan& memory;
  const std::vector<std::size_t>& vector_offsets;  // by tensor, in an image's row
  std::uint32_t features;                          // of the CPU
};

// Writes zeros, as the map stores them, to this member's rows of what a phase leaves unwritten and others read, where
// there is such: the border, and the padding of a bfloat16 map's channels. The arena's last content lies there.
void clear_border(const MapPlacement& map, const TensorShape& shape, float* arena, const Team& team);

// Memory as narrow values, for arithmetic with the offsets of narrow maps.
inline std::int16_t* narrow(float* memory) { return reinterpret_cast<std::int16_t*>(memory); }
inline const std::int16_t* narrow(const float* memory) { return reinterpret_cast<const std::int16_t*>(memory); }
inline std::uint8_t* bytes(float* memory) { return reinterpret_cast<std::uint8_t*>(memory); }
inline const std::uint8_t* bytes(const float* memory) { return reinterpret_cast<const std::uint8_t*>(memory); }

class StemRunner {
 public:
  StemRunner(const StemPhase& phase, const Layout& layout);
  // This member's rows. Returns false if it met a non-finite pixel.
  bool run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return conv_->name; }
  std::size_t scratch_floats(int images) const;
  std::size_t packed_floats() const { return weights_.size() + bias_.size(); }

 private:
  bool load_strip(const Pixels& pixels, std::int64_t image, int first_row, int rows, float* strip) const;

  const FloatStemKernel* conv_;
  const StemKernel* stem_;
  AlignedBuffer weights_, bias_;
  std::vector<float> mean_, inverse_scale_;  // repeated along a row
  int size_, channels_, panels_;
  TensorShape shape_;
  MapPlacement dst_;
};

// The stem by tiles; see kernels/stem_winograd.
class WinogradStemRunner {
 public:
  WinogradStemRunner(const WinogradStemPhase& phase, const Layout& layout);
  // This member's rows of tiles. Returns false if it met a non-finite pixel.
  bool run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return kernel_->name; }
  std::size_t scratch_floats(int images) const;
  std::size_t packed_floats() const { return weights_.size() + bias_.size(); }

 private:
  bool load_row(const Pixels& pixels, std::int64_t image, int y, float* scratch, float* dst) const;

  const StemWinogradKernel* kernel_;
  AlignedBuffer weights_, bias_;
  float mean_[kRgb], inverse_scale_[kRgb];
  int size_, panels_;
  int tiles_, tile_pitch_;  // of a row; and there are as many rows
  TensorShape shape_;
  MapPlacement dst_;
};

class ConvRunner {
 public:
  ConvRunner(const SegmentedConvPhase& phase, const Layout& layout);
  // `ahead`: memory that the next phase reads, to be fetched meanwhile; null: none.
  void run(const ImageMemory& memory, const Team& team, const char* ahead = nullptr) const;
  // Output positions [begin, end) in row-major order, channels of panels [panel_begin, panel_end).
  void run_part(const ImageMemory& memory, int begin, int end, int panel_begin, int panel_end) const;
  const char* kernel() const { return kernel_->name; }
  std::size_t scratch_floats(int) const { return 0; }
  std::size_t packed_floats() const { return weights_.size() + bias_.size(); }

 private:
  SegmentedConvArgs bind(const ImageMemory& memory) const;

  const SegmentedConvKernel* kernel_;
  AlignedBuffer weights_, bias_;
  BoundSegments segments_;
  SegmentedConvArgs args_;  // all but the addresses in the arena
  TensorShape shape_;
  MapPlacement dst_, residual_;
  bool has_residual_;
  int panels_;
  Blocking blocking_;
};

// Weights of fewer bytes stay in caches from one image to the next: there are few phases of more.
constexpr std::size_t kFewWeightBytes = std::size_t{2} << 20;

// Up to so many threads on one image each transform a small map for themselves: of a 14x14 block that takes 23 us of
// one thread on a Zen 4, in integers a few. Shared, half of what a thread reads would come from another core's cache,
// 112 KiB per block; where cores share none, at 18 ns a line, twice 32 us, to fetch and to write over it.
constexpr int kOwnTransforms = 2;

// A point of a Winograd form, and whether the tiles of the last row and column, which may reach beyond the map, need
// it.
struct WinogradPoint {
  int index, filter;
  bool in_last_row, in_last_column;
};
// Of maps of this shape, by filter.
std::vector<WinogradPoint> winograd_points(const WinogradForm& form, const TensorShape& shape);

// Floats in the arena that a phase works in: the transformed input of a Winograd convolution of a small map.
std::size_t workspace_floats(const Plan& plan, const Phase& phase);

// A convolution whose 3x3 segments of stride 1 or 2 go by way of a transform of tiles; see kernels/winograd.
class WinogradRunner {
 public:
  // `workspace`: offset of workspace_floats() in the arena.
  WinogradRunner(const WinogradConvPhase& phase, const Layout& layout, std::size_t workspace);
  // A group of images: a panel's weights are loaded once for all of them.
  void run(const ImageMemory& memory, int images, const Team& team) const;
  // The weights that this member reads first; null where they are few.
  const char* first_weights(const Team& team) const;
  const char* kernel() const { return winograd_->name; }
  std::size_t scratch_floats(int images) const;
  std::size_t packed_floats() const { return weights_.size() + bias_.size() + direct_.packed_floats(); }

 private:
  struct Source {
    std::int64_t offset, row_pitch, pixel_pitch;
    int height, width, channels;  // without the border
  };
  struct Tiles {  // in row-major order
    int begin, end;
  };
  class Upcoming;

  ImageMemory of_image(const ImageMemory& group, int image) const;
  void transform_input(const ImageMemory& memory, Tiles tiles, int first_tile, float* transformed,
                       std::int64_t pitch) const;
  void run_whole_maps(const ImageMemory& memory, int images, const Team& team) const;
  void run_strips(const ImageMemory& memory, const Team& team) const;
  // `upcoming`: what to fetch meanwhile; null: nothing.
  void run_panels(const ImageMemory& memory, int images, int group, Tiles tiles, const float* transformed,
                  std::int64_t pitch, float* products, Upcoming* upcoming) const;
  void run_direct(const ImageMemory& memory, Tiles tiles, int panel_begin, int panel_end) const;

  const SegmentedConvKernel* gemm_;
  const WinogradTransforms* winograd_;
  ConvRunner direct_;  // the other segments, bias and shortcut; what it writes is added
  bool has_direct_;
  AlignedBuffer weights_, bias_;
  std::vector<Source> sources_;
  std::vector<WinogradPoint> points_;
  TensorShape shape_;
  MapPlacement dst_, residual_;
  bool has_residual_, relu_;
  std::size_t workspace_, slot_;  // floats: the transformed input's offset, from one image's arena to the next
  int channels_;                  // of all sources
  int rows_, columns_;            // of tiles
  int strip_tiles_;               // that are transformed at a time
  int panels_, groups_;           // of output channels; a group of panels is what one thread takes at a time
  bool whole_map_;                // the transformed input of the whole map is kept in the arena, else strip by strip
};

// A map of floats becomes one of integers.
class QuantizeRunner {
 public:
  QuantizeRunner(const QuantizePhase& phase, const Layout& layout);
  void run(const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return kernel_->name; }
  std::size_t scratch_floats(int) const { return 0; }
  std::size_t packed_floats() const { return inverse_.size(); }

 private:
  const QuantizeKernel* kernel_;
  std::vector<float> inverse_;
  TensorShape shape_;  // of what is written
  MapPlacement src_, dst_;
};

class MeansRunner {
 public:
  MeansRunner(const ShiftedMeansPhase& phase, const Layout& layout);
  void run(const ImageMemory& memory, const Team& team) const;
  const char* kernel() const { return kernel_->name; }
  std::size_t scratch_floats(int) const { return 0; }
  std::size_t packed_floats() const { return 0; }

 private:
  const ShiftedMeansKernel* kernel_;
  ShiftedMeansArgs args_;
  std::size_t src_, dst_;
  Format format_;
  int value_bytes_;
  std::vector<float> scale_;
};

class LinearRunner {
 public:
  LinearRunner(const LinearHeadPhase& phase, const Layout& layout);
  // `vectors`: rows of `pitch` floats, one per image.
  void run(float* vectors, std::size_t pitch, std::int64_t images, const Team& team) const;
  // The weights that this member reads first for one image; null where they are few.
  const char* first_weights(const Team& team) const;
  const char* kernel() const { return kernel_->name; }
  std::size_t scratch_floats(int) const { return 0; }
  std::size_t packed_floats() const { return weights_.size() + bias_.size() + scale_.size(); }

 private:
  const LinearKernel* kernel_;
  void (*run_)(const LinearArgs& args, int panel);  // the kernel's for the weights' format
  AlignedBuffer weights_, bias_, scale_;
  std::vector<LinearPart> parts_;
  LinearArgs args_;
  std::size_t dst_;
  int panels_;
};

}  // namespace faceattr::cpu
