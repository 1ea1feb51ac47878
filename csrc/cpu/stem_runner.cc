#include <algorithm>

#include "cpu/pack.h"
#include "cpu/stem_strip.h"

namespace faceattr::cpu {
StemRunner::StemRunner(const StemPhase& phase, const Layout& layout)
    : conv_(&best(kernel_lists().SegmentedConv, layout.features)),
      stem_(&best(kernel_lists().Stem, layout.features)),
      size_(layout.plan.pixels),
      channels_(layout.plan.tensors[phase.dst].channels),
      panels_(panel_count(channels_, conv_->panel)),
      shape_(layout.plan.tensors[phase.dst]),
      dst_(layout.memory.maps[phase.dst]) {
  weights_ = pack_panels(phase.weight, channels_, kStemTaps * kStemTaps * kRgb, conv_->panel);
  bias_ = pack_bias(phase.bias, conv_->panel);
  for (int i = 0; i < size_ * kRgb; ++i) {
    mean_.push_back(layout.plan.mean[i % kRgb]);
    inverse_scale_.push_back(1.0f / layout.plan.scale[i % kRgb]);
  }
  for (int ky = 0; ky < kStemTaps; ++ky) runs_[ky] = ky * strip_pitch(size_);
  segment_.row_step = 2 * strip_pitch(size_);
  segment_.column_step = 2 * kRgb;
  segment_.run_count = kStemTaps;
  segment_.run_length = kStemTaps * kRgb;
}

std::size_t StemRunner::scratch_floats(int) const {
  return strip_input_rows(kStripRows) * strip_pitch(size_) + static_cast<std::size_t>(2) * (size_ / 2) * channels_;
}

bool StemRunner::load_strip(const Pixels& pixels, std::int64_t image, int first_row, int rows, float* strip) const {
  return cpu::load_strip(pixels, image, size_, first_row, rows, strip, [&](float* dst, const PixelRow& row) {
    const LoadRowArgs args = {size_, mean_.data(), inverse_scale_.data(), dst};
    if (row.u8 == nullptr) return stem_->load_f32(args, row.red, row.green, row.blue);
    stem_->load_u8(args, row.u8);
    return true;
  });
}

bool StemRunner::run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory, const Team& team) const {
  clear_border(dst_, shape_, memory.arena, team);
  const int width = size_ / 4;
  const Team::Range rows = team.share(width);
  float* strip = memory.scratch;
  float* convolved =
      strip + strip_input_rows(kStripRows) * strip_pitch(size_);  // two rows, pooled while they are in cache
  ConvSegment segment = segment_;
  segment.runs = runs_;
  SegmentedConvArgs args;
  args.base = strip;
  args.segments = &segment;
  args.segment_count = 1;
  args.weights = weights_.data();
  args.bias = bias_.data();
  args.k = kStemTaps * kStemTaps * kRgb;
  args.out_channels = channels_;
  args.out_width = size_ / 2;
  args.relu = true;
  args.dst = convolved;
  args.dst_pixel_pitch = channels_;
  args.dst_row_pitch = static_cast<std::int64_t>(size_ / 2) * channels_;
  bool finite = true;
  for (int begin = static_cast<int>(rows.begin); begin < rows.end; begin += kStripRows) {
    const int end = std::min(begin + kStripRows, static_cast<int>(rows.end));
    finite &= load_strip(pixels, image, 4 * begin - kStemPad, strip_input_rows(end - begin), strip);
    for (int y = begin; y < end; ++y) {
      segment.offset = 4 * (y - begin) * strip_pitch(size_);
      for (int panel = 0; panel < panels_; ++panel) conv_->run(args, 0, 2 * args.out_width, panel);
      stem_->max_pool(convolved, convolved + args.dst_row_pitch, width, channels_,
                      memory.arena + dst_.interior() + y * dst_.row_pitch);
    }
  }
  return finite;
}

}  // namespace faceattr::cpu
