#include "cuda/hopper/row_conv_phase.h"

#include <algorithm>

namespace faceattr::cuda {
namespace {

using Shape = RowConvShape;

bool is_eligible(const Plan& plan, const SegmentedConvPhase& phase, RowConvPhase& found) {
  const TensorShape& dst = plan.tensors[phase.dst];
  const bool narrow = dst.format == Format::kHalf || dst.format == Format::kBfloat16;
  if (!narrow || phase.residual >= 0 || phase.copy >= 0 || dst.channels > Shape::kChannels) return false;
  if (dst.width > Shape::kMaxWidth || 8 * dst.width < 7 * Shape::kMaxWidth) return false;
  int near = 0, own = 0;
  for (const Segment& s : phase.segments) {
    if (s.stride != 1 || s.start % 8 != 0 || plan.tensors[s.src].format != dst.format) return false;
    (s.kernel == 3 ? found.near : found.own) = s;
    ++(s.kernel == 3 ? near : own);
  }
  return near == 1 && own <= 1 && found.near.count <= 8 * Shape::kNearGroups &&
         found.own.count <= 8 * Shape::kOwnGroups &&
         2 * found.near.count * dst.channels >= 8 * Shape::kNearGroups * Shape::kChannels;
}

}  // namespace

std::optional<RowConvPhase> find_row_conv(const Plan& plan, const SegmentedConvPhase& phase, Packing& packing) {
  RowConvPhase found;
  if (!is_eligible(plan, phase, found)) return std::nullopt;
  const TensorShape& dst = plan.tensors[phase.dst];
  found.weights = packing.add(static_cast<std::size_t>(Shape::kWeightBytes));
  found.bias = packing.add(static_cast<std::size_t>(Shape::kChannels) * sizeof(float));
  std::copy(phase.bias.begin(), phase.bias.end(), packing.at<float>(found.bias));
  const float* from = phase.weight.data();
  for (int o = 0; o < dst.channels; ++o) {
    for (const Segment& s : phase.segments) {
      for (int tap = 0; tap < s.kernel * s.kernel; ++tap) {
        for (int c = 0; c < s.count; ++c) {
          const int group = row_conv_group(s.kernel == 3 ? tap : 9, c / 8);
          put_value(dst.format, *from++,
                    packing.at<std::byte>(found.weights) + (group * Shape::kChannels + o) * kGroupBytes + c % 8 * 2);
        }
      }
    }
  }
  return found;
}

bool takes_rows(const Target& target, int images, int height) {
  if (target.hopper_images > 0) return images >= target.hopper_images;
  return images * divide_up(height, Shape::kRows) >= target.multiprocessors;
}

}  // namespace faceattr::cuda
