#include <algorithm>

#include "cpu/pack.h"
#include "cpu/stem_strip.h"

namespace faceattr::cpu {
StemRunner::StemRunner(const StemPhase& phase, const Layout& layout)
    : conv_(&best(kernel_lists().FloatStem, layout.features)),
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
}

std::size_t StemRunner::scratch_floats(int) const { return strip_input_rows(kStripRows) * strip_pitch(size_); }

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
  const Team::Range rows = team.share(shape_.height);
  float* strip = memory.scratch;
  StemConvArgs args;
  args.pitch = strip_pitch(size_);
  args.weights = weights_.data();
  args.end = shape_.width;
  args.out_channels = channels_;
  args.store.bias = reinterpret_cast<const std::int32_t*>(bias_.data());
  args.store.relu = true;
  args.store.floats_pixel_pitch = dst_.pixel_pitch;
  bool finite = true;
  for (int begin = static_cast<int>(rows.begin); begin < rows.end; begin += kStripRows) {
    const int end = std::min(begin + kStripRows, static_cast<int>(rows.end));
    finite &= load_strip(pixels, image, 4 * begin - kStemPad, strip_input_rows(end - begin), strip);
    for (int y = begin; y < end; ++y) {
      args.src = strip + 4 * (y - begin) * args.pitch;
      args.store.floats = memory.arena + dst_.interior() + y * dst_.row_pitch;
      for (int panel = 0; panel < panels_; ++panel) conv_->run(args, panel);
    }
  }
  return finite;
}

}  // namespace faceattr::cpu
