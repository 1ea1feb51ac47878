#include <algorithm>

#include "cpu/pack.h"
#include "cpu/runners.h"

namespace faceattr::cpu {
namespace {

// What may stay in a core's cache between uses: half of 512 KiB, the smallest L2 of current servers.
constexpr double kCacheBytes = 256.0 * 1024;
// With fewer work items than this per thread, positions are cut further so that no thread waits long for another.
constexpr int kItemsPerThread = 8;

}  // namespace

ConvRunner::ConvRunner(const SegmentedConvPhase& phase, const Layout& layout)
    : kernel_(&best(kernel_lists().SegmentedConv, layout.features)),
      shape_(layout.plan.tensors[phase.dst]),
      dst_(layout.memory.maps[phase.dst]),
      has_residual_(phase.residual >= 0),
      panels_(panel_count(shape_.channels, kernel_->panel)) {
  if (has_residual_) residual_ = layout.memory.maps[phase.residual];
  std::vector<std::size_t> first_run;
  for (const Segment& s : phase.segments) {
    const MapPlacement& src = layout.memory.maps[s.src];
    const int pad = s.kernel / 2;
    ConvSegment segment;
    segment.offset = static_cast<std::int64_t>(src.interior()) + s.start - pad * (src.row_pitch + src.pixel_pitch);
    segment.row_step = s.stride * src.row_pitch;
    segment.column_step = s.stride * src.pixel_pitch;
    // A row of taps is contiguous where the segment reads whole positions.
    const bool whole = s.count == layout.plan.tensors[s.src].channels;
    const int columns = whole ? 1 : s.kernel;
    segment.run_length = whole ? s.kernel * s.count : s.count;
    segment.run_count = s.kernel * columns;
    first_run.push_back(runs_.size());
    for (int ky = 0; ky < s.kernel; ++ky) {
      for (int kx = 0; kx < columns; ++kx) runs_.push_back(ky * src.row_pitch + kx * src.pixel_pitch);
    }
    args_.k += static_cast<std::int64_t>(segment.run_count) * segment.run_length;
    segments_.push_back(segment);
  }
  for (std::size_t i = 0; i < segments_.size(); ++i) segments_[i].runs = runs_.data() + first_run[i];
  weights_ = pack_panels(phase.weight, shape_.channels, args_.k, kernel_->panel);
  bias_ = pack_bias(phase.bias, kernel_->panel);
  args_.segments = segments_.data();
  args_.segment_count = static_cast<int>(segments_.size());
  args_.weights = weights_.data();
  args_.bias = bias_.data();
  args_.out_channels = shape_.channels;
  args_.out_width = shape_.width;
  args_.relu = phase.relu;
  args_.dst_row_pitch = dst_.row_pitch;
  args_.dst_pixel_pitch = dst_.pixel_pitch;
  args_.residual_row_pitch = residual_.row_pitch;
  args_.residual_pixel_pitch = residual_.pixel_pitch;
  choose_blocking(phase, layout);
}

// Either the weights of one panel stay in cache while all positions pass, or a block of positions stays while all
// panels pass. Choose what moves fewer bytes from the outer cache; which outputs are computed when has no effect on
// their bits.
void ConvRunner::choose_blocking(const SegmentedConvPhase& phase, const Layout& layout) {
  double input = 0;
  for (const Segment& s : phase.segments) {
    const TensorShape& src = layout.plan.tensors[s.src];
    const double used = s.kernel >= s.stride ? 1.0 : 1.0 / s.stride;  // rows that a strided 1x1 skips are never loaded
    input += 4.0 * src.height * src.width * s.count * used;
  }
  const double weights = 4.0 * static_cast<double>(weights_.size());
  double least = weights + (input > kCacheBytes ? input * panels_ : input);
  for (int rows = shape_.height; rows >= 1; --rows) {
    const int blocks = (shape_.height + rows - 1) / rows;
    if (input / blocks > kCacheBytes) continue;
    const double bytes = input + (weights > kCacheBytes ? weights * blocks : weights);
    if (bytes < least) {
      least = bytes;
      panel_outer_ = false;
      blocks_ = blocks;
    }
  }
}

void clear_border(const MapPlacement& map, const TensorShape& shape, float* arena, const Team& team) {
  if (map.border == 0) return;
  float* base = arena + map.offset;
  const Team::Range rows = team.share(shape.height + 2);
  for (std::int64_t y = rows.begin; y < rows.end; ++y) {
    float* row = base + y * map.row_pitch;
    if (y == 0 || y == shape.height + 1) {
      std::fill_n(row, map.row_pitch, 0.0f);
    } else {
      std::fill_n(row, map.pixel_pitch, 0.0f);
      std::fill_n(row + map.row_pitch - map.pixel_pitch, map.pixel_pitch, 0.0f);
    }
  }
}

SegmentedConvArgs ConvRunner::bind(const ImageMemory& memory) const {
  SegmentedConvArgs args = args_;
  args.base = memory.arena;
  args.dst = memory.arena + dst_.interior();
  if (has_residual_) args.residual = memory.arena + residual_.interior();
  return args;
}

void ConvRunner::run(const ImageMemory& memory, const Team& team) const {
  clear_border(dst_, shape_, memory.arena, team);
  const SegmentedConvArgs args = bind(memory);
  const std::int64_t pixels = static_cast<std::int64_t>(shape_.height) * shape_.width;
  std::int64_t blocks = blocks_;
  if (team.size > 1) {
    while (blocks * panels_ % team.size != 0 && blocks * panels_ < kItemsPerThread * team.size && blocks < pixels)
      ++blocks;
  }
  const Team::Range items = team.share(blocks * panels_);
  for (std::int64_t item = items.begin; item < items.end; ++item) {
    const std::int64_t panel = panel_outer_ ? item / blocks : item % panels_;
    const std::int64_t block = panel_outer_ ? item % blocks : item / panels_;
    kernel_->run(args, static_cast<int>(pixels * block / blocks), static_cast<int>(pixels * (block + 1) / blocks),
                 static_cast<int>(panel));
  }
}

void ConvRunner::run_part(const ImageMemory& memory, int row_begin, int row_end, int panel_begin, int panel_end) const {
  const SegmentedConvArgs args = bind(memory);
  for (int panel = panel_begin; panel < panel_end; ++panel) {
    kernel_->run(args, row_begin * shape_.width, row_end * shape_.width, panel);
  }
}

}  // namespace faceattr::cpu
