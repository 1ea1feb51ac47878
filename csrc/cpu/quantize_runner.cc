#include "cpu/runners.h"

namespace faceattr::cpu {

QuantizeRunner::QuantizeRunner(const QuantizePhase& phase, const Layout& layout)
    : kernel_(&best(kernel_lists().Quantize, layout.features)),
      inverse_(phase.inverse),
      shape_(layout.plan.tensors[phase.dst]),
      src_(layout.memory.maps[phase.src]),
      dst_(layout.memory.maps[phase.dst]) {}

void QuantizeRunner::run(const ImageMemory& memory, const Team& team) const {
  clear_border(dst_, shape_, memory.arena, team);
  QuantizeArgs args;
  args.src_pixel_pitch = src_.pixel_pitch;
  args.width = shape_.width;
  args.channels = shape_.channels;
  args.inverse = inverse_.data();
  args.low = static_cast<float>(shape_.low);
  args.dst_pixel_pitch = dst_.pixel_pitch;
  const Team::Range rows = team.share(shape_.height);
  for (std::int64_t y = rows.begin; y < rows.end; ++y) {
    args.src = memory.arena + src_.interior() + y * src_.row_pitch;
    const std::int64_t row = dst_.narrow_interior() + y * dst_.row_pitch;
    if (dst_.value_bytes == 1) {
      args.bytes = bytes(memory.arena) + row;
    } else {
      args.dst = narrow(memory.arena) + row;
    }
    kernel_->run(args);
  }
}

}  // namespace faceattr::cpu
