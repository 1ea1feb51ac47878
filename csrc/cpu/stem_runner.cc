#include <algorithm>
#include <cstring>

#include "cpu/pack.h"
#include "cpu/runners.h"

namespace faceattr::cpu {
namespace {

constexpr int kTaps = 7, kPad = 3, kRgb = 3;
// Pooled rows whose input is loaded at once: 8 rows are 37 input rows (5 of them shared with the neighbours), about
// 100 KiB at 224 pixels: a fifth of a small L2.
constexpr int kStripRows = 8;
constexpr int strip_input_rows(int pooled_rows) { return 4 * pooled_rows + kTaps - 2; }

}  // namespace

StemRunner::StemRunner(const StemPhase& phase, const Layout& layout)
    : conv_(&best(kernel_lists().SegmentedConv, layout.features)),
      stem_(&best(kernel_lists().Stem, layout.features)),
      size_(layout.plan.pixels),
      channels_(layout.plan.tensors[phase.dst].channels),
      panels_(panel_count(channels_, conv_->panel)),
      strip_pitch_(static_cast<std::int64_t>(size_ + 2 * kPad) * kRgb),
      shape_(layout.plan.tensors[phase.dst]),
      dst_(layout.memory.maps[phase.dst]) {
  weights_ = pack_panels(phase.weight, channels_, kTaps * kTaps * kRgb, conv_->panel);
  bias_ = pack_bias(phase.bias, conv_->panel);
  for (int i = 0; i < size_ * kRgb; ++i) {
    mean_.push_back(layout.plan.mean[i % kRgb]);
    inverse_scale_.push_back(1.0f / layout.plan.scale[i % kRgb]);
  }
  for (int ky = 0; ky < kTaps; ++ky) runs_[ky] = ky * strip_pitch_;
  segment_.row_step = 2 * strip_pitch_;
  segment_.column_step = 2 * kRgb;
  segment_.run_count = kTaps;
  segment_.run_length = kTaps * kRgb;
}

std::size_t StemRunner::scratch_floats(int) const {
  return strip_input_rows(kStripRows) * strip_pitch_ + static_cast<std::size_t>(2) * (size_ / 2) * channels_;
}

bool StemRunner::load_strip(const Pixels& pixels, std::int64_t image, int first_row, int rows, float* strip) const {
  const std::int64_t plane = static_cast<std::int64_t>(size_) * size_;
  bool finite = true;
  for (int r = 0; r < rows; ++r, strip += strip_pitch_) {
    const int y = first_row + r;
    if (y < 0 || y >= size_) {  // padding is zero after normalisation, whatever the mean
      std::fill_n(strip, strip_pitch_, 0.0f);
      continue;
    }
    std::fill_n(strip, kPad * kRgb, 0.0f);
    std::fill_n(strip + strip_pitch_ - kPad * kRgb, kPad * kRgb, 0.0f);
    const LoadRowArgs args = {size_, mean_.data(), inverse_scale_.data(), strip + kPad * kRgb};
    if (pixels.u8 != nullptr) {
      stem_->load_u8(args, pixels.u8 + (image * plane + static_cast<std::int64_t>(y) * size_) * kRgb);
    } else {
      const float* red = pixels.f32 + image * plane * kRgb + static_cast<std::int64_t>(y) * size_;
      finite &= stem_->load_f32(args, red, red + plane, red + 2 * plane);
    }
  }
  return finite;
}

bool StemRunner::run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory, const Team& team) const {
  clear_border(dst_, shape_, memory.arena, team);
  const int width = size_ / 4;
  const Team::Range rows = team.share(width);
  float* strip = memory.scratch;
  float* convolved = strip + strip_input_rows(kStripRows) * strip_pitch_;  // two rows, pooled while they are in cache
  ConvSegment segment = segment_;
  segment.runs = runs_;
  SegmentedConvArgs args;
  args.base = strip;
  args.segments = &segment;
  args.segment_count = 1;
  args.weights = weights_.data();
  args.bias = bias_.data();
  args.k = kTaps * kTaps * kRgb;
  args.out_channels = channels_;
  args.out_width = size_ / 2;
  args.relu = true;
  args.dst = convolved;
  args.dst_pixel_pitch = channels_;
  args.dst_row_pitch = static_cast<std::int64_t>(size_ / 2) * channels_;
  bool finite = true;
  for (int begin = static_cast<int>(rows.begin); begin < rows.end; begin += kStripRows) {
    const int end = std::min(begin + kStripRows, static_cast<int>(rows.end));
    finite &= load_strip(pixels, image, 4 * begin - kPad, strip_input_rows(end - begin), strip);
    for (int y = begin; y < end; ++y) {
      segment.offset = 4 * (y - begin) * strip_pitch_;
      for (int panel = 0; panel < panels_; ++panel) conv_->run(args, 0, 2 * args.out_width, panel);
      stem_->max_pool(convolved, convolved + args.dst_row_pitch, width, channels_,
                      memory.arena + dst_.interior() + y * dst_.row_pitch);
    }
  }
  return finite;
}

}  // namespace faceattr::cpu
