#include <algorithm>

#include "cpu/narrow_pack.h"
#include "cpu/narrow_runners.h"

namespace faceattr::cpu {
namespace {

constexpr int kTile = kQuantizedTile, kPoints = kQuantizedTilePoints;
// Between the values of one point and the next, so that 16 points do not fall on the same cache sets.
constexpr int kSkew = 32;
// Of transformed input at a time: with as many bytes of products it stays in an L2 of 512 KiB. 14x14x128 takes 196 KiB.
constexpr std::int64_t kStripBytes = std::int64_t{208} * 1024;
// Output channels whose products are held at once, in whole panels: 16 points x 49 tiles x 32 channels take 98 KiB.
constexpr int kGroupChannels = 32;

int tiles(int side) { return (side + kTile - 1) / kTile; }

}  // namespace

QuantizedWinogradRunner::QuantizedWinogradRunner(const QuantizedConvPhase& phase, const Layout& layout)
    : base_(phase, layout),
      conv_(&best(kernel_lists().PairConv, layout.features)),
      winograd_(&best(kernel_lists().QuantizedWinograd, layout.features)),
      shape_(layout.plan.tensors[phase.dst]),
      has_direct_(!phase.segments.empty()),
      rows_(tiles(shape_.height)),
      columns_(tiles(shape_.width)),
      panels_(panel_count(shape_.channels, conv_->panel)),
      group_(std::max(1, kGroupChannels / conv_->panel)),
      bytes_(false) {
  for (const Segment& s : phase.transformed) {
    const MapPlacement& src = layout.memory.maps[s.src];
    const NarrowRun read = aligned(s);
    const auto interior = static_cast<std::int64_t>(src.narrow_interior());  // bordered by one
    sources_.push_back({interior - src.row_pitch - src.pixel_pitch + read.begin, src.row_pitch, src.pixel_pitch,
                        read.end - read.begin, layout.plan.tensors[s.src].low});
    bytes_ = src.value_bytes == 1;
    channels_ += read.end - read.begin;
  }
  const std::int64_t row_bytes = std::int64_t{kPoints} * columns_ * channels_ * sizeof(std::int16_t);
  strip_rows_ = static_cast<int>(std::clamp<std::int64_t>(kStripBytes / row_bytes, 1, rows_));

  // [panel][point][K / 2][width][2]: the points of a panel are packed as panels of their own.
  const int width = conv_->panel;
  GroupPacker packer(panels_ * kPoints * width, channels_, *conv_);
  const std::int16_t* weight = phase.transformed_weight.data();
  for (int point = 0; point < kPoints; ++point) {
    for (int o = 0; o < shape_.channels; ++o) {
      const std::int64_t row = (std::int64_t{o / width} * kPoints + point) * width + o % width;
      int k = 0;
      for (const Segment& s : phase.transformed) {
        const NarrowRun read = aligned(s);
        for (int c = read.begin; c < read.end; ++c, ++k) {
          if (read.has(c)) packer.put(row, k, *weight++);
        }
      }
    }
  }
  weights_ = packer.take();
}

std::size_t QuantizedWinogradRunner::transformed_values() const {
  return std::size_t{kPoints} * (static_cast<std::size_t>(strip_rows_) * columns_ * channels_ + kSkew);
}

std::size_t QuantizedWinogradRunner::product_sums() const {
  const std::size_t group_channels = static_cast<std::size_t>(group_) * conv_->panel;
  return kPoints * (strip_rows_ * columns_ * group_channels + kSkew);
}

std::size_t QuantizedWinogradRunner::scratch_floats(int) const {
  const std::size_t direct = static_cast<std::size_t>(kTile) * strip_rows_ * shape_.width * group_ * conv_->panel;
  return transformed_values() / kNarrowPerFloat + product_sums() + (has_direct_ ? direct : 0);
}

void QuantizedWinogradRunner::transform_input(const ImageMemory& memory, int row_begin, int row_end,
                                              std::int16_t* transformed) const {
  QuantizedInputArgs args;
  args.point_pitch = static_cast<std::int64_t>(row_end - row_begin) * columns_ * channels_ + kSkew;
  args.dst = transformed;
  for (int row = row_begin; row < row_end; ++row) {
    for (int column = 0; column < columns_; ++column) {
      const int y = row * kTile, x = column * kTile;
      for (const Source& source : sources_) {
        const std::int64_t first = source.offset + y * source.row_pitch + x * source.pixel_pitch;
        if (bytes_) {
          args.bytes = bytes(memory.arena) + first;
        } else {
          args.src = narrow(memory.arena) + first;
        }
        args.low = source.low;
        args.row_pitch = source.row_pitch;
        args.pixel_pitch = source.pixel_pitch;
        args.rows = std::min(kQuantizedTileInput, shape_.height + 2 - y);
        args.columns = std::min(kQuantizedTileInput, shape_.width + 2 - x);
        args.channels = source.channels;
        winograd_->input(args);
        args.dst += source.channels;
      }
    }
  }
}

void QuantizedWinogradRunner::run_panels(const NarrowConvArgs& base, int panel_begin, int row_begin, int row_end,
                                         const std::int16_t* transformed, std::int32_t* products,
                                         std::int32_t* direct) const {
  const int width = conv_->panel;
  const int panel_end = std::min(panel_begin + group_, panels_), pitch = (panel_end - panel_begin) * width;
  const int tile_count = (row_end - row_begin) * columns_;
  const std::int64_t product_pitch = static_cast<std::int64_t>(tile_count) * pitch + kSkew;

  const std::int64_t run = 0;
  ConvSegment segment;
  segment.column_step = channels_;
  segment.runs = &run;
  segment.run_count = 1;
  segment.run_length = channels_;
  NarrowConvArgs args;
  args.segments = &segment;
  args.segment_count = 1;
  args.k = channels_;
  args.out_channels = width;
  args.out_width = tile_count;
  args.sums_pixel_pitch = pitch;
  for (int panel = panel_begin; panel < panel_end; ++panel) {
    for (int point = 0; point < kPoints; ++point) {
      args.base = transformed + point * (static_cast<std::int64_t>(tile_count) * channels_ + kSkew);
      args.weights = narrow(weights_.data()) + (std::int64_t{panel} * kPoints + point) * channels_ * width;
      args.sums = products + point * product_pitch + (panel - panel_begin) * width;
      conv_->run(args, 0, tile_count, 0);
    }
  }

  QuantizedOutputArgs out;
  out.point_pitch = product_pitch;
  out.store = base.store;
  out.first_channel = panel_begin * width;
  out.channels = std::min(pitch, shape_.channels - out.first_channel);
  const int y_begin = row_begin * kTile, y_end = std::min(row_end * kTile, shape_.height);
  if (has_direct_) {
    NarrowConvArgs sums = base;
    sums.sums_pixel_pitch = out.direct_pixel_pitch = pitch;
    sums.sums_row_pitch = out.direct_row_pitch = std::int64_t{shape_.width} * pitch;
    // As if there were rows before the strip, and panels before the group.
    sums.sums = direct - y_begin * sums.sums_row_pitch - out.first_channel;
    for (int panel = panel_begin; panel < panel_end; ++panel) {
      base_.conv().run(sums, y_begin * shape_.width, y_end * shape_.width, panel);
    }
  }
  for (int tile = 0; tile < tile_count; ++tile) {
    out.row = y_begin + tile / columns_ * kTile;
    out.column = tile % columns_ * kTile;
    out.src = products + static_cast<std::int64_t>(tile) * pitch;
    if (has_direct_) {
      out.direct = direct + (out.row - y_begin) * out.direct_row_pitch + out.column * out.direct_pixel_pitch;
    }
    out.rows = std::min(kTile, shape_.height - out.row);
    out.columns = std::min(kTile, shape_.width - out.column);
    winograd_->output(out);
  }
}

void QuantizedWinogradRunner::run(const ImageMemory& memory, const Team& team) const {
  base_.clear_borders(memory, team);
  const NarrowConvArgs base = base_.bind(memory);
  std::int16_t* transformed = narrow(memory.scratch);
  auto* products = reinterpret_cast<std::int32_t*>(memory.scratch + transformed_values() / kNarrowPerFloat);
  std::int32_t* direct = products + product_sums();
  const Team::Range share = team.share(rows_);
  for (int begin = static_cast<int>(share.begin); begin < share.end; begin += strip_rows_) {
    const int end = std::min(begin + strip_rows_, static_cast<int>(share.end));
    transform_input(memory, begin, end, transformed);
    for (int panel = 0; panel < panels_; panel += group_) {
      run_panels(base, panel, begin, end, transformed, products, direct);
    }
  }
}

}  // namespace faceattr::cpu
