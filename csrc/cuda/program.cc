#include "cuda/program.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <utility>

#include "cuda/hopper/launches.h"
#include "cuda/hopper/resident_run.h"
#include "cuda/hopper/row_conv_phase.h"
#include "cuda/kernels/launches.h"
#include "cuda/memory.h"
#include "cuda/packing.h"
#include "cuda/tiles.h"

namespace faceattr::cuda {
namespace {

// Images of a chunk: 256 of 14x14 positions are 392 blocks of 128, about three for every multiprocessor.
constexpr int kMaxImages = 256;

std::string text(const LaunchConfig& config, const std::string& name) {
  std::string grid = std::to_string(config.grid.x);
  if (config.grid.y > 1) grid += "x" + std::to_string(config.grid.y);
  return name + ", " + grid + " blocks of " + std::to_string(config.threads);
}

const char* format_name(Format format) {
  switch (format) {
    case Format::kFloat:
      return "f32";
    case Format::kBfloat16:
      return "bf16";
    case Format::kHalf:
      return "f16";
    case Format::kInteger:
      return "s8";
  }
  return "";
}

// The largest power of two that is no larger: dividing by it is exact.
float power_of_two(float value) { return std::ldexp(1.0f, static_cast<int>(std::floor(std::log2(std::fabs(value))))); }

}  // namespace

// A phase as it is launched. Everything but addresses and the batch is known when the program is made.
struct StemLaunch {
  StemParams params = {};
  Format format = Format::kFloat;
  int dst = 0, parts = 1;  // of pixels as float32
  int parts_u8 = 1;
  bool first = true;  // of the plan's stems: it writes the flags
  bool wgmma = false;
  std::size_t weights = 0, bias = 0, multiplier = 0;
};

struct ConvLaunch {
  PackedConv packed;
  ConvParams params = {};
  Format format = Format::kFloat;
  int channels = 0;
  int floats = -1, narrow = -1, residual = -1;  // tensors
  std::size_t bias = 0, multiplier = 0, inverse = 0;
  bool has_multiplier = false, has_inverse = false;
  std::optional<RowConvPhase> rows;  // the same by row_conv.h
};

struct MeansLaunch {
  MeansParams params = {};
  Format format = Format::kFloat;
  int src = 0, dst = 0;
  std::size_t scale = 0;
};

struct LinearLaunch {
  LinearParams params = {};
  int dst = 0;
  std::size_t weights = 0, bias = 0;
  std::vector<int> slices;  // outputs that it writes
};

struct QuantizeLaunch {
  int src = 0, dst = 0;
  std::size_t inverse = 0;
};

// Phases that run as one, where a batch is large enough.
struct ResidentLaunch {
  ResidentRun run;
  PackedResident packed;
};

using PhaseLaunch = std::variant<StemLaunch, ConvLaunch, MeansLaunch, LinearLaunch, QuantizeLaunch>;

struct Program::State {
  Plan plan;
  Target target;
  std::vector<TensorKind> kinds;
  Memory memory;
  Packing packing;
  std::vector<PhaseLaunch> phases;
  std::vector<ResidentLaunch> residents;
  std::vector<std::vector<int>> gathered;  // by phase: outputs that are copied behind it
  std::vector<std::size_t> output_scale;   // by output, of integers
  int max_images = kMaxImages;
  int first_stem = -1;

  // One launch of a phase: of what it is made, or what it is called.
  struct Bound {
    const Call& call;
    std::vector<std::string>* names;  // not null: nothing is launched
  };

  State(Plan plan_in, const Target& target_in) : plan(std::move(plan_in)), target(target_in) {
    kinds = check(plan);
    std::vector<ResidentRun> runs;
    if (target.hopper_kernels) runs = find_resident_runs(plan);
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

  // ---- Once.

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
    launch.wgmma = target.hopper_kernels && launch.format != Format::kFloat;
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
    if (target.hopper_kernels) launch.rows = find_row_conv(plan, phase, packing);
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

  // ---- Each call.

  // As numbers: kernels() asks without any memory.
  template <class Value>
  static Value* address(const void* base, std::size_t bytes) {
    return reinterpret_cast<Value*>(reinterpret_cast<std::uintptr_t>(base) + bytes);
  }
  std::uint8_t* map(const Call& call, int tensor, std::size_t bytes = 0) const {
    return address<std::uint8_t>(call.workspace, memory.map_offset[tensor] * call.images + bytes);
  }
  float* vectors(const Call& call, int offset = 0) const {
    return address<float>(call.workspace, memory.arena_bytes * call.images + offset * sizeof(float));
  }
  std::uint32_t* flags(const Call& call) const {
    return address<std::uint32_t>(call.workspace,
                                  (memory.arena_bytes + memory.vector_pitch * sizeof(float)) * call.images);
  }
  template <class Value>
  const Value* packed(const Call& call, std::size_t offset) const {
    return address<const Value>(call.weights, offset);
  }

  StemTile stem_tile(const StemLaunch& launch, int images, bool u8) const {
    const TensorShape& dst = plan.tensors[launch.dst];
    if (launch.format == Format::kFloat) return {1, dst.width};
    return choose_stem_tile(dst.width, images, dst.channels, u8 ? launch.parts_u8 : launch.parts, target);
  }
  int flags_per_image(const Call& call) const {
    if (first_stem < 0) return 0;
    const auto& launch = std::get<StemLaunch>(phases[first_stem]);
    const int side = plan.tensors[launch.dst].width;
    const StemTile tile = stem_tile(launch, call.images, call.u8);
    return divide_up(side, tile.strip_rows) * divide_up(side, tile.columns);
  }

  LaunchConfig config(const Call& call, std::int64_t blocks, int threads, std::size_t shared_bytes = 0) const {
    LaunchConfig config;
    config.grid = {static_cast<int>(blocks), 1, 1};
    config.threads = threads;
    config.shared_bytes = shared_bytes;
    config.dependent = target.major >= 9;
    config.stream = call.stream;
    return config;
  }

  // Runs `launch`, or only tells what it would be.
  template <class Launch>
  static void run(const Bound& bound, const LaunchConfig& config, const std::string& name, const Launch& launch) {
    if (bound.names != nullptr) {
      bound.names->push_back(text(config, name));
    } else {
      launch();
    }
  }

  void set_store(const Call& call, ConvStore& store, const TensorShape& shape, int floats, int narrow) const {
    store.positions = shape.height * shape.width;
    if (floats >= 0) {
      store.floats = map(call, floats);
      store.floats_groups = group_count(shape.channels, Format::kFloat);
    }
    if (narrow >= 0) {
      store.narrow = map(call, narrow);
      store.narrow_groups = group_count(shape.channels, plan.tensors[narrow].format);
      store.low = static_cast<float>(plan.tensors[narrow].low);
    }
  }

  void enqueue(const StemLaunch& launch, const Bound& bound) const {
    const Call& call = bound.call;
    const TensorShape& dst = plan.tensors[launch.dst];
    const bool floats = launch.format == Format::kFloat;
    const StemTile tile = stem_tile(launch, call.images, call.u8);
    const int parts = call.u8 ? launch.parts_u8 : launch.parts;
    StemParams params = launch.params;
    params.pixels = call.pixels;
    params.u8 = call.u8;
    params.weights = packed<std::uint8_t>(call, launch.weights);
    params.strip_rows = tile.strip_rows;
    params.columns = tile.columns;
    params.strips = divide_up(dst.height, tile.strip_rows);
    params.column_tiles = divide_up(dst.width, tile.columns);
    params.flags = launch.first ? flags(call) : nullptr;
    params.store.bias = packed<void>(call, launch.bias);
    params.store.multiplier = packed<float>(call, launch.multiplier);
    set_store(call, params.store, dst, floats ? launch.dst : -1, floats ? -1 : launch.dst);
    std::int64_t blocks = static_cast<std::int64_t>(call.images) * params.strips * params.column_tiles;
    if (!floats) blocks *= params.channel_tiles;
    std::size_t shared = floats ? 16 : stem_shared_bytes(tile.strip_rows, tile.columns, parts);
    if (launch.wgmma) shared = wgmma_stem_shared_bytes(tile.strip_rows, tile.columns);
    const LaunchConfig to = config(call, blocks, floats ? 128 : 256, shared);
    const std::string name = std::string(launch.wgmma ? "wgmma_stem_" : "stem_") + format_name(launch.format) + " " +
                             std::to_string(tile.strip_rows) + "x" + std::to_string(tile.columns);
    run(bound, to, name, [&] {
      if (launch.wgmma) return launch_wgmma_stem(launch.format, to, params);
      launch_stem(launch.format, parts, to, params);
    });
  }

  // Blocks stay, and take strips of all images in turn.
  void enqueue_rows(const ConvLaunch& launch, const Bound& bound) const {
    const Call& call = bound.call;
    const TensorShape& dst = plan.tensors[launch.narrow];
    const auto groups_of = [&](const Segment& s, const std::uint8_t*& from, int& map_groups, int& groups) {
      const std::size_t first = static_cast<std::size_t>(s.start / 8) * dst.height * dst.width * kGroupBytes;
      from = map(call, s.src, first);
      map_groups = group_count(plan.tensors[s.src].channels, launch.format);
      groups = divide_up(s.count, 8);
    };
    RowConvParams params = {};
    groups_of(launch.rows->near, params.near, params.near_map_groups, params.near_groups);
    groups_of(launch.rows->own, params.own, params.own_map_groups, params.own_groups);
    params.dst = map(call, launch.narrow);
    params.dst_groups = group_count(dst.channels, dst.format);
    params.weights = packed<std::uint8_t>(call, launch.rows->weights);
    params.bias = packed<float>(call, launch.rows->bias);
    params.images = call.images;
    params.height = dst.height;
    params.width = dst.width;
    params.relu = launch.params.store.relu;
    const int strips = call.images * divide_up(dst.height, RowConvShape::kRows);
    const LaunchConfig to =
        config(call, std::min(strips, target.multiprocessors), RowConvShape::kThreads, RowConvShape::kSharedBytes);
    run(bound, to, std::string("row_conv_") + format_name(launch.format),
        [&] { launch_row_conv(launch.format, to, params); });
  }

  void enqueue(const ConvLaunch& launch, const Bound& bound) const {
    const Call& call = bound.call;
    const TensorShape& dst = plan.tensors[launch.floats >= 0 ? launch.floats : launch.narrow];
    if (launch.rows && takes_rows(target, call.images, dst.height)) return enqueue_rows(launch, bound);
    ConvParams params = launch.params;
    for (int s = 0; s < params.source_count; ++s) {
      params.sources[s] = launch.packed.sources[s];
      const std::size_t first = static_cast<std::size_t>(launch.packed.first_group[s]) * params.sources[s].height *
                                params.sources[s].width * kGroupBytes;
      params.sources[s].map = map(call, launch.packed.tensors[s], first);
    }
    params.weights = packed<std::uint8_t>(call, launch.packed.weights);
    params.rows = call.images * dst.height * dst.width;
    ConvStore& store = params.store;
    store.bias = packed<void>(call, launch.bias);
    store.multiplier = launch.has_multiplier ? packed<float>(call, launch.multiplier) : nullptr;
    store.inverse = launch.has_inverse ? packed<float>(call, launch.inverse) : nullptr;
    set_store(call, store, dst, launch.floats, launch.narrow);
    if (launch.residual >= 0) {
      const bool floats = plan.tensors[launch.residual].format == Format::kFloat;
      (floats ? store.floats_residual : store.narrow_residual) = map(call, launch.residual);
    }
    const std::string name = std::string("segmented_conv_") + format_name(launch.format);
    if (launch.format == Format::kFloat) {
      params.column_tiles = divide_up(params.padded_channels, kFloatConvChannels);
      const LaunchConfig to =
          config(call, static_cast<std::int64_t>(divide_up(params.rows, kFloatConvRows)) * params.column_tiles,
                 kFloatConvRows);
      return run(bound, to, name, [&] { launch_float_conv(to, params); });
    }
    const ConvTileId id = choose_conv_tile(params.rows, launch.channels, launch.packed.halo_width, target);
    const ConvTileShape tile = shape(id, launch.packed.halo_width);
    params.column_tiles = divide_up(launch.channels, tile.columns);
    const LaunchConfig to =
        config(call, static_cast<std::int64_t>(divide_up(params.rows, tile.rows)) * params.column_tiles, tile.threads,
               tile.shared_bytes);
    run(bound, to, name + " " + tile.name, [&] { launch_conv(launch.format, id, to, params); });
  }

  void enqueue(const MeansLaunch& launch, const Bound& bound) const {
    const Call& call = bound.call;
    MeansParams params = launch.params;
    params.map = map(call, launch.src);
    params.scale = launch.format == Format::kInteger ? packed<float>(call, launch.scale) : nullptr;
    params.dst = vectors(call, memory.vector_offset[launch.dst]);
    const LaunchConfig to =
        config(call, static_cast<std::int64_t>(call.images) * params.groups, params.kernel == 1 ? 32 : 96);
    const std::string name = std::string("shifted_means_") + format_name(launch.format);
    run(bound, to, name, [&] { launch_means(launch.format, to, params); });
  }

  void enqueue(const LinearLaunch& launch, const Bound& bound) const {
    const Call& call = bound.call;
    LinearParams params = launch.params;
    params.weights = packed<float>(call, launch.weights);
    params.bias = packed<float>(call, launch.bias);
    params.vectors = vectors(call);
    params.images = call.images;
    for (int o : launch.slices) {
      const Output& output = plan.outputs[o];
      float* dst = call.outputs == nullptr ? nullptr : call.outputs[o];
      params.slices[params.slice_count++] = {output.start, output.count, dst};
    }
    params.flags = flags(call);
    params.flags_per_image = flags_per_image(call);
    const LinearTile tile = choose_linear_tile(call.images);
    const int outputs = linear_outputs(tile), images = linear_images(tile);
    LaunchConfig to = config(call, divide_up(params.channels, 4 * outputs), 128);
    to.grid.y = divide_up(call.images, images);
    const std::string name = "linear_head_f32 " + std::to_string(outputs) + "x" + std::to_string(images);
    run(bound, to, name, [&] { launch_linear(tile, to, params); });
  }

  void enqueue(const QuantizeLaunch& launch, const Bound& bound) const {
    const Call& call = bound.call;
    const TensorShape& src = plan.tensors[launch.src];
    QuantizeParams params = {};
    params.src = map(call, launch.src);
    params.src_groups = group_count(src.channels, Format::kFloat);
    params.positions = src.height * src.width;
    params.images = call.images;
    params.store.inverse = packed<float>(call, launch.inverse);
    set_store(call, params.store, src, -1, launch.dst);
    const std::int64_t items =
        static_cast<std::int64_t>(call.images) * 4 * params.store.narrow_groups * params.positions;
    const LaunchConfig to = config(call, (items + 255) / 256, 256);
    run(bound, to, "quantize", [&] { launch_quantize(to, params); });
  }

  void gather(int o, const Bound& bound) const {
    const Call& call = bound.call;
    const Output& output = plan.outputs[o];
    const TensorShape& src = plan.tensors[output.tensor];
    GatherParams params = {};
    if (kinds[output.tensor] == TensorKind::kMap) {
      params.map = map(call, output.tensor);
      params.image_bytes = static_cast<std::int64_t>(memory.map_bytes[output.tensor]);
    } else {
      params.map = reinterpret_cast<const std::uint8_t*>(vectors(call, memory.vector_offset[output.tensor]));
      params.image_bytes = static_cast<std::int64_t>(memory.vector_pitch) * sizeof(float);
    }
    params.map_groups = group_count(src.channels, src.format);
    params.positions = src.height * src.width;
    params.start = output.start;
    params.count = output.count;
    params.scale = src.format == Format::kInteger ? packed<float>(call, output_scale[o]) : nullptr;
    params.low = static_cast<float>(src.low);
    params.dst = call.outputs == nullptr ? nullptr : call.outputs[o];
    params.images = call.images;
    params.flags = flags(call);
    params.flags_per_image = flags_per_image(call);
    const int group = group_channels(src.format);
    const int groups = divide_up(output.start + output.count, group) - output.start / group;
    const LaunchConfig to =
        config(call, static_cast<std::int64_t>(call.images) * divide_up(params.positions * groups, 128), 128);
    const std::string name = std::string("gather_") + format_name(src.format);
    run(bound, to, name, [&] { launch_gather(src.format, to, params); });
  }

  // Clusters of neighbours; each block takes an image at a time.
  void enqueue(const ResidentLaunch& launch, const Bound& bound) const {
    const Call& call = bound.call;
    const ResidentRun& part = launch.run;
    const TensorShape& shape = plan.tensors[part.src];
    ResidentParams params = {};
    params.src = map(call, part.src);
    params.dst = part.narrow < 0 ? nullptr : map(call, part.narrow);
    params.floats = part.floats < 0 ? nullptr : map(call, part.floats);
    params.weights = packed<std::uint8_t>(call, launch.packed.weights);
    params.bias = packed<float>(call, launch.packed.bias);
    params.images = call.images;
    params.blocks = part.blocks();
    params.groups = group_count(shape.channels, shape.format);
    params.floats_groups = group_count(shape.channels, Format::kFloat);
    // As many whole clusters as there is room for at once; of a small batch fewer.
    const int room = std::max(1, target.multiprocessors / kResidentCluster);
    const int clusters = std::min(room, divide_up(call.images, kResidentCluster));
    LaunchConfig to = config(call, clusters * kResidentCluster, kResidentThreads, resident_shared_bytes(part.shape));
    to.cluster = kResidentCluster;
    const std::string name =
        std::string("resident_blocks_") + format_name(part.format) + " x" + std::to_string(part.blocks());
    run(bound, to, name, [&] { launch_resident(part.format, part.shape, to, params); });
  }

  const ResidentLaunch* resident_of(int phase, int images) const {
    if (images < resident_images(target)) return nullptr;
    for (const ResidentLaunch& resident : residents) {
      if (phase >= resident.run.first && phase <= resident.run.last) return &resident;
    }
    return nullptr;
  }

  void enqueue_phase(int phase, const Bound& bound) const {
    const ResidentLaunch* resident = resident_of(phase, bound.call.images);
    if (resident == nullptr) {
      std::visit([&](const auto& launch) { enqueue(launch, bound); }, phases[phase]);
    } else if (phase == resident->run.first) {
      enqueue(*resident, bound);
    } else if (bound.names != nullptr) {
      bound.names->push_back("with phase " + std::to_string(resident->run.first));
    }
    for (int output : gathered[phase]) gather(output, bound);
  }
};

Program::Program(Plan plan, const Target& target) : state_(std::make_unique<State>(std::move(plan), target)) {}
Program::Program(Program&&) noexcept = default;
Program& Program::operator=(Program&&) noexcept = default;
Program::~Program() = default;

const std::vector<std::byte>& Program::weights() const { return state_->packing.bytes(); }

std::size_t Program::workspace_bytes(int images) const {
  const State& s = *state_;
  // A stem of single pooled rows has most flags.
  std::size_t flags = 0;
  if (s.first_stem >= 0) {
    const int side = s.plan.pixels / 4;
    flags = static_cast<std::size_t>(side) * divide_up(side, kStemMaxColumns);
  }
  return (s.memory.arena_bytes + (s.memory.vector_pitch + flags) * 4) * images;
}

int Program::max_images() const { return state_->max_images; }

void Program::enqueue(const Call& call) const {
  for (int phase = 0; phase < phase_count(); ++phase) enqueue_phase(call, phase);
}

int Program::phase_count() const { return static_cast<int>(state_->phases.size()); }

void Program::enqueue_phase(const Call& call, int phase) const { state_->enqueue_phase(phase, {call, nullptr}); }

std::vector<std::string> Program::kernels(int images) const {
  Call call;
  call.images = images;
  std::vector<std::string> all;
  for (int phase = 0; phase < phase_count(); ++phase) {
    std::vector<std::string> names;
    state_->enqueue_phase(phase, {call, &names});
    std::string joined;
    for (const std::string& name : names) joined += (joined.empty() ? "" : " + ") + name;
    all.push_back(joined);
  }
  return all;
}

const std::vector<Output>& Program::outputs() const { return state_->plan.outputs; }

std::int64_t Program::output_floats(const Output& output) const {
  const TensorShape& shape = state_->plan.tensors[output.tensor];
  return static_cast<std::int64_t>(shape.height) * shape.width * output.count;
}

}  // namespace faceattr::cuda
