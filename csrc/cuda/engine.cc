#include "cuda/engine.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "base/forks.h"
#include "cuda/kernels/contiguous.h"
#include "cuda/workspace.h"

namespace faceattr::cuda {
namespace {

// Up to here a batch is replayed from a graph. Larger ones keep the device busy for longer than their launches take.
constexpr int kGraphImages = 64;
// Graphs of one workspace: as many batch sizes, for pixels of both types.
constexpr std::size_t kGraphs = 32;
// Images of the host that are staged at a time: 128 float32 ones take 77 MB of pinned memory, twice, since one part is
// copied while the other runs.
constexpr int kStagedImages = 128;
constexpr std::size_t kIdleStages = 16;
constexpr std::size_t kAlignment = 256;  // of outputs in one block, as of memory

Target target_of(const DeviceInfo& info, Kernels kernels) {
  const bool hopper = info.major == 9 && info.minor == 0;
  if (kernels == Kernels::kHopper && !hopper) {
    throw CudaError("Hopper's kernels need a device of compute capability 9.0; " + info.name + " has " +
                    std::to_string(info.major) + "." + std::to_string(info.minor));
  }
  if (info.major < 8) {
    throw CudaError("the kernels need a device of compute capability 8.0 or more; " + info.name + " has " +
                    std::to_string(info.major) + "." + std::to_string(info.minor));
  }
  Target target = {info.major, info.minor, info.multiprocessors, info.shared_bytes,
                   hopper && kernels != Kernels::kPortable};
  if (kernels == Kernels::kHopper) target.hopper_images = 1;  // asked for: whatever the batch
  return target;
}

class PinnedBlock {
 public:
  explicit PinnedBlock(std::size_t bytes) : data_(allocate_pinned(bytes)) {}
  ~PinnedBlock() { release_pinned(data_); }
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_;
};

// What carries pixels of the host to the device and results back, on a stream of its own.
struct Stage {
  Stage(std::size_t pixel_bytes, std::size_t output_bytes)
      : pixel_bytes(pixel_bytes),
        output_bytes(output_bytes),
        pixels(pixel_bytes),
        outputs(output_bytes),
        device_pixels(pixel_bytes),
        device_outputs(output_bytes) {}

  const std::size_t pixel_bytes, output_bytes;
  const PinnedBlock pixels, outputs;
  const DeviceBlock device_pixels, device_outputs;
  const OwnStream stream;              // goes first, and waits for what it was given
  std::int64_t first = 0, images = 0;  // whose results are on their way
};

}  // namespace

struct CudaEngine::State {
  State(Plan plan, int device, Kernels kernels)
      : info(device_info(device)),
        device(device),
        size(plan.pixels),
        target(target_of(info, kernels)),
        program(std::move(plan), target),
        weights(program.weights().size()),
        workspaces(program),
        pool(std::make_shared<MemoryPool>(device)) {
    const OwnStream stream;
    copy_to_device(weights.data(), program.weights().data(), program.weights().size(), stream.get());
    synchronize(stream.get());
  }

  std::size_t pixel_bytes(bool u8) const { return static_cast<std::size_t>(size) * size * 3 * (u8 ? 1 : 4); }

  Call call(const Workspace& workspace, const Pixels& pixels, float* const* outputs, int images, Stream stream) const {
    return {weights.data(), workspace.memory.data(), pixels.data, pixels.u8, outputs, images, stream};
  }

  // `what(pixels, images, outputs)` for one chunk after the other.
  template <class What>
  void by_chunks(const Pixels& pixels, std::int64_t images, std::int64_t chunk, const std::vector<float*>& outputs,
                 const What& what) const {
    std::vector<float*> own = outputs;
    for (std::int64_t first = 0; first < images; first += chunk) {
      for (std::size_t o = 0; o < own.size(); ++o) {
        own[o] = outputs[o] + first * program.output_floats(program.outputs()[o]);
      }
      const auto* data = static_cast<const std::byte*>(pixels.data) + first * pixel_bytes(pixels.u8);
      what(Pixels{data, pixels.u8}, static_cast<int>(std::min(chunk, images - first)), own);
    }
  }

  void run_chunk(const Pixels& pixels, int images, const std::vector<float*>& outputs, Stream stream);
  Recording* recording(Workspace& workspace, const Pixels& pixels, int images, const std::vector<float*>& outputs);
  std::unique_ptr<Stage> lease_stage(std::size_t pixel_bytes, std::size_t output_bytes);
  void give_back(std::unique_ptr<Stage> stage);
  void collect(Stage& stage, const std::vector<float*>& outputs);

  const DeviceInfo info;
  const int device, size;
  const Target target;
  const Program program;
  const DeviceBlock weights;
  Workspaces workspaces;
  const std::shared_ptr<MemoryPool> pool;
  std::mutex stages_mutex;
  std::vector<std::unique_ptr<Stage>> stages;
  const std::uint64_t born = fork_generation();
};

CudaEngine::CudaEngine(Plan plan, int device, Kernels kernels) {
  const OnDevice on(device);
  state_ = std::make_unique<State>(std::move(plan), device, kernels);
}

CudaEngine::~CudaEngine() {
  if (fork_generation() != state_->born) {
    (void)state_.release();  // nothing of it exists here
    return;
  }
  try {
    const OnDevice on(state_->device);
    state_.reset();
  } catch (const CudaError&) {  // the device is lost, and with it what would be freed
    state_.reset();
  }
}

const Program& CudaEngine::program() const { return state_->program; }
const DeviceInfo& CudaEngine::info() const { return state_->info; }
int CudaEngine::device() const { return state_->device; }
bool CudaEngine::hopper() const { return state_->target.hopper_kernels; }

void CudaEngine::run(const Pixels& pixels, std::int64_t images, const std::vector<float*>& outputs,
                     Stream stream) const {
  require_own_process(state_->born);
  const OnDevice on(state_->device);
  state_->by_chunks(pixels, images, state_->program.max_images(), outputs,
                    [&](const Pixels& part, int count, const std::vector<float*>& own) {
                      state_->run_chunk(part, count, own, stream);
                    });
}

std::shared_ptr<DeviceMemory> CudaEngine::run(const Pixels& pixels, std::int64_t images,
                                              std::vector<std::size_t>* offsets, Stream stream) const {
  std::size_t bytes = 0;
  for (const Output& output : state_->program.outputs()) {
    offsets->push_back(bytes);
    const std::size_t own = images * state_->program.output_floats(output) * sizeof(float);
    bytes += (own + kAlignment - 1) / kAlignment * kAlignment;
  }
  std::shared_ptr<DeviceMemory> memory = state_->pool->allocate(bytes, stream);
  std::vector<float*> outputs;
  for (const std::size_t offset : *offsets) outputs.push_back(reinterpret_cast<float*>(memory->data() + offset));
  run(pixels, images, outputs, stream);
  memory->mark_ready(stream);
  return memory;
}

void CudaEngine::State::run_chunk(const Pixels& pixels, int images, const std::vector<float*>& outputs, Stream stream) {
  if (capturing(stream)) {
    program.enqueue(call(workspaces.keep(images), pixels, outputs.data(), images, stream));
    return;
  }
  std::unique_ptr<Workspace> workspace = workspaces.lease(images, stream);
  if (Recording* replay = recording(*workspace, pixels, images, outputs)) {
    Recording::Pointers pointers = {pixels.data};
    pointers.insert(pointers.end(), outputs.begin(), outputs.end());
    replay->replay(pointers, stream);
  } else {
    program.enqueue(call(*workspace, pixels, outputs.data(), images, stream));
  }
  workspaces.give_back(std::move(workspace), stream);
}

// What replays this call, recorded when it comes for the second time: the first one loads the kernels, and sizes of
// batches that come once are not worth a graph. Null: to be launched kernel by kernel.
Recording* CudaEngine::State::recording(Workspace& workspace, const Pixels& pixels, int images,
                                        const std::vector<float*>& outputs) {
  if (images > kGraphImages) return nullptr;
  const std::pair<int, bool> key = {images, pixels.u8};
  if (workspace.replays.size() >= kGraphs && workspace.replays.count(key) == 0) return nullptr;
  Workspace::Replay& replay = workspace.replays[key];
  if (++replay.runs == 2) {
    Recording::Pointers pointers = {pixels.data};
    std::vector<std::size_t> bytes = {images * pixel_bytes(pixels.u8)};
    for (std::size_t o = 0; o < outputs.size(); ++o) {
      pointers.push_back(outputs[o]);
      bytes.push_back(images * program.output_floats(program.outputs()[o]) * sizeof(float));
    }
    const auto enqueue = [this, &workspace, images, u8 = pixels.u8](const Recording::Pointers& given, Stream stream) {
      std::vector<float*> results;
      for (std::size_t p = 1; p < given.size(); ++p) {
        results.push_back(static_cast<float*>(const_cast<void*>(given[p])));
      }
      program.enqueue(call(workspace, {given[0], u8}, results.data(), images, stream));
    };
    replay.recording = std::make_unique<Recording>(enqueue, pointers, bytes);
    if (!replay.recording->usable()) replay.recording.reset();
  }
  return replay.recording.get();
}

void CudaEngine::run_host(const Pixels& pixels, std::int64_t images, const std::vector<float*>& outputs) const {
  require_own_process(state_->born);
  if (images == 0) return;
  State& state = *state_;
  const OnDevice on(state.device);
  const std::int64_t chunk = std::min<std::int64_t>({images, kStagedImages, state.program.max_images()});
  std::size_t output_bytes = 0;
  for (const Output& output : state.program.outputs()) {
    output_bytes += chunk * state.program.output_floats(output) * sizeof(float);
  }
  // Two: the host copies one while the device works on the other.
  std::unique_ptr<Stage> stages[2];
  std::int64_t first = 0;
  state.by_chunks(pixels, images, chunk, outputs, [&](const Pixels& part, int count, const std::vector<float*>&) {
    std::unique_ptr<Stage>& stage = stages[first / chunk % 2];
    if (stage == nullptr) {
      stage = state.lease_stage(chunk * state.pixel_bytes(pixels.u8), output_bytes);
    } else {
      state.collect(*stage, outputs);
    }
    const std::size_t bytes = count * state.pixel_bytes(pixels.u8);
    std::memcpy(stage->pixels.data(), part.data, bytes);
    copy_to_device(stage->device_pixels.data(), stage->pixels.data(), bytes, stage->stream.get());
    std::vector<float*> results;
    std::size_t offset = 0;
    for (const Output& output : state.program.outputs()) {
      results.push_back(reinterpret_cast<float*>(stage->device_outputs.data() + offset));
      offset += count * state.program.output_floats(output) * sizeof(float);
    }
    state.run_chunk({stage->device_pixels.data(), pixels.u8}, count, results, stage->stream.get());
    copy_to_host(stage->outputs.data(), stage->device_outputs.data(), offset, stage->stream.get());
    stage->first = first;
    stage->images = count;
    first += count;
  });
  for (std::unique_ptr<Stage>& stage : stages) {
    if (stage == nullptr) continue;
    state.collect(*stage, outputs);
    state.give_back(std::move(stage));
  }
}

// Waits for the stage's results and copies them to where they belong.
void CudaEngine::State::collect(Stage& stage, const std::vector<float*>& outputs) {
  synchronize(stage.stream.get());
  const std::byte* src = stage.outputs.data();
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    const std::int64_t floats = program.output_floats(program.outputs()[o]);
    const std::size_t bytes = stage.images * floats * sizeof(float);
    std::memcpy(outputs[o] + stage.first * floats, src, bytes);
    src += bytes;
  }
}

std::unique_ptr<Stage> CudaEngine::State::lease_stage(std::size_t pixel_bytes, std::size_t output_bytes) {
  {
    std::lock_guard<std::mutex> lock(stages_mutex);
    for (auto it = stages.begin(); it != stages.end(); ++it) {
      if ((*it)->pixel_bytes < pixel_bytes || (*it)->output_bytes < output_bytes) continue;
      std::unique_ptr<Stage> found = std::move(*it);
      stages.erase(it);
      return found;
    }
    if (!stages.empty()) stages.erase(stages.begin());  // the new, larger one takes its place
  }
  return std::make_unique<Stage>(pixel_bytes, output_bytes);
}

void CudaEngine::State::give_back(std::unique_ptr<Stage> stage) {
  std::lock_guard<std::mutex> lock(stages_mutex);
  if (stages.size() < kIdleStages) stages.push_back(std::move(stage));
}

std::vector<double> CudaEngine::profile(const Pixels& pixels, std::int64_t images, const std::vector<float*>& outputs,
                                        Stream stream) const {
  require_own_process(state_->born);
  State& state = *state_;
  const OnDevice on(state.device);
  const int phases = state.program.phase_count();
  std::vector<double> seconds(phases, 0.0);
  std::vector<OwnEvent> events(phases + 1);
  const std::int64_t chunk = state.program.max_images();
  state.by_chunks(pixels, images, chunk, outputs, [&](const Pixels& part, int count, const std::vector<float*>& own) {
    std::unique_ptr<Workspace> workspace = state.workspaces.lease(count, stream);
    const Call call = state.call(*workspace, part, own.data(), count, stream);
    record(events[0].get(), stream);
    for (int p = 0; p < phases; ++p) {
      state.program.enqueue_phase(call, p);
      record(events[p + 1].get(), stream);
    }
    synchronize_event(events[phases].get());
    for (int p = 0; p < phases; ++p) seconds[p] += seconds_between(events[p].get(), events[p + 1].get());
    state.workspaces.give_back(std::move(workspace), stream);
  });
  return seconds;
}

std::shared_ptr<DeviceMemory> CudaEngine::upload(const void* src, std::size_t bytes, Stream stream) const {
  std::shared_ptr<DeviceMemory> memory = state_->pool->allocate(bytes, stream);
  const OnDevice on(state_->device);
  // Pageable memory is read before the call returns.
  copy_to_device(memory->data(), src, bytes, stream);
  memory->mark_ready(stream);
  return memory;
}

std::shared_ptr<DeviceMemory> CudaEngine::make_contiguous(const void* src, int item_bytes,
                                                          const std::vector<std::int64_t>& shape,
                                                          const std::vector<std::int64_t>& strides,
                                                          Stream stream) const {
  if (shape.size() != 4 || strides.size() != 4) throw std::invalid_argument("expected four axes");
  StridedArray array = {src, item_bytes, {}, {}};
  std::copy(shape.begin(), shape.end(), array.shape);
  std::copy(strides.begin(), strides.end(), array.strides);
  std::size_t bytes = item_bytes;
  for (const std::int64_t size : shape) bytes *= size;
  std::shared_ptr<DeviceMemory> memory = state_->pool->allocate(bytes, stream);
  const OnDevice on(state_->device);
  copy_contiguous(array, memory->data(), stream);
  memory->mark_ready(stream);
  return memory;
}

void order_streams(int device, Stream stream, Stream other) {
  if (stream == other) return;
  const OnDevice on(device);
  const OwnEvent event;
  record(event.get(), other);
  wait(stream, event.get());
}

}  // namespace faceattr::cuda
