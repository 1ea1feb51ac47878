#include <algorithm>

#include "cpu/narrow_runners.h"
#include "cpu/pack.h"
#include "cpu/runners.h"

namespace faceattr {
namespace {

// Between the values of one point and the next, so that 16 to 65 points do not fall on the same cache sets.
constexpr int kSkew = 16;
// A transformed map of up to this many floats (512 KiB) is kept whole, for all threads to read: 14x14x128 takes 393 KiB
// for F(2x2), 290 KiB for F(4x4), 224 KiB for F(5x5), 28x28x64 264 KiB at stride 2. Larger ones go strip by strip, each
// thread its own.
constexpr std::size_t kWholeMap = std::size_t{128} * 1024;
// Tiles per strip, at least, as many as whole rows have: weights are read once per strip, and stay in an L2 of 1 MiB
// beside it. 14 tiles of 64 channels take 128 KiB for F(4x4), of 128 channels 459 KiB at stride 2.
constexpr int kStripTiles = 14;
// Output channels whose products are held at once, in whole panels: 36 points x 14 tiles x 32 channels take 63 KiB, 65
// points x 14 tiles 114 KiB, the 64 channels of one AVX-512 panel twice that.
constexpr int kGroupChannels = 32;

int tiles(int side, int tile) { return (side + tile - 1) / tile; }

int form_index(const WinogradConvPhase& phase) { return cpu::winograd_form(phase.segments[0].stride, phase.tile); }

int total_channels(const WinogradConvPhase& phase) {
  int channels = 0;
  for (const Segment& s : phase.segments) channels += s.count;
  return channels;
}

std::size_t transformed_floats(const cpu::WinogradForm& form, int tile_count, int channels) {
  return static_cast<std::size_t>(form.points()) * (static_cast<std::size_t>(tile_count) * channels + kSkew);
}

std::size_t whole_map_floats(const cpu::WinogradForm& form, const TensorShape& dst, int channels) {
  return transformed_floats(form, tiles(dst.height, form.output) * tiles(dst.width, form.output), channels);
}

}  // namespace

namespace cpu {

std::size_t workspace_floats(const Plan& plan, const Phase& phase) {
  if (const auto* quantized = std::get_if<QuantizedConvPhase>(&phase)) return narrow_workspace_floats(plan, *quantized);
  const auto* winograd = std::get_if<WinogradConvPhase>(&phase);
  if (winograd == nullptr) return 0;
  if (plan.tensors[winograd->segments[0].src].narrow()) return narrow_workspace_floats(plan, *winograd);
  const WinogradForm& form = kWinogradForms[form_index(*winograd)];
  const std::size_t floats = whole_map_floats(form, plan.tensors[winograd->direct.dst], total_channels(*winograd));
  return floats <= kWholeMap ? floats : 0;
}

std::vector<WinogradPoint> winograd_points(const WinogradForm& form, const TensorShape& shape) {
  const int height = (shape.height - 1) % form.output + 1, width = (shape.width - 1) % form.output + 1;
  std::vector<WinogradPoint> points;
  for (int row = 0; row < form.side; ++row) {
    for (int column = 0; column < form.side; ++column) {
      if (!form.has_point(row, column)) continue;
      points.push_back(
          {form.point(row, column), form.filter(row, column), form.reaches(row, height), form.reaches(column, width)});
    }
  }
  std::stable_sort(points.begin(), points.end(),
                   [](const WinogradPoint& a, const WinogradPoint& b) { return a.filter < b.filter; });
  return points;
}

namespace {

int group_panels(int panel_width) { return std::max(1, kGroupChannels / panel_width); }

// ReLU comes after the products are added.
SegmentedConvPhase without_relu(SegmentedConvPhase phase) {
  phase.relu = false;
  return phase;
}

// [filter][oc][K] → [group][filter][panel][K][width]: one stream in reading order.
AlignedBuffer pack_filters(const std::vector<float>& weight, int filters, int out_channels, int k, int width) {
  const int panels = panel_count(out_channels, width), group = group_panels(width);
  AlignedBuffer packed(static_cast<std::size_t>(filters) * panels * k * width);
  float* dst = packed.data();
  for (int first = 0; first < panels; first += group) {
    for (int f = 0; f < filters; ++f) {
      for (int panel = first; panel < std::min(first + group, panels); ++panel) {
        for (int i = 0; i < k; ++i) {
          for (int j = 0; j < width; ++j) {
            const int o = panel * width + j;
            *dst++ = o < out_channels ? weight[(static_cast<std::size_t>(f) * out_channels + o) * k + i] : 0.0f;
          }
        }
      }
    }
  }
  return packed;
}

}  // namespace

WinogradRunner::WinogradRunner(const WinogradConvPhase& phase, const Layout& layout, std::size_t workspace)
    : gemm_(&best(kernel_lists().SegmentedConv, layout.features)),
      winograd_(&best(kernel_lists().Winograd, layout.features).transforms[form_index(phase)]),
      direct_(without_relu(phase.direct), layout),
      has_direct_(!phase.direct.segments.empty()),
      shape_(layout.plan.tensors[phase.direct.dst]),
      dst_(layout.memory.maps[phase.direct.dst]),
      has_residual_(phase.direct.residual >= 0),
      relu_(phase.direct.relu),
      workspace_(workspace),
      slot_(layout.memory.slot_floats),
      channels_(total_channels(phase)),
      rows_(tiles(shape_.height, phase.tile)),
      columns_(tiles(shape_.width, phase.tile)),
      strip_tiles_(tiles(kStripTiles, columns_) * columns_),
      panels_(panel_count(shape_.channels, gemm_->panel)) {
  if (has_residual_) residual_ = layout.memory.maps[phase.direct.residual];
  for (const Segment& s : phase.segments) {
    const MapPlacement& src = layout.memory.maps[s.src];
    const TensorShape& shape = layout.plan.tensors[s.src];
    sources_.push_back({static_cast<std::int64_t>(src.offset) + s.start, src.row_pitch, src.pixel_pitch, shape.height,
                        shape.width, s.count});
  }
  groups_ = panel_count(panels_, group_panels(gemm_->panel));
  const WinogradForm& form = winograd_->form;
  points_ = winograd_points(form, shape_);
  whole_map_ = whole_map_floats(form, shape_, channels_) <= kWholeMap;
  weights_ = pack_filters(phase.weight, form.filters(), shape_.channels, channels_, gemm_->panel);
  // Products have no bias; where the direct part has run, it has added the phase's.
  bias_ = pack_bias(has_direct_ ? std::vector<float>(shape_.channels, 0.0f) : phase.direct.bias, gemm_->panel);
}

std::size_t WinogradRunner::scratch_floats(int images) const {
  const int group = group_panels(gemm_->panel) * gemm_->panel;
  const WinogradForm& form = winograd_->form;
  if (whole_map_) {
    return transformed_floats(form, images * rows_ * columns_, group) +
           transformed_floats(form, rows_ * columns_, channels_);
  }
  return transformed_floats(form, strip_tiles_, channels_) + transformed_floats(form, strip_tiles_, group);
}

ImageMemory WinogradRunner::of_image(const ImageMemory& memory, int image) const {
  return {memory.arena + image * slot_, memory.scratch, nullptr};
}

void WinogradRunner::transform_input(const ImageMemory& memory, Tiles tiles, int first_tile, float* transformed,
                                     std::int64_t pitch) const {
  for (int tile = tiles.begin; tile < tiles.end; ++tile) {
    const int step = winograd_->form.output * winograd_->form.stride, side = winograd_->form.side;
    const int y = tile / columns_ * step, x = tile % columns_ * step;
    float* dst = transformed + static_cast<std::int64_t>(tile - first_tile) * channels_;
    for (const Source& source : sources_) {
      WinogradInputArgs args;
      args.src = memory.arena + source.offset + y * source.row_pitch + x * source.pixel_pitch;  // bordered by one
      args.row_pitch = source.row_pitch;
      args.pixel_pitch = source.pixel_pitch;
      args.rows = std::min(side, source.height + 2 - y);
      args.columns = std::min(side, source.width + 2 - x);
      args.channels = source.channels;
      args.dst = dst;
      args.point_pitch = pitch;
      winograd_->input(args);
      dst += source.channels;
    }
  }
}

// What the next strip reads, piece by piece: rows of each source.
class WinogradRunner::Upcoming {
 public:
  Upcoming(const std::vector<Source>& sources, const float* arena, int row_begin, int row_end)
      : sources_(sources), arena_(arena), row_begin_(row_begin), row_end_(row_end) {}

  // Null where nothing is left.
  const char* next() {
    for (; source_ < sources_.size(); ++source_, taken_ = 0) {
      const Source& source = sources_[source_];
      const std::int64_t floats = (std::min(row_end_, source.height + 2) - row_begin_) * source.row_pitch;
      const float* rows = arena_ + source.offset + row_begin_ * source.row_pitch;
      if (taken_ < floats * static_cast<std::int64_t>(sizeof(float)))
        return reinterpret_cast<const char*>(rows) + taken_;
    }
    return nullptr;
  }
  void advance(std::int64_t bytes) { taken_ += bytes; }

 private:
  const std::vector<Source>& sources_;
  const float* arena_;
  int row_begin_, row_end_;
  std::size_t source_ = 0;
  std::int64_t taken_ = 0;  // bytes of this source
};

// Positions of the matrix products are the tiles of all images: a row of them is an image.
void WinogradRunner::run_panels(const ImageMemory& memory, int images, int group, Tiles tiles, const float* transformed,
                                std::int64_t pitch, float* products, Upcoming* upcoming) const {
  const int width = gemm_->panel, group_size = group_panels(width);
  const int panel_begin = group * group_size, panel_end = std::min(panel_begin + group_size, panels_);
  const int group_width = (panel_end - panel_begin) * width, first = panel_begin * width;
  const int tile_count = tiles.end - tiles.begin, side = winograd_->form.output;
  const std::int64_t image_pitch = static_cast<std::int64_t>(tile_count) * group_width;
  const std::int64_t product_pitch = images * image_pitch + kSkew;

  const std::int64_t run = 0;
  ConvSegment segment;
  segment.column_step = channels_;
  segment.runs = &run;
  segment.run_count = 1;
  segment.run_length = channels_;
  SegmentedConvArgs args;
  args.segments = &segment;
  args.segment_count = 1;
  args.k = channels_;
  args.out_channels = width;
  args.dst_pixel_pitch = group_width;
  const float* weights = weights_.data() + static_cast<std::int64_t>(winograd_->form.filters()) * first * channels_;
  const bool whole = tile_count == rows_ * columns_;
  for (const WinogradPoint& point : points_) {
    // Products that no output needs are left out: rows of tiles, and of a single image columns.
    const int rows = whole && !point.in_last_row ? rows_ - 1 : rows_;
    const int columns = whole && images == 1 && !point.in_last_column ? columns_ - 1 : columns_;
    int positions = rows * columns;
    if (columns < columns_) {
      args.out_width = columns;
      segment.row_step = static_cast<std::int64_t>(columns_) * channels_;
      args.dst_row_pitch = static_cast<std::int64_t>(columns_) * group_width;
    } else {
      args.out_width = whole ? positions : tile_count;
      segment.row_step = static_cast<std::int64_t>(slot_);
      args.dst_row_pitch = image_pitch;
      positions = images * args.out_width;
    }
    args.base = transformed + point.index * pitch;
    args.weights = weights + static_cast<std::int64_t>(point.filter) * group_width * channels_;
    for (int panel = 0; panel < panel_end - panel_begin; ++panel) {
      args.dst = products + point.index * product_pitch + panel * width;
      if (upcoming != nullptr) args.ahead = upcoming->next();
      const std::int64_t fetched = gemm_->run(args, 0, positions, 0);
      if (upcoming != nullptr) upcoming->advance(fetched);
      args.weights += static_cast<std::int64_t>(channels_) * width;
    }
  }

  WinogradOutputArgs out;
  out.point_pitch = product_pitch;
  out.channels = std::min(group_width, shape_.channels - first);
  out.bias = bias_.data() + first;
  out.relu = relu_;
  out.dst_row_pitch = dst_.row_pitch;
  out.dst_pixel_pitch = dst_.pixel_pitch;
  const MapPlacement& added = has_direct_ ? dst_ : residual_;
  out.residual_row_pitch = added.row_pitch;
  out.residual_pixel_pitch = added.pixel_pitch;
  for (int image = 0; image < images; ++image) {
    const ImageMemory own = of_image(memory, image);
    if (has_direct_) run_direct(own, tiles, panel_begin, panel_end);
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      const int y = tile / columns_ * side, x = tile % columns_ * side;
      out.src = products + image * image_pitch + static_cast<std::int64_t>(tile - tiles.begin) * group_width;
      out.dst = own.arena + dst_.interior() + y * dst_.row_pitch + x * dst_.pixel_pitch + first;
      if (has_direct_ || has_residual_) {
        out.residual = own.arena + added.interior() + y * added.row_pitch + x * added.pixel_pitch + first;
      }
      out.rows = std::min(side, shape_.height - y);
      out.columns = std::min(side, shape_.width - x);
      winograd_->output(out);
    }
  }
}

// The outputs of these tiles: whole rows of them at once, the rest of a row line by line.
void WinogradRunner::run_direct(const ImageMemory& memory, Tiles tiles, int panel_begin, int panel_end) const {
  const int side = winograd_->form.output;
  for (int tile = tiles.begin; tile < tiles.end;) {
    const int row = tile / columns_, column = tile % columns_;
    const int rows = column == 0 ? (tiles.end - tile) / columns_ : 0;
    const int count = rows > 0 ? rows * columns_ : std::min(columns_ - column, tiles.end - tile);
    const int y_begin = row * side, y_end = std::min((row + std::max(rows, 1)) * side, shape_.height);
    if (rows > 0) {
      direct_.run_part(memory, y_begin * shape_.width, y_end * shape_.width, panel_begin, panel_end);
    } else {
      const int x_begin = column * side, x_end = std::min((column + count) * side, shape_.width);
      for (int y = y_begin; y < y_end; ++y) {
        direct_.run_part(memory, y * shape_.width + x_begin, y * shape_.width + x_end, panel_begin, panel_end);
      }
    }
    tile += count;
  }
}

const char* WinogradRunner::first_weights(const Team& team) const {
  if (!whole_map_ || sizeof(float) * weights_.size() < kFewWeightBytes) return nullptr;
  const std::int64_t group = std::int64_t{winograd_->form.filters()} * group_panels(gemm_->panel) * gemm_->panel;
  return reinterpret_cast<const char*>(weights_.data() + team.share(groups_).begin * group * channels_);
}

void WinogradRunner::run(const ImageMemory& memory, int images, const Team& team) const {
  for (int image = 0; image < images; ++image) {
    const ImageMemory own = of_image(memory, image);
    clear_border(dst_, shape_, own.arena, team);
    if (!whole_map_) run_strips(own, team);
  }
  if (whole_map_) run_whole_maps(memory, images, team);
}

void WinogradRunner::run_whole_maps(const ImageMemory& memory, int images, const Team& team) const {
  const Tiles map = {0, rows_ * columns_};
  const std::int64_t pitch = static_cast<std::int64_t>(map.end) * channels_ + kSkew;
  const Team::Range share = team.share(groups_);
  if (team.size > 1 && team.size <= kOwnTransforms) {
    const int group = group_panels(gemm_->panel) * gemm_->panel;
    float* transformed = memory.scratch + transformed_floats(winograd_->form, images * rows_ * columns_, group);
    for (int image = 0; image < images; ++image) {
      const ImageMemory own = of_image(memory, image);
      transform_input(own, map, 0, transformed, pitch);
      for (std::int64_t g = share.begin; g < share.end; ++g) {
        run_panels(own, 1, static_cast<int>(g), map, transformed, pitch, memory.scratch, nullptr);
      }
    }
    return;
  }
  const Team::Range tile_share = team.share(map.end);
  for (int image = 0; image < images; ++image) {
    const ImageMemory own = of_image(memory, image);
    transform_input(own, {static_cast<int>(tile_share.begin), static_cast<int>(tile_share.end)}, 0,
                    own.arena + workspace_, pitch);
  }
  team.sync();
  for (std::int64_t g = share.begin; g < share.end; ++g) {
    run_panels(memory, images, static_cast<int>(g), map, memory.arena + workspace_, pitch, memory.scratch, nullptr);
  }
}

void WinogradRunner::run_strips(const ImageMemory& memory, const Team& team) const {
  const Team::Range share = team.share(rows_ * columns_);  // tiles, not rows: two threads share seven rows evenly
  float* products = memory.scratch + transformed_floats(winograd_->form, strip_tiles_, channels_);
  const WinogradForm& form = winograd_->form;
  const auto rows_read = [&](int tile_end) {
    return (tile_end - 1) / columns_ * form.output * form.stride + form.side;
  };
  const int last = static_cast<int>(share.end);
  for (int begin = static_cast<int>(share.begin); begin < last; begin += strip_tiles_) {
    const Tiles strip = {begin, std::min(begin + strip_tiles_, last)};
    const std::int64_t pitch = static_cast<std::int64_t>(strip.end - begin) * channels_ + kSkew;
    transform_input(memory, strip, begin, memory.scratch, pitch);
    Upcoming upcoming(sources_, memory.arena, rows_read(strip.end),
                      rows_read(std::min(strip.end + strip_tiles_, last)));
    for (int g = 0; g < groups_; ++g) run_panels(memory, 1, g, strip, memory.scratch, pitch, products, &upcoming);
  }
}

}  // namespace cpu
}  // namespace faceattr
