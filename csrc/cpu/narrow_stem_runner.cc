#include <algorithm>

#include "cpu/narrow_pack.h"
#include "cpu/narrow_runners.h"
#include "cpu/stem_strip.h"

namespace faceattr::cpu {
namespace {

constexpr int kStemRun = kStemRow + 1;  // of even length: one value more, times zero

// The stem of bfloat16 reads 2 * scale times the normalised pixels.
StemPhase for_integers(StemPhase phase, const Plan& plan) {
  for (std::size_t i = 0; i < phase.weight.size(); ++i) phase.weight[i] /= 2.0f * plan.scale[i % kRgb];
  return phase;
}

}  // namespace

NarrowStemRunner::NarrowStemRunner(const QuantizedStemPhase& phase, const Layout& layout)
    : NarrowStemRunner(phase.dst, best(kernel_lists().PairStem, layout.features), quantized(phase), layout) {
  if (best(kernel_lists().QuantizedConv, layout.features).value_bytes == 1 && ByteStem::reads(layout.plan)) {
    bytes_.emplace(phase, layout);
  }
}

NarrowStemRunner::NarrowStemRunner(const StemPhase& phase, const Layout& layout)
    : NarrowStemRunner(phase.dst, best(kernel_lists().Bfloat16Stem, layout.features),
                       bfloat16(for_integers(phase, layout.plan)), layout) {}

NarrowStemRunner::NarrowStemRunner(int dst, const StemConvKernel& kernel, const NarrowWeights& numbers,
                                   const Layout& layout)
    : conv_(&kernel),
      stem_(&best(kernel_lists().Stem, layout.features)),
      size_(layout.plan.pixels),
      channels_(layout.plan.tensors[dst].channels),
      panels_(panel_count(channels_, conv_->panel)),
      shape_(layout.plan.tensors[dst]),
      dst_(layout.memory.maps[dst]) {
  GroupPacker packer(channels_, kStemTaps * kStemRun, conv_->panel, sizeof(std::int16_t));
  for (int o = 0; o < channels_; ++o) {
    for (int i = 0; i < kStemTaps * kStemRow; ++i) {
      packer.put(o, i / kStemRow * kStemRun + i % kStemRow, numbers.weight[o * kStemTaps * kStemRow + i]);
    }
  }
  weights_ = packer.take();
  bias_ = pack_bits(numbers.bias, conv_->panel);
  multiplier_ = pack_bias(numbers.multiplier, conv_->panel);
  for (int i = 0; i < size_ * kRgb; ++i) {
    mean_.push_back(layout.plan.mean[i % kRgb]);
    doubled_scale_.push_back(2.0f * layout.plan.scale[i % kRgb]);
  }
}

// The last run of the last row ends kRgb - 1 values before the strip does: its one more value is in the strip.
std::size_t NarrowStemRunner::scratch_floats(int) const {
  const std::size_t values = strip_input_rows(kStripRows) * strip_pitch(size_);
  return (values + kNarrowPerFloat - 1) / kNarrowPerFloat;
}

bool NarrowStemRunner::load_strip(const Pixels& pixels, std::int64_t image, int first_row, int rows,
                                  std::int16_t* strip) const {
  return cpu::load_strip(pixels, image, size_, first_row, rows, strip, [&](std::int16_t* dst, const PixelRow& row) {
    const LoadIntegersArgs args = {size_, mean_.data(), doubled_scale_.data(), dst};
    bool finite = true;
    if (row.u8 != nullptr) {
      stem_->load_u8_integers(args, row.u8);
    } else {
      finite = stem_->load_f32_integers(args, row.red, row.green, row.blue);
    }
    if (shape_.format == Format::kBfloat16) stem_->integers_to_bfloat16(dst, size_ * kRgb);
    return finite;
  });
}

bool NarrowStemRunner::run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory,
                           const Team& team) const {
  clear_border(dst_, shape_, memory.arena, team);
  const Team::Range rows = team.share(shape_.height);
  std::int16_t* strip = narrow(memory.scratch);
  StemConvArgs args;
  args.pitch = strip_pitch(size_);
  args.weights = weights_.data();
  args.end = shape_.width;
  args.out_channels = channels_;
  args.store.bias = words(bias_);
  args.store.multiplier = multiplier_.data();
  args.store.relu = true;
  args.store.narrow_pixel_pitch = dst_.pixel_pitch;
  bool finite = true;
  for (int begin = static_cast<int>(rows.begin); begin < rows.end; begin += kStripRows) {
    const int end = std::min(begin + kStripRows, static_cast<int>(rows.end));
    const bool as_bytes = bytes_ && bytes_->load_strip(pixels, image, begin, end, bytes(memory.scratch));
    if (!as_bytes) finite &= load_strip(pixels, image, 4 * begin - kStemPad, strip_input_rows(end - begin), strip);
    for (int y = begin; y < end; ++y) {
      const std::int64_t row = dst_.narrow_interior() + y * dst_.row_pitch;
      if (dst_.value_bytes == 1) {
        args.store.bytes = bytes(memory.arena) + row;
      } else {
        args.store.narrow = narrow(memory.arena) + row;
      }
      if (as_bytes) {
        bytes_->run_row(bytes(memory.scratch), begin, y, args.store);
        continue;
      }
      args.src = strip + 4 * (y - begin) * args.pitch;
      for (int panel = 0; panel < panels_; ++panel) conv_->run(args, panel);
    }
  }
  return finite;
}

}  // namespace faceattr::cpu
