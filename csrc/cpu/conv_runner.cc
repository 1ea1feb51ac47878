#include <algorithm>
#include <cstring>

#include "cpu/pack.h"
#include "cpu/runners.h"

namespace faceattr::cpu {
namespace {

// What is fetched ahead stays in an L2 of 1 MiB beside what the phase itself reads.
constexpr std::int64_t kAheadBytes = 512 * 1024;

}  // namespace

ConvRunner::ConvRunner(const SegmentedConvPhase& phase, const Layout& layout)
    : kernel_(&best(kernel_lists().SegmentedConv, layout.features)),
      shape_(layout.plan.tensors[phase.dst]),
      dst_(layout.memory.maps[phase.dst]),
      has_residual_(phase.residual >= 0),
      panels_(panel_count(shape_.channels, kernel_->panel)) {
  if (has_residual_) residual_ = layout.memory.maps[phase.residual];
  segments_ = {phase.segments, layout.memory.maps, [](const Segment& s, const MapPlacement& src) {
                 return SegmentRead{static_cast<std::int64_t>(src.interior()) + s.start, s.count};
               }};
  segments_.put(args_);
  weights_ = pack_panels(phase.weight, shape_.channels, args_.k, kernel_->panel);
  bias_ = pack_bias(phase.bias, kernel_->panel);
  args_.weights = weights_.data();
  args_.bias = bias_.data();
  args_.out_channels = shape_.channels;
  args_.out_width = shape_.width;
  args_.relu = phase.relu;
  args_.dst_row_pitch = dst_.row_pitch;
  args_.dst_pixel_pitch = dst_.pixel_pitch;
  args_.residual_row_pitch = residual_.row_pitch;
  args_.residual_pixel_pitch = residual_.pixel_pitch;
  blocking_ =
      Blocking(phase.segments, layout.plan.tensors, shape_, 4.0, 4.0 * static_cast<double>(weights_.size()), panels_);
}

namespace {

// `zero`: what every byte of a zero is.
void clear_border(std::uint8_t* base, int zero, const MapPlacement& map, const TensorShape& shape, const Team& team) {
  const std::int64_t row_bytes = map.row_pitch * map.value_bytes, position_bytes = map.pixel_pitch * map.value_bytes;
  const Team::Range rows = team.share(shape.height + 2);
  for (std::int64_t y = rows.begin; y < rows.end; ++y) {
    std::uint8_t* row = base + y * row_bytes;
    if (y == 0 || y == shape.height + 1) {
      std::memset(row, zero, row_bytes);
    } else {
      std::memset(row, zero, position_bytes);
      std::memset(row + row_bytes - position_bytes, zero, position_bytes);
    }
  }
}

// Channels that only fill up a position: weights of zero meet them, and zero times NaN would be NaN.
void clear_padding(std::int16_t* interior, const MapPlacement& map, const TensorShape& shape, const Team& team) {
  const std::int64_t padding = map.pixel_pitch - shape.channels;
  if (padding == 0) return;
  const Team::Range rows = team.share(shape.height);
  for (std::int64_t y = rows.begin; y < rows.end; ++y) {
    std::int16_t* position = interior + y * map.row_pitch;
    for (int x = 0; x < shape.width; ++x, position += map.pixel_pitch) {
      std::fill_n(position + shape.channels, padding, std::int16_t{0});
    }
  }
}

}  // namespace

void clear_border(const MapPlacement& map, const TensorShape& shape, float* arena, const Team& team) {
  if (shape.format == Format::kBfloat16) clear_padding(narrow(arena) + map.narrow_interior(), map, shape, team);
  if (map.border == 0) return;
  const int zero = map.value_bytes == 1 ? -shape.low : 0;  // bytes hold distances from low
  clear_border(bytes(arena + map.offset), zero, map, shape, team);
}

SegmentedConvArgs ConvRunner::bind(const ImageMemory& memory) const {
  SegmentedConvArgs args = args_;
  args.base = memory.arena;
  args.dst = memory.arena + dst_.interior();
  if (has_residual_) args.residual = memory.arena + residual_.interior();
  return args;
}

void ConvRunner::run(const ImageMemory& memory, const Team& team, const char* ahead) const {
  clear_border(dst_, shape_, memory.arena, team);
  SegmentedConvArgs args = bind(memory);
  std::int64_t left = ahead != nullptr ? kAheadBytes : 0;
  blocking_.run(team, [&](int begin, int end, int panel) {
    args.ahead = left > 0 ? ahead : nullptr;
    const std::int64_t fetched = kernel_->run(args, begin, end, panel);
    ahead += fetched;
    left -= fetched;
  });
}

void ConvRunner::run_part(const ImageMemory& memory, int begin, int end, int panel_begin, int panel_end) const {
  const SegmentedConvArgs args = bind(memory);
  for (int panel = panel_begin; panel < panel_end; ++panel) kernel_->run(args, begin, end, panel);
}

}  // namespace faceattr::cpu
