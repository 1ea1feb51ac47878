#include <algorithm>
#include <utility>

#include "base/bfloat16.h"
#include "cpu/narrow_pack.h"
#include "cpu/narrow_runners.h"

namespace faceattr::cpu {
namespace {

// Between the values of one point and the next, so that 16 to 65 points do not fall on the same cache sets.
constexpr int kSkew = 32;
// A transformed map of up to this many bytes is kept whole, for all threads to read: 14x14x128 takes 144
// KiB for F(4x4), 28x28x64 130 KiB at stride 2. Weights of F(4x4), four times those of nine taps, are then loaded once
// for all threads and images; so in integers. Others go strip by strip, each thread its own, as all maps do for F(2x2)
// of integers: it has 16 weights, and no thread waits for another.
constexpr std::size_t kWholeMapBytes = std::size_t{512} * 1024;
// Of transformed input at a time: with as many bytes of products it stays in an L2 of 512 KiB. 14x14x128 takes 196 KiB
// for F(2x2).
constexpr std::int64_t kStripBytes = std::int64_t{208} * 1024;
// Output channels whose products are held at once, in whole panels: 16 points x 49 tiles x 32 channels take 98 KiB, 36
// points x 16 tiles 72 KiB.
constexpr int kGroupChannels = 32;

int tiles(int side, const WinogradForm& form) { return (side + form.output - 1) / form.output; }

int read_channels(const std::vector<Segment>& segments) {
  int channels = 0;
  for (const Segment& s : segments) channels += aligned(s).end - aligned(s).begin;
  return channels;
}

// An even number, so that floats may follow.
std::size_t transformed_values(const WinogradForm& form, std::size_t tile_count, int channels) {
  return form.points() * (tile_count * channels + kSkew);
}

// 0: too many.
std::size_t whole_map_values(const WinogradForm& form, const TensorShape& dst, const std::vector<Segment>& segments) {
  const std::size_t tile_count = static_cast<std::size_t>(tiles(dst.height, form)) * tiles(dst.width, form);
  const std::size_t values = transformed_values(form, tile_count, read_channels(segments));
  return sizeof(std::int16_t) * values <= kWholeMapBytes ? values : 0;
}

int form_index(const WinogradConvPhase& phase) { return winograd_form(phase.segments[0].stride, phase.tile); }

std::vector<std::int16_t> to_bfloat16(const std::vector<float>& values) {
  std::vector<std::int16_t> narrow;
  narrow.reserve(values.size());
  for (float value : values) narrow.push_back(faceattr::to_bfloat16(value));
  return narrow;
}

}  // namespace

std::size_t narrow_workspace_floats(const Plan& plan, const WinogradConvPhase& phase) {
  const WinogradForm& form = kWinogradForms[form_index(phase)];
  return whole_map_values(form, plan.tensors[phase.direct.dst], phase.segments) / kNarrowPerFloat;
}

std::size_t narrow_workspace_floats(const Plan& plan, const QuantizedConvPhase& phase) {
  if (phase.transformed.empty() || phase.tile == 2) return 0;
  const WinogradForm& form = kWinogradForms[winograd_form(1, phase.tile)];
  return whole_map_values(form, plan.tensors[phase.dst], phase.transformed) / kNarrowPerFloat;
}

NarrowWinogradRunner::NarrowWinogradRunner(const QuantizedConvPhase& phase, const Layout& layout, std::size_t workspace)
    : NarrowWinogradRunner(
          NarrowConvRunner(phase, layout), best(kernel_lists().PairConv, layout.features),
          best(kernel_lists().QuantizedWinograd, layout.features).transforms[winograd_form(1, phase.tile)],
          phase.transformed, phase.transformed_weight, phase.dst, layout) {
  has_direct_ = !phase.segments.empty();
  whole_map_ = narrow_workspace_floats(layout.plan, phase) > 0;
  workspace_ = workspace;
}

NarrowWinogradRunner::NarrowWinogradRunner(const WinogradConvPhase& phase, const Layout& layout, std::size_t workspace)
    : NarrowWinogradRunner(NarrowConvRunner(phase.direct, layout), best(kernel_lists().Bfloat16Conv, layout.features),
                           best(kernel_lists().Bfloat16Winograd, layout.features).transforms[form_index(phase)],
                           phase.segments, to_bfloat16(phase.weight), phase.direct.dst, layout) {
  has_direct_ = !phase.direct.segments.empty();
  whole_map_ = whole_map_values(winograd_->form, shape_, phase.segments) > 0;
  workspace_ = workspace;
}

NarrowWinogradRunner::NarrowWinogradRunner(NarrowConvRunner base, const NarrowConvKernel& products,
                                           const NarrowWinogradTransforms& winograd,
                                           const std::vector<Segment>& segments,
                                           const std::vector<std::int16_t>& weight, int dst, const Layout& layout)
    : base_(std::move(base)),
      products_(&products),
      winograd_(&winograd),
      shape_(layout.plan.tensors[dst]),
      slot_(layout.memory.slot_floats),
      channels_(read_channels(segments)),
      rows_(tiles(shape_.height, winograd.form)),
      columns_(tiles(shape_.width, winograd.form)),
      panels_(panel_count(shape_.channels, products.panel)),
      group_(std::max(1, kGroupChannels / products.panel)) {
  const WinogradForm& form = winograd_->form;
  for (const Segment& s : segments) {
    const MapPlacement& src = layout.memory.maps[s.src];
    const TensorShape& shape = layout.plan.tensors[s.src];
    const NarrowRun read = aligned(s);
    const auto interior = static_cast<std::int64_t>(src.narrow_interior());  // bordered by one
    sources_.push_back({interior - src.row_pitch - src.pixel_pitch + read.begin, src.row_pitch, src.pixel_pitch,
                        shape.height, shape.width, read.end - read.begin, shape.low});
  }
  points_ = winograd_points(form, shape_);
  const std::int64_t row_bytes = std::int64_t{form.points()} * columns_ * channels_ * sizeof(std::int16_t);
  strip_rows_ = static_cast<int>(std::clamp<std::int64_t>(kStripBytes / row_bytes, 1, rows_));

  // [panel][filter][K / 2][width][2]: the filters of a panel are packed as panels of their own.
  const int width = products_->panel, filters = form.filters();
  GroupPacker packer(panels_ * filters * width, channels_, width, products_->value_bytes);
  const std::int16_t* next = weight.data();
  for (int filter = 0; filter < filters; ++filter) {
    for (int o = 0; o < shape_.channels; ++o) {
      const std::int64_t row = (std::int64_t{o / width} * filters + filter) * width + o % width;
      int k = 0;
      for (const Segment& s : segments) {
        const NarrowRun read = aligned(s);
        for (int c = read.begin; c < read.end; ++c, ++k) {
          if (read.has(c)) packer.put(row, k, *next++);
        }
      }
    }
  }
  weights_ = packer.take();
}

std::size_t NarrowWinogradRunner::product_sums(int images) const {
  const std::size_t group_channels = static_cast<std::size_t>(group_) * products_->panel;
  const std::size_t tile_count = static_cast<std::size_t>(images) * (whole_map_ ? rows_ : strip_rows_) * columns_;
  return winograd_->form.points() * (tile_count * group_channels + kSkew);
}

std::size_t NarrowWinogradRunner::strip_floats() const {
  const std::size_t tile_count = static_cast<std::size_t>(strip_rows_) * columns_;
  return whole_map_ ? 0 : transformed_values(winograd_->form, tile_count, channels_) / kNarrowPerFloat;
}

std::size_t NarrowWinogradRunner::own_floats() const {
  const std::size_t tile_count = static_cast<std::size_t>(rows_) * columns_;
  return whole_map_ ? transformed_values(winograd_->form, tile_count, channels_) / kNarrowPerFloat : 0;
}

std::size_t NarrowWinogradRunner::scratch_floats(int images) const {
  const std::size_t positions =
      static_cast<std::size_t>(winograd_->form.output) * (whole_map_ ? rows_ : strip_rows_) * shape_.width;
  const std::size_t direct = positions * group_ * products_->panel;
  return own_floats() + strip_floats() + product_sums(whole_map_ ? images : 1) + (has_direct_ ? direct : 0);
}

ImageMemory NarrowWinogradRunner::of_image(const ImageMemory& memory, int image) const {
  return {memory.arena + image * slot_, memory.scratch, nullptr};
}

void NarrowWinogradRunner::transform_input(const ImageMemory& memory, int tile_begin, int tile_end, int first_tile,
                                           std::int16_t* transformed, std::int64_t pitch) const {
  const int side = winograd_->form.side, step = winograd_->form.output * winograd_->form.stride;
  NarrowInputArgs args;
  args.point_pitch = pitch;
  args.dst = transformed + static_cast<std::int64_t>(tile_begin - first_tile) * channels_;
  for (int tile = tile_begin; tile < tile_end; ++tile) {
    const int y = tile / columns_ * step, x = tile % columns_ * step;
    for (const Source& source : sources_) {
      const std::int64_t first = source.offset + y * source.row_pitch + x * source.pixel_pitch;
      if (base_.conv().value_bytes == 1) {
        args.bytes = bytes(memory.arena) + first;
        args.low = source.low;
      } else {
        args.src = narrow(memory.arena) + first;
      }
      args.row_pitch = source.row_pitch;
      args.pixel_pitch = source.pixel_pitch;
      args.rows = std::min(side, source.height + 2 - y);
      args.columns = std::min(side, source.width + 2 - x);
      args.channels = source.channels;
      winograd_->input(args);
      args.dst += source.channels;
    }
  }
}

// Positions of the matrix products are the tiles of all images: a row of them is an image.
void NarrowWinogradRunner::run_panels(const ImageMemory& memory, int images, int panel_begin, int row_begin,
                                      int row_end, const std::int16_t* transformed, std::int32_t* products) const {
  const WinogradForm& form = winograd_->form;
  const int width = products_->panel, filters = form.filters();
  const int panel_end = std::min(panel_begin + group_, panels_), pitch = (panel_end - panel_begin) * width;
  const int tile_count = (row_end - row_begin) * columns_;
  const std::int64_t image_pitch = static_cast<std::int64_t>(tile_count) * pitch;
  const std::int64_t product_pitch = images * image_pitch + kSkew;

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
  args.sums_pixel_pitch = pitch;
  const bool whole = tile_count == rows_ * columns_;
  for (int panel = panel_begin; panel < panel_end; ++panel) {
    for (const WinogradPoint& point : points_) {
      // As in WinogradRunner.
      const int rows = whole && !point.in_last_row ? rows_ - 1 : rows_;
      const int columns = whole && images == 1 && !point.in_last_column ? columns_ - 1 : columns_;
      int positions = rows * columns;
      if (columns < columns_) {
        args.out_width = columns;
        segment.row_step = static_cast<std::int64_t>(columns_) * channels_;
        args.sums_row_pitch = static_cast<std::int64_t>(columns_) * pitch;
      } else {
        args.out_width = whole ? positions : tile_count;
        segment.row_step = static_cast<std::int64_t>(kNarrowPerFloat * slot_);
        args.sums_row_pitch = image_pitch;
        positions = images * args.out_width;
      }
      const std::int64_t weights = std::int64_t{panel} * filters + point.filter;
      args.base = transformed + point.index * (static_cast<std::int64_t>(tile_count) * channels_ + kSkew);
      args.weights = narrow(weights_.data()) + weights * channels_ * width;
      args.sums = products + point.index * product_pitch + (panel - panel_begin) * width;
      products_->run(args, 0, positions, 0);
    }
  }

  NarrowOutputArgs out;
  out.point_pitch = product_pitch;
  out.first_channel = panel_begin * width;
  out.channels = std::min(pitch, shape_.channels - out.first_channel);
  out.direct_pixel_pitch = pitch;
  out.direct_row_pitch = std::int64_t{shape_.width} * pitch;
  std::int32_t* direct = products + product_sums(images);
  const int y_begin = row_begin * form.output, y_end = std::min(row_end * form.output, shape_.height);
  for (int image = 0; image < images; ++image) {
    NarrowConvArgs sums = base_.bind(of_image(memory, image));
    out.store = sums.store;
    if (has_direct_) {
      sums.sums_pixel_pitch = out.direct_pixel_pitch;
      sums.sums_row_pitch = out.direct_row_pitch;
      // As if there were rows before the strip, and panels before the group.
      sums.sums = direct - y_begin * sums.sums_row_pitch - out.first_channel;
      for (int panel = panel_begin; panel < panel_end; ++panel) {
        base_.conv().run(sums, y_begin * shape_.width, y_end * shape_.width, panel);
      }
    }
    for (int tile = 0; tile < tile_count; ++tile) {
      out.row = y_begin + tile / columns_ * form.output;
      out.column = tile % columns_ * form.output;
      out.src = products + image * image_pitch + static_cast<std::int64_t>(tile) * pitch;
      if (has_direct_) {
        out.direct = direct + (out.row - y_begin) * out.direct_row_pitch + out.column * out.direct_pixel_pitch;
      }
      out.rows = std::min(form.output, shape_.height - out.row);
      out.columns = std::min(form.output, shape_.width - out.column);
      winograd_->output(out);
    }
  }
}

void NarrowWinogradRunner::run(const ImageMemory& memory, int images, const Team& team) const {
  for (int image = 0; image < images; ++image) {
    const ImageMemory own = of_image(memory, image);
    base_.clear_borders(own, team);
    if (!whole_map_) run_strips(own, team);
  }
  if (whole_map_) run_whole_maps(memory, images, team);
}

void NarrowWinogradRunner::run_whole_maps(const ImageMemory& memory, int images, const Team& team) const {
  const std::int64_t tile_count = static_cast<std::int64_t>(rows_) * columns_;
  const std::int64_t point_pitch = tile_count * channels_ + kSkew;
  const Team::Range share = team.share(panel_count(panels_, group_));
  auto* products = reinterpret_cast<std::int32_t*>(memory.scratch + own_floats());
  if (team.size > 1 && team.size <= kOwnTransforms) {
    std::int16_t* const transformed = narrow(memory.scratch);
    for (int image = 0; image < images; ++image) {
      const ImageMemory own = of_image(memory, image);
      transform_input(own, 0, static_cast<int>(tile_count), 0, transformed, point_pitch);
      for (std::int64_t g = share.begin; g < share.end; ++g) {
        run_panels(own, 1, static_cast<int>(g) * group_, 0, rows_, transformed, products);
      }
    }
    return;
  }
  const Team::Range tile_share = team.share(tile_count);
  for (int image = 0; image < images; ++image) {
    const ImageMemory own = of_image(memory, image);
    transform_input(own, static_cast<int>(tile_share.begin), static_cast<int>(tile_share.end), 0,
                    narrow(own.arena + workspace_), point_pitch);
  }
  team.sync();
  for (std::int64_t g = share.begin; g < share.end; ++g) {
    run_panels(memory, images, static_cast<int>(g) * group_, 0, rows_, narrow(memory.arena + workspace_), products);
  }
}

void NarrowWinogradRunner::run_strips(const ImageMemory& memory, const Team& team) const {
  auto* products = reinterpret_cast<std::int32_t*>(memory.scratch + strip_floats());
  const Team::Range share = team.share(rows_);
  for (int begin = static_cast<int>(share.begin); begin < share.end; begin += strip_rows_) {
    const int end = std::min(begin + strip_rows_, static_cast<int>(share.end));
    const std::int64_t pitch = static_cast<std::int64_t>(end - begin) * columns_ * channels_ + kSkew;
    transform_input(memory, begin * columns_, end * columns_, begin * columns_, narrow(memory.scratch), pitch);
    for (int panel = 0; panel < panels_; panel += group_) {
      run_panels(memory, 1, panel, begin, end, narrow(memory.scratch), products);
    }
  }
}

}  // namespace faceattr::cpu
