#include "cuda/hopper/resident_run.h"

#include <algorithm>
#include <optional>

#include "cuda/memory.h"

namespace faceattr::cuda {
namespace {

constexpr ResidentShapeId kShapes[] = {ResidentShapeId::k14x128x128,
                                       ResidentShapeId::k14x256x128};  // the smallest first

// The shape whose products these fill to a half at least: the rest is spent on zeros.
std::optional<ResidentShapeId> shape_of(const TensorShape& stream, int middle) {
  for (const ResidentShapeId id : kShapes) {
    const bool fits = visit_shape(id, [&](auto shape) {
      return stream.height == shape.kSide && stream.width == shape.kSide && stream.channels <= shape.kStreamChannels &&
             middle <= shape.kMiddleChannels &&
             2 * stream.channels * middle >= shape.kStreamChannels * shape.kMiddleChannels;
    });
    if (fits) return id;
  }
  return std::nullopt;
}

bool is_whole(const Segment& segment, const Plan& plan, int kernel) {
  return segment.kernel == kernel && segment.stride == 1 && segment.start == 0 &&
         segment.count == plan.tensors[segment.src].channels;
}

const SegmentedConvPhase* conv(const Plan& plan, int phase) {
  if (phase >= static_cast<int>(plan.phases.size())) return nullptr;
  const auto* found = std::get_if<SegmentedConvPhase>(&plan.phases[phase]);
  return found != nullptr && found->segments.size() == 1 ? found : nullptr;
}

// The form of `tensor` that convolutions read: itself, or the copy that is written beside it.
int narrow_form(const Plan& plan, int tensor) {
  if (plan.tensors[tensor].format != Format::kFloat) return tensor;
  for (const Phase& any : plan.phases) {
    const auto* phase = std::get_if<SegmentedConvPhase>(&any);
    if (phase != nullptr && phase->dst == tensor) return phase->copy;
  }
  return -1;
}

// The block at `phase`, as a run of one.
std::optional<ResidentRun> block_at(const Plan& plan, int phase) {
  const SegmentedConvPhase *reduce = conv(plan, phase), *expand = conv(plan, phase + 1);
  if (reduce == nullptr || expand == nullptr) return std::nullopt;
  const int src = reduce->segments[0].src, middle = reduce->dst;
  const Format format = plan.tensors[src].format;
  if (format != Format::kHalf && format != Format::kBfloat16) return std::nullopt;
  if (!is_whole(reduce->segments[0], plan, 1) || !reduce->relu || reduce->residual >= 0 || reduce->copy >= 0 ||
      plan.tensors[middle].format != format) {
    return std::nullopt;
  }
  if (expand->segments[0].src != middle || !is_whole(expand->segments[0], plan, 3) || expand->relu ||
      expand->residual < 0 || narrow_form(plan, expand->residual) != src) {
    return std::nullopt;
  }
  const auto shape = shape_of(plan.tensors[src], plan.tensors[middle].channels);
  if (!shape) return std::nullopt;
  ResidentRun run = {phase, phase + 1, *shape, format, src};
  const bool floats = plan.tensors[expand->dst].format == Format::kFloat;
  run.floats = floats ? expand->dst : -1;
  run.narrow = floats ? expand->copy : expand->dst;
  return run;
}

// How many phases read a tensor; an output counts as one.
std::vector<int> count_readers(const Plan& plan) {
  std::vector<int> readers(plan.tensors.size());
  for (const Phase& any : plan.phases)
    for_each_source(any, [&](int tensor) {
      if (tensor >= 0) ++readers[tensor];
    });
  for (const Output& output : plan.outputs) ++readers[output.tensor];
  return readers;
}

}  // namespace

std::vector<ResidentRun> find_resident_runs(const Plan& plan) {
  const std::vector<int> readers = count_readers(plan);
  const auto read_by = [&](int tensor, int expected) { return tensor < 0 || readers[tensor] == expected; };
  // Only the block itself reads its middle.
  const auto block = [&](int phase) {
    auto found = block_at(plan, phase);
    return found && read_by(conv(plan, phase)->dst, 1) ? found : std::nullopt;
  };
  std::vector<ResidentRun> runs;
  for (int p = 0; p < static_cast<int>(plan.phases.size()); ++p) {
    auto run = block(p);
    if (!run) continue;
    for (;;) {
      const auto next = block(run->last + 1);
      // Between blocks the next one's two convolutions read the stream, one of them its copy if there is one.
      const bool inner = run->floats < 0 ? read_by(run->narrow, 2) : read_by(run->floats, 1) && read_by(run->narrow, 1);
      if (!next || next->src != run->narrow || next->shape != run->shape || !inner) break;
      run->last = next->last;
      run->narrow = next->narrow;
      run->floats = next->floats;
    }
    p = run->last;
    runs.push_back(*run);
  }
  return runs;
}

int resident_images(const Target& target) {
  return target.hopper_images > 0 ? target.hopper_images : std::max(1, target.multiprocessors / 2);
}

PackedResident pack_resident(const Plan& plan, const ResidentRun& run, Packing& packing) {
  return visit_shape(run.shape, [&](auto shape) {
    constexpr int kStream = shape.kStreamChannels, kMiddle = shape.kMiddleChannels;
    constexpr std::size_t kBlockBytes = static_cast<std::size_t>(shape.kBlockSlots) * shape.kSlotBytes;
    static_assert(kBlockBytes == static_cast<std::size_t>(resident_block_chunks(kStream, kMiddle)) * kGroupBytes);
    PackedResident packed;
    packed.weights = packing.add(run.blocks() * kBlockBytes);
    packed.bias = packing.add(static_cast<std::size_t>(run.blocks()) * (kMiddle + kStream) * sizeof(float));
    for (int b = 0; b < run.blocks(); ++b) {
      const SegmentedConvPhase &reduce = *conv(plan, run.first + 2 * b), &expand = *conv(plan, run.first + 2 * b + 1);
      std::byte* const to = packing.at<std::byte>(packed.weights + b * kBlockBytes);
      const int middle = static_cast<int>(reduce.bias.size()), stream = static_cast<int>(expand.bias.size());
      const auto put = [&](int chunk, int channel, float value) {
        put_value(run.format, value, to + static_cast<std::size_t>(chunk) * kGroupBytes + channel % 8 * 2);
      };
      for (int o = 0; o < middle; ++o) {
        for (int c = 0; c < stream; ++c) {
          put(resident_reduce_index(kMiddle, c / 8, o), c, reduce.weight[static_cast<std::size_t>(o) * stream + c]);
        }
      }
      for (int o = 0; o < stream; ++o) {
        const float* from = expand.weight.data() + static_cast<std::size_t>(o) * 9 * middle;
        for (int turn = 0; turn < 3; ++turn) {
          for (int ky = 0; ky < 3; ++ky) {
            const float* tap = from + (ky * 3 + 1 + resident_tap_column(turn)) * middle;
            for (int c = 0; c < middle; ++c) {
              put(resident_expand_index(kStream, kMiddle, turn, ky, c / 8, o), c, tap[c]);
            }
          }
        }
      }
      float* const bias = packing.at<float>(packed.bias) + b * (kMiddle + kStream);
      std::copy(reduce.bias.begin(), reduce.bias.end(), bias);
      std::copy(expand.bias.begin(), expand.bias.end(), bias + kMiddle);
    }
    return packed;
  });
}

}  // namespace faceattr::cuda
