#include "cuda/prepared.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace faceattr::cuda {
namespace {

// Images of a chunk: 256 of 14x14 positions are 392 blocks of 128, about three for every multiprocessor.
constexpr int kMaxImages = 256;

// The largest power of two that is no larger: dividing by it is exact.
float power_of_two(float value) { return std::ldexp(1.0f, static_cast<int>(std::floor(std::log2(std::fabs(value))))); }

class Preparation : public Prepared {
 public:
  Preparation(Plan plan_in, bool hopper_kernels) : hopper(hopper_kernels) {
    plan = std::move(plan_in);
    max_images = kMaxImages;
    kinds = check(plan);
    std::vector<ResidentRun> runs;
    if (hopper) runs = find_resident_runs(plan);
    // Images do not finish together: what the first of them writes must not be what another has yet to read.
    std::vector<Use> uses;
    for (const ResidentRun& run : runs) uses.push_back({run.src, run.last});
    memory = place_tensors(plan, kinds, uses);
    for (int p = 0; p < static_cast<int>(plan.phases.size()); ++p) {
      try {
        std::visit([&](const auto& phase) { add(phase); }, plan.phases[p]);
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument("plan, phase " + std::to_string(p) + ": " + error.what());
      }
    }
    for (const ResidentRun& run : runs) residents.push_back({run, pack_resident(plan, run, packing)});
    gather_outputs();
    // Positions and groups of a whole batch are counted in 32 bits.
    for (int t = 0; t < static_cast<int>(plan.tensors.size()); ++t) {
      if (kinds[t] != TensorKind::kMap) continue;
      const std::int64_t groups = static_cast<std::int64_t>(memory.map_bytes[t] / kGroupBytes) * 4;
      const std::int64_t images = std::numeric_limits<std::int32_t>::max() / std::max<std::int64_t>(groups, 1);
      if (images < 1) throw std::invalid_argument("plan: tensor " + std::to_string(t) + " is too large");
      max_images = static_cast<int>(std::min<std::int64_t>(max_images, images));
    }
  }

 private:
  void add(const StemPhase& phase) {
    StemLaunch launch = stem(phase.dst);
    const TensorShape& dst = plan.tensors[phase.dst];
    float weight_factor[3];
    for (int c = 0; c < 3; ++c) {
      // See stem.h: x = (pixel - mean) / unit, weights times unit / scale.
      const float unit = launch.format == Format::kFloat ? plan.scale[c] : power_of_two(plan.scale[c]);
      launch.params.factor[c] = 1.0f / unit;
      launch.params.gain[c] = plan.scale[c] / unit;
      weight_factor[c] = unit / plan.scale[c];
    }
    launch.wgmma = hopper && launch.format != Format::kFloat;
    if (launch.format == Format::kFloat) {
      launch.weights = pack_float_stem(phase.weight, dst.channels, packing);
    } else {
      const auto pack = launch.wgmma ? pack_wgmma_stem : pack_stem;
      launch.weights = pack(phase.weight, weight_factor, dst.channels, launch.format, packing);
    }
    launch.bias = pack_channels(phase.bias, packing);
    phases.push_back(std::move(launch));
  }

  void add(const QuantizedStemPhase& phase) {
    StemLaunch launch = stem(phase.dst);
    const TensorShape& dst = plan.tensors[phase.dst];
    const float one[3] = {1.0f, 1.0f, 1.0f};
    float largest = 0.0f;
    for (int c = 0; c < 3; ++c) {
      launch.params.factor[c] = 2.0f;
      launch.params.gain[c] = 2.0f * plan.scale[c];
      largest = std::max({largest, 2.0f * std::fabs(plan.mean[c]), 2.0f * std::fabs(255.0f - plan.mean[c])});
    }
    // Sums of integers below 2^23 are exact in float32, and integers up to 2^11 in float16.
    launch.parts = 2;
    launch.parts_u8 = largest <= 2048.0f && largest * 147.0f * 127.0f < 8388608.0f ? 1 : 2;
    launch.weights = pack_stem({phase.weight.begin(), phase.weight.end()}, one, dst.channels, Format::kHalf, packing);
    launch.bias = pack_channels(phase.bias, packing);
    launch.multiplier = pack_channels(phase.multiplier, packing);
    phases.push_back(std::move(launch));
  }

  StemLaunch stem(int dst) {
    StemLaunch launch;
    launch.dst = dst;
    launch.format = plan.tensors[dst].format;
    launch.first = first_stem < 0;
    if (launch.first) first_stem = static_cast<int>(phases.size());
    StemParams& params = launch.params;
    params.size = plan.pixels;
    std::copy_n(plan.mean, 3, params.mean);
    params.padded_channels = padded_channels(plan.tensors[dst].channels);
    params.channel_tiles = divide_up(params.padded_channels, kStemChannels);
    params.store.relu = true;
    return launch;
  }

  void add(const SegmentedConvPhase& phase) {
    const Format format = plan.tensors[phase.segments[0].src].format;
    ConvLaunch launch = conv(phase, phase.weight, format);
    if (hopper) launch.rows = find_row_conv(plan, phase, packing);
    phases.push_back(std::move(launch));
  }

  void add(const QuantizedConvPhase& phase) {
    if (!phase.transformed.empty()) throw std::invalid_argument("the GPU has no kernels of Winograd's form");
    ConvLaunch launch = conv(phase, {phase.weight.begin(), phase.weight.end()}, Format::kInteger);
    launch.multiplier = pack_channels(phase.multiplier, packing);
    launch.has_multiplier = true;
    if (phase.copy >= 0) launch.inverse = pack_channels(phase.inverse, packing);
    launch.has_inverse = phase.copy >= 0;
    phases.push_back(std::move(launch));
  }

  void add(const WinogradStemPhase&) { throw std::invalid_argument("the GPU has no kernels of Winograd's form"); }
  void add(const WinogradConvPhase&) { throw std::invalid_argument("the GPU has no kernels of Winograd's form"); }

  template <class ConvPhase>
  ConvLaunch conv(const ConvPhase& phase, const std::vector<float>& weight, Format format) {
    const TensorShape& dst = plan.tensors[phase.dst];
    ConvLaunch launch;
    launch.format = format;
    launch.channels = dst.channels;
    launch.packed = pack_conv(plan, phase.segments, weight, dst.channels, format, packing);
    launch.bias = pack_channels(phase.bias, packing);
    (dst.format == Format::kFloat ? launch.floats : launch.narrow) = phase.dst;
    if (phase.copy >= 0) launch.narrow = phase.copy;
    launch.residual = phase.residual;
    ConvParams& params = launch.params;
    params.source_count = static_cast<int>(launch.packed.sources.size());
    params.steps = launch.packed.steps;
    params.signed_from = launch.packed.signed_from;
    params.padded_channels = launch.packed.padded;
    params.out_height = dst.height;
    params.out_width = dst.width;
    params.store.relu = phase.relu;
    return launch;
  }

  void add(const QuantizePhase& phase) {
    phases.push_back(QuantizeLaunch{phase.src, phase.dst, pack_channels(phase.inverse, packing)});
  }

  void add(const ShiftedMeansPhase& phase) {
    const TensorShape& src = plan.tensors[phase.src];
    MeansLaunch launch;
    launch.format = src.format;
    launch.src = phase.src;
    launch.dst = phase.dst;
    MeansParams& params = launch.params;
    const int group = group_channels(src.format);
    params.map_groups = group_count(src.channels, src.format);
    params.height = src.height;
    params.width = src.width;
    params.kernel = phase.kernel;
    params.stride = phase.stride;
    params.start = phase.start;
    params.count = phase.count;
    params.first_group = phase.start / group;
    params.groups = divide_up(phase.start + phase.count, group) - params.first_group;
    params.out_height = strided(src.height, phase.stride);
    params.out_width = strided(src.width, phase.stride);
    params.low = static_cast<float>(src.low);
    params.share = 1.0f / (static_cast<float>(params.out_height) * static_cast<float>(params.out_width));
    params.pitch = memory.vector_pitch;
    if (src.format == Format::kInteger) launch.scale = packing.add(src.scale);
    phases.push_back(std::move(launch));
  }

  void add(const LinearHeadPhase& phase) {
    if (phase.inputs.size() > static_cast<std::size_t>(kMaxLinearInputs)) {
      throw std::invalid_argument("a linear head of at most " + std::to_string(kMaxLinearInputs) +
                                  " inputs expected, got " + std::to_string(phase.inputs.size()));
    }
    LinearLaunch launch;
    launch.dst = phase.dst;
    LinearParams& params = launch.params;
    params.channels = plan.tensors[phase.dst].channels;
    int k = 0;
    for (const LinearInput& input : phase.inputs) {
      params.parts[params.part_count++] = {memory.vector_offset[input.src], params.k, input.count};
      params.k += divide_up(input.count, 4) * 4;
      k += input.count;
    }
    params.pitch = memory.vector_pitch;
    params.dst = memory.vector_offset[phase.dst];
    launch.weights = packing.add(static_cast<std::size_t>(params.channels) * params.k * sizeof(float));
    float* to = packing.at<float>(launch.weights);
    for (int o = 0; o < params.channels; ++o) {
      const float* from = phase.weight.data() + static_cast<std::size_t>(o) * k;
      for (int p = 0; p < params.part_count; ++p) {
        std::copy_n(from, params.parts[p].count, to + static_cast<std::size_t>(o) * params.k + params.parts[p].begin);
        from += params.parts[p].count;
      }
    }
    launch.bias = packing.add(phase.bias);
    phases.push_back(std::move(launch));
  }

  // A linear head writes outputs itself; others are copied behind the phase that writes their tensor.
  void gather_outputs() {
    gathered.resize(phases.size());
    output_scale.resize(plan.outputs.size());
    std::vector<int> writer(plan.tensors.size(), -1);
    for (int p = 0; p < static_cast<int>(phases.size()); ++p) {
      const Phase& any = plan.phases[p];
      writer[std::visit([](const auto& phase) { return destination(phase); }, any)] = p;
      if (const auto* conv = std::get_if<SegmentedConvPhase>(&any); conv && conv->copy >= 0) writer[conv->copy] = p;
      if (const auto* conv = std::get_if<QuantizedConvPhase>(&any); conv && conv->copy >= 0) writer[conv->copy] = p;
    }
    for (int o = 0; o < static_cast<int>(plan.outputs.size()); ++o) {
      const int tensor = plan.outputs[o].tensor, p = writer[tensor];
      auto* linear = std::get_if<LinearLaunch>(&phases[p]);
      if (linear != nullptr && linear->slices.size() < static_cast<std::size_t>(kMaxSlices)) {
        linear->slices.push_back(o);
        continue;
      }
      gathered[p].push_back(o);
      if (plan.tensors[tensor].format == Format::kInteger) output_scale[o] = packing.add(plan.tensors[tensor].scale);
    }
  }

  const bool hopper;
};

}  // namespace

Prepared prepare(Plan plan, bool hopper_kernels) { return Preparation(std::move(plan), hopper_kernels); }

}  // namespace faceattr::cuda
