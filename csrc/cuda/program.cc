#include "cuda/program.h"

#include <algorithm>
#include <utility>

#include "cuda/hopper/launches.h"
#include "cuda/kernels/launches.h"
#include "cuda/prepared.h"
#include "cuda/tiles.h"

namespace faceattr::cuda {
namespace {

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

}  // namespace

// What was prepared, with a target: launches of phases for each call.
struct Program::State : Prepared {
  State(Plan plan, const Target& target) : Prepared(prepare(std::move(plan), target.hopper_kernels)), target(target) {}

  // One launch of a phase: of what it is made, or what it is called.
  struct Bound {
    const Call& call;
    std::vector<std::string>* names;  // not null: nothing is launched
  };

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

  Target target;
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
