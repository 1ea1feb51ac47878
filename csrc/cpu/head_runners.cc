#include <algorithm>

#include "cpu/pack.h"
#include "cpu/runners.h"

namespace faceattr::cpu {
namespace {

constexpr int kChannelsPerItem = kShiftedMeansChannels;  // of one tap: four cache lines of floats per position

}  // namespace

MeansRunner::MeansRunner(const ShiftedMeansPhase& phase, const Layout& layout)
    : kernel_(&best(kernel_lists().ShiftedMeans, layout.features)), dst_(layout.vector_offsets[phase.dst]) {
  const MapPlacement& map = layout.memory.maps[phase.src];
  const TensorShape& shape = layout.plan.tensors[phase.src];
  format_ = shape.format;
  src_ = (shape.narrow() ? map.narrow_interior() : map.interior()) + phase.start;
  if (format_ == Format::kInteger)
    scale_.assign(shape.scale.begin() + phase.start, shape.scale.begin() + phase.start + phase.count);
  value_bytes_ = map.value_bytes;
  args_.low = shape.low;
  args_.row_pitch = map.row_pitch;
  args_.pixel_pitch = map.pixel_pitch;
  args_.height = shape.height;
  args_.width = shape.width;
  args_.out_height = strided(shape.height, phase.stride);
  args_.out_width = strided(shape.width, phase.stride);
  args_.kernel = phase.kernel;
  args_.stride = phase.stride;
  args_.count = phase.count;
}

void MeansRunner::run(const ImageMemory& memory, const Team& team) const {
  ShiftedMeansArgs args = args_;
  args.src = memory.arena + src_;
  args.narrow = narrow(memory.arena) + src_;
  if (value_bytes_ == 1) args.bytes = bytes(memory.arena) + src_;
  args.scale = scale_.data();
  args.dst = memory.vectors + dst_;
  const int chunks = (args.count + kChannelsPerItem - 1) / kChannelsPerItem;
  const Team::Range items = team.share(static_cast<std::int64_t>(args.kernel) * args.kernel * chunks);
  for (std::int64_t item = items.begin; item < items.end; ++item) {
    const int begin = static_cast<int>(item % chunks) * kChannelsPerItem;
    const auto run = format_ == Format::kInteger    ? kernel_->run_integers
                     : format_ == Format::kBfloat16 ? kernel_->run_bfloat16
                                                    : kernel_->run;
    run(args, static_cast<int>(item / chunks), begin, std::min(begin + kChannelsPerItem, args.count));
  }
}

LinearRunner::LinearRunner(const LinearHeadPhase& phase, const Layout& layout)
    : kernel_(&best(kernel_lists().Linear, layout.features)), dst_(layout.vector_offsets[phase.dst]) {
  for (const LinearInput& input : phase.inputs) {
    parts_.push_back({static_cast<std::int64_t>(layout.vector_offsets[input.src]), input.count});
    args_.k += input.count;
  }
  args_.out_channels = layout.plan.tensors[phase.dst].channels;
  panels_ = panel_count(args_.out_channels, kernel_->panel);
  const bool half = !phase.scale.empty();
  run_ = half ? kernel_->run_half : kernel_->run;
  weights_ = half ? pack_panels(phase.half_weight, args_.out_channels, args_.k, kernel_->panel)
                  : pack_panels(phase.weight, args_.out_channels, args_.k, kernel_->panel);
  bias_ = pack_bias(phase.bias, kernel_->panel);
  scale_ = pack_bias(phase.scale, kernel_->panel);
  args_.parts = parts_.data();
  args_.part_count = static_cast<int>(parts_.size());
  args_.weights = weights_.data();
  args_.half_weights = reinterpret_cast<const std::uint16_t*>(weights_.data());
  args_.bias = bias_.data();
  args_.scale = scale_.data();
}

const char* LinearRunner::first_weights(const Team& team) const {
  if (sizeof(float) * weights_.size() < kFewWeightBytes) return nullptr;
  const auto first = static_cast<std::size_t>(team.share(panels_).begin);
  return reinterpret_cast<const char*>(weights_.data() + weights_.size() / panels_ * first);
}

void LinearRunner::run(float* vectors, std::size_t pitch, std::int64_t images, const Team& team) const {
  LinearArgs args = args_;
  args.image_pitch = static_cast<std::int64_t>(pitch);
  const std::int64_t groups = (images + kernel_->images - 1) / kernel_->images;
  const Team::Range items = team.share(panels_ * groups);
  for (std::int64_t item = items.begin; item < items.end; ++item) {  // a panel's weights stay in cache for all images
    const std::int64_t first = item % groups * kernel_->images;
    float* row = vectors + static_cast<std::size_t>(first) * pitch;
    args.base = row;
    args.dst = row + dst_;
    args.images = static_cast<int>(std::min<std::int64_t>(kernel_->images, images - first));
    run_(args, static_cast<int>(item / groups));
  }
}

}  // namespace faceattr::cpu
