#include "cpu/narrow_runners.h"

#include "cpu/narrow_pack.h"
#include "cpu/pack.h"

namespace faceattr::cpu {

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
    // Where nothing but integers from zero up is stored, what they are cut off at is ReLU.
    if (!has_floats_ && narrow_shape_.format == Format::kInteger && to.low >= 0) to.relu = false;
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

}  // namespace faceattr::cpu
