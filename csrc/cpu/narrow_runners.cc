#include "cpu/narrow_runners.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bfloat16.h"
#include "cpu/narrow_pack.h"
#include "cpu/pack.h"
#include "cpu/stem_strip.h"

namespace faceattr::cpu {
namespace {

constexpr int kStemRow = kStemTaps * kRgb, kStemRun = kStemRow + 1;  // of even length: one value more, times zero

// 32 bits each, whatever they are, padded as a bias.
AlignedBuffer pack_bits(const std::vector<std::int32_t>& values, int width) {
  std::vector<float> bits(values.size());
  std::memcpy(bits.data(), values.data(), values.size() * sizeof(float));
  return pack_bias(bits, width);
}

const std::int32_t* words(const AlignedBuffer& buffer) { return reinterpret_cast<const std::int32_t*>(buffer.data()); }

template <class Phase>
NarrowWeights quantized(const Phase& phase) {
  return {{phase.weight.begin(), phase.weight.end()}, phase.bias, phase.multiplier};
}

template <class Phase>
NarrowWeights bfloat16(const Phase& phase) {
  NarrowWeights numbers;
  for (float weight : phase.weight) numbers.weight.push_back(to_bfloat16(weight));
  numbers.bias.resize(phase.bias.size());
  std::memcpy(numbers.bias.data(), phase.bias.data(), phase.bias.size() * sizeof(float));
  return numbers;
}

// The stem of bfloat16 reads 2 * scale times the normalised pixels.
StemPhase for_integers(StemPhase phase, const Plan& plan) {
  for (std::size_t i = 0; i < phase.weight.size(); ++i) phase.weight[i] /= 2.0f * plan.scale[i % kRgb];
  return phase;
}

}  // namespace

NarrowConvRunner::NarrowConvRunner(const QuantizedConvPhase& phase, const Layout& layout)
    : NarrowConvRunner(phase, best(kernel_lists().QuantizedConv, layout.features), quantized(phase), layout) {
  if (phase.copy >= 0) {
    inverse_ = pack_bias(phase.inverse, kernel_->panel);
    args_.store.inverse = inverse_.data();
  }
}

NarrowConvRunner::NarrowConvRunner(const SegmentedConvPhase& phase, const Layout& layout)
    : NarrowConvRunner(phase, best(kernel_lists().Bfloat16Conv, layout.features), bfloat16(phase), layout) {}

template <class Phase>
NarrowConvRunner::NarrowConvRunner(const Phase& phase, const NarrowConvKernel& kernel, const NarrowWeights& numbers,
                                   const Layout& layout)
    : kernel_(&kernel), shape_(layout.plan.tensors[phase.dst]) {
  const auto& tensors = layout.plan.tensors;
  const auto& maps = layout.memory.maps;
  segments_ = {phase.segments, maps, [](const Segment& s, const MapPlacement& src) {
                 const NarrowRun read = aligned(s);
                 return SegmentRead{static_cast<std::int64_t>(src.narrow_interior()) + read.begin,
                                    read.end - read.begin};
               }};
  segments_.put(args_);
  GroupPacker packer(shape_.channels, args_.k, kernel_->panel, kernel_->value_bytes);
  std::vector<std::int32_t> bias = numbers.bias;
  const std::int16_t* weight = numbers.weight.data();
  for (int o = 0; o < shape_.channels; ++o) {
    std::int64_t i = 0;
    for (const Segment& s : phase.segments) {
      const NarrowRun read = aligned(s);
      // What kernels of bytes read is too small by `low`. It fits: 2^29 and 2^15 products of 128 * 127 at most.
      const int low = kernel_->value_bytes == 1 ? tensors[s.src].low : 0;
      for (int tap = 0; tap < s.kernel * s.kernel; ++tap) {
        for (int c = read.begin; c < read.end; ++c, ++i) {
          if (!read.has(c)) continue;
          bias[o] += low * *weight;
          packer.put(o, i, *weight++);
        }
      }
    }
  }
  weights_ = packer.take();
  bias_ = pack_bits(bias, kernel_->panel);
  multiplier_ = pack_bias(numbers.multiplier, kernel_->panel);
  args_.weights = weights_.data();
  args_.out_channels = shape_.channels;
  args_.out_width = shape_.width;

  NarrowStore& to = args_.store;
  to.bias = words(bias_);
  to.multiplier = multiplier_.data();
  to.relu = phase.relu;
  has_floats_ = !shape_.narrow();
  has_narrow_ = shape_.narrow() || phase.copy >= 0;
  has_residual_ = phase.residual >= 0;
  if (has_floats_) {
    floats_ = maps[phase.dst];
    to.floats_row_pitch = floats_.row_pitch;
    to.floats_pixel_pitch = floats_.pixel_pitch;
  }
  if (has_residual_) {
    residual_ = maps[phase.residual];
    to.residual_row_pitch = residual_.row_pitch;
    to.residual_pixel_pitch = residual_.pixel_pitch;
  }
  if (has_narrow_) {
    const int written = has_floats_ ? phase.copy : phase.dst;
    narrow_shape_ = tensors[written];
    narrow_ = maps[written];
    to.narrow_row_pitch = narrow_.row_pitch;
    to.narrow_pixel_pitch = narrow_.pixel_pitch;
    to.low = static_cast<float>(narrow_shape_.low);
  }
  blocking_ =
      Blocking(phase.segments, tensors, shape_, kernel_->value_bytes,
               sizeof(float) * static_cast<double>(weights_.size()), panel_count(shape_.channels, kernel_->panel));
}

void NarrowConvRunner::clear_borders(const ImageMemory& memory, const Team& team) const {
  if (has_floats_) clear_border(floats_, shape_, memory.arena, team);
  if (has_narrow_) clear_border(narrow_, narrow_shape_, memory.arena, team);
}

NarrowConvArgs NarrowConvRunner::bind(const ImageMemory& memory) const {
  NarrowConvArgs args = args_;
  args.base = memory.arena;
  if (has_floats_) args.store.floats = memory.arena + floats_.interior();
  if (has_narrow_ && narrow_.value_bytes == 1) {
    args.store.bytes = bytes(memory.arena) + narrow_.narrow_interior();
  } else if (has_narrow_) {
    args.store.narrow = narrow(memory.arena) + narrow_.narrow_interior();
  }
  if (has_residual_) args.store.residual = memory.arena + residual_.interior();
  return args;
}

void NarrowConvRunner::run(const ImageMemory& memory, const Team& team) const {
  clear_borders(memory, team);
  const NarrowConvArgs args = bind(memory);
  blocking_.run(team, [&](int begin, int end, int panel) { kernel_->run(args, begin, end, panel); });
}

NarrowStemRunner::NarrowStemRunner(const QuantizedStemPhase& phase, const Layout& layout)
    : NarrowStemRunner(phase.dst, best(kernel_lists().PairStem, layout.features), quantized(phase), layout) {}

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
  args.width = shape_.width;
  args.out_channels = channels_;
  args.store.bias = words(bias_);
  args.store.multiplier = multiplier_.data();
  args.store.relu = true;
  args.store.narrow_pixel_pitch = dst_.pixel_pitch;
  bool finite = true;
  for (int begin = static_cast<int>(rows.begin); begin < rows.end; begin += kStripRows) {
    const int end = std::min(begin + kStripRows, static_cast<int>(rows.end));
    finite &= load_strip(pixels, image, 4 * begin - kStemPad, strip_input_rows(end - begin), strip);
    for (int y = begin; y < end; ++y) {
      args.src = strip + 4 * (y - begin) * args.pitch;
      const std::int64_t row = dst_.narrow_interior() + y * dst_.row_pitch;
      if (dst_.value_bytes == 1) {
        args.store.bytes = bytes(memory.arena) + row;
      } else {
        args.store.narrow = narrow(memory.arena) + row;
      }
      for (int panel = 0; panel < panels_; ++panel) conv_->run(args, panel);
    }
  }
  return finite;
}

}  // namespace faceattr::cpu
