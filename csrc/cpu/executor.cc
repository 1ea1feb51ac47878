#include "cpu/executor.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <stdexcept>
#include <utility>

#include "base/bfloat16.h"

namespace faceattr::cpu {
namespace {

// Weights of a grouped phase are loaded once per group, but the transformed maps of a group are read once per 32 output
// channels: 295 KiB per image at 14x14x128. Four images measured fastest at batch 32 on a Zen 3 (512 KiB L2, 32 MiB
// L3): 5 % ahead of one, eight level with one; on a Zen 4 (1 MiB L2) eight lose 1 to 5 %, two and three 1 %.
constexpr int kGroupImages = 4;
constexpr std::size_t kVectorAlign = 16;  // floats: a cache line, so that two threads' vectors never share one

class Stopwatch {
 public:
  // Times phases on member 0 where `seconds` is given; does nothing elsewhere.
  Stopwatch(double* seconds, const Team& team) : seconds_(team.rank == 0 ? seconds : nullptr) {
    if (seconds_ != nullptr) last_ = Clock::now();
  }
  void lap(std::size_t phase) {
    if (seconds_ == nullptr) return;
    const Clock::time_point now = Clock::now();
    seconds_[phase] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  double* seconds_;
  Clock::time_point last_;
};

}  // namespace

Executor::Executor(Plan plan, std::uint32_t features) : plan_(std::move(plan)) {
  kinds_ = check(plan_);
  for (const TensorShape& shape : plan_.tensors) {
    if (shape.format == Format::kHalf) throw std::invalid_argument("plan: the CPU has no kernels of half");
  }
  std::vector<std::size_t> workspaces;
  for (const Phase& phase : plan_.phases) workspaces.push_back(workspace_floats(plan_, phase));
  memory_ = plan_memory(plan_, kinds_, workspaces, best(kernel_lists().QuantizedConv, features).value_bytes);
  for (std::size_t t = 0; t < plan_.tensors.size(); ++t) {
    vector_offsets_.push_back(vector_floats_);
    if (kinds_[t] == TensorKind::kVector) {
      vector_floats_ += (plan_.tensors[t].channels + kVectorAlign - 1) / kVectorAlign * kVectorAlign;
    }
  }
  const Layout layout = {plan_, memory_, vector_offsets_, features};
  runners_.reserve(plan_.phases.size());  // runners hold pointers into themselves: they are built in place
  for (Phase& phase : plan_.phases) {
    if (const auto* p = std::get_if<StemPhase>(&phase)) {
      plan_.tensors[p->dst].narrow() ? add<NarrowStemRunner>(*p, layout) : add<StemRunner>(*p, layout);
    } else if (const auto* p = std::get_if<WinogradStemPhase>(&phase)) {
      add<WinogradStemRunner>(*p, layout);
    } else if (const auto* p = std::get_if<SegmentedConvPhase>(&phase)) {
      plan_.tensors[p->segments[0].src].narrow() ? add<NarrowConvRunner>(*p, layout) : add<ConvRunner>(*p, layout);
    } else if (const auto* p = std::get_if<WinogradConvPhase>(&phase)) {
      const std::size_t workspace = memory_.workspaces[runners_.size()];
      plan_.tensors[p->segments[0].src].narrow() ? add<NarrowWinogradRunner>(*p, layout, workspace)
                                                 : add<WinogradRunner>(*p, layout, workspace);
    } else if (const auto* p = std::get_if<QuantizedStemPhase>(&phase)) {
      add<NarrowStemRunner>(*p, layout);
    } else if (const auto* p = std::get_if<QuantizedConvPhase>(&phase)) {
      p->transformed.empty() ? add<NarrowConvRunner>(*p, layout)
                             : add<NarrowWinogradRunner>(*p, layout, memory_.workspaces[runners_.size()]);
    } else if (const auto* p = std::get_if<QuantizePhase>(&phase)) {
      add<QuantizeRunner>(*p, layout);
    } else if (const auto* p = std::get_if<ShiftedMeansPhase>(&phase)) {
      add<MeansRunner>(*p, layout);
    } else {
      add<LinearRunner>(std::get<LinearHeadPhase>(phase), layout);
    }
    phase = {};  // packed: not all weights twice in memory
  }
  plan_.phases.clear();
}

template <class Runner, class... Arguments>
void Executor::add(const Arguments&... arguments) {
  runners_.emplace_back(std::in_place_type<Runner>, arguments...);
}

std::size_t Executor::packed_floats() const {
  std::size_t floats = 0;
  for (const Runner& runner : runners_) {
    floats += std::visit([](const auto& r) { return r.packed_floats(); }, runner);
  }
  return floats;
}

std::vector<std::string> Executor::kernels() const {
  std::vector<std::string> names;
  for (const Runner& runner : runners_) {
    names.push_back(std::visit([](const auto& r) { return std::string(r.kernel()); }, runner));
  }
  return names;
}

std::vector<int> Executor::output_shape(const Output& output) const {
  const TensorShape& shape = plan_.tensors[output.tensor];
  if (kinds_[output.tensor] == TensorKind::kVector) return {output.count};
  return {shape.height, shape.width, output.count};
}

std::int64_t Executor::output_floats(const Output& output) const {
  const TensorShape& shape = plan_.tensors[output.tensor];
  return static_cast<std::int64_t>(shape.height) * shape.width * output.count;
}

int Executor::group_images() const { return first_grouped() < phase_count() ? kGroupImages : 1; }

std::size_t Executor::scratch_floats(int images) const {
  std::size_t floats = 0;
  for (int p = 0; p < phase_count(); ++p) {
    const int together = p < first_grouped() ? 1 : images;
    floats = std::max(floats, std::visit([&](const auto& r) { return r.scratch_floats(together); }, runners_[p]));
  }
  return floats;
}

ImageMemory Executor::of_image(const ImageMemory& group, int image) const {
  return {group.arena + image * memory_.slot_floats, group.scratch, group.vectors + image * vector_floats_};
}

void Executor::run_images(const Pixels& pixels, std::int64_t first, int images, const ImageMemory& memory,
                          float* const* outputs, std::atomic<bool>* non_finite, const Team& team,
                          double* seconds) const {
  Stopwatch watch(seconds, team);
  const auto run = [&](int phase_begin, int phase_end, int image, int count) {
    for (int p = phase_begin; p < phase_end; ++p) {
      if (!run_phase(p, pixels, first + image, count, of_image(memory, image), non_finite + image, team)) {
        continue;
      }
      team.sync();
      watch.lap(p);
    }
  };
  for (int image = 0; image < images; ++image) run(0, first_grouped(), image, 1);
  run(first_grouped(), phase_count(), 0, images);
  for (int image = 0; image < images; ++image) copy_maps(of_image(memory, image), first + image, outputs, team);
  team.sync();  // the next images reuse the arena
}

// What is worth fetching while a convolution runs.
const char* Executor::weights_after(int phase, const Team& team) const {
  while (++phase < phase_count()) {
    if (const auto* winograd = std::get_if<WinogradRunner>(&runners_[phase])) return winograd->first_weights(team);
    if (const auto* linear = std::get_if<LinearRunner>(&runners_[phase])) return linear->first_weights(team);
    if (!std::holds_alternative<MeansRunner>(runners_[phase])) break;
  }
  return nullptr;
}

// Returns false for heads, which come later, for the whole batch.
bool Executor::run_phase(int phase, const Pixels& pixels, std::int64_t first, int images, const ImageMemory& memory,
                         std::atomic<bool>* non_finite, const Team& team) const {
  const Runner& runner = runners_[phase];
  if (std::holds_alternative<LinearRunner>(runner)) return false;
  if (const auto* winograd = std::get_if<WinogradRunner>(&runner)) {
    winograd->run(memory, images, team);
    return true;
  }
  if (const auto* winograd = std::get_if<NarrowWinogradRunner>(&runner)) {
    winograd->run(memory, images, team);
    return true;
  }
  for (int image = 0; image < images; ++image) {
    const ImageMemory own = of_image(memory, image);
    bool finite = true;
    if (const auto* stem = std::get_if<StemRunner>(&runner)) {
      finite = stem->run(pixels, first + image, own, team);
    } else if (const auto* stem = std::get_if<NarrowStemRunner>(&runner)) {
      finite = stem->run(pixels, first + image, own, team);
    } else if (const auto* stem = std::get_if<WinogradStemRunner>(&runner)) {
      finite = stem->run(pixels, first + image, own, team);
    } else if (const auto* conv = std::get_if<ConvRunner>(&runner)) {
      conv->run(own, team, image + 1 == images ? weights_after(phase, team) : nullptr);
    } else if (const auto* conv = std::get_if<NarrowConvRunner>(&runner)) {
      conv->run(own, team);
    } else if (const auto* quantize = std::get_if<QuantizeRunner>(&runner)) {
      quantize->run(own, team);
    } else {
      std::get<MeansRunner>(runner).run(own, team);
    }
    if (!finite) non_finite[image].store(true, std::memory_order_relaxed);
  }
  return true;
}

void Executor::run_heads(float* vectors, std::int64_t images, const Team& team, double* seconds) const {
  Stopwatch watch(seconds, team);
  for (std::size_t p = 0; p < runners_.size(); ++p) {
    if (const auto* linear = std::get_if<LinearRunner>(&runners_[p])) {
      linear->run(vectors, vector_floats_, images, team);
      team.sync();
      watch.lap(p);
    }
  }
}

void Executor::copy_maps(const ImageMemory& memory, std::int64_t image, float* const* outputs, const Team& team) const {
  for (std::size_t o = 0; o < plan_.outputs.size(); ++o) {
    const Output& output = plan_.outputs[o];
    if (kinds_[output.tensor] != TensorKind::kMap) continue;
    const TensorShape& shape = plan_.tensors[output.tensor];
    const MapPlacement& map = memory_.maps[output.tensor];
    const Team::Range rows = team.share(shape.height);
    for (std::int64_t y = rows.begin; y < rows.end; ++y) {
      float* dst = outputs[o] + image * output_floats(output) + y * shape.width * output.count;
      for (int x = 0; x < shape.width; ++x, dst += output.count) {
        const std::int64_t offset = y * map.row_pitch + x * map.pixel_pitch + output.start;
        const std::int16_t* src = narrow(memory.arena) + map.narrow_interior() + offset;
        if (map.value_bytes == 1) {
          const std::uint8_t* distances = bytes(memory.arena) + map.narrow_interior() + offset;
          for (int c = 0; c < output.count; ++c) {
            dst[c] = static_cast<float>(distances[c] + shape.low) * shape.scale[output.start + c];
          }
        } else if (shape.format == Format::kInteger) {
          for (int c = 0; c < output.count; ++c) dst[c] = static_cast<float>(src[c]) * shape.scale[output.start + c];
        } else if (shape.format == Format::kBfloat16) {
          for (int c = 0; c < output.count; ++c) dst[c] = from_bfloat16(src[c]);
        } else {
          std::copy_n(memory.arena + map.interior() + offset, output.count, dst);
        }
      }
    }
  }
}

void Executor::copy_vectors(const float* vectors, std::int64_t image, float* const* outputs) const {
  for (std::size_t o = 0; o < plan_.outputs.size(); ++o) {
    const Output& output = plan_.outputs[o];
    if (kinds_[output.tensor] != TensorKind::kVector) continue;
    std::copy_n(vectors + vector_offsets_[output.tensor] + output.start, output.count,
                outputs[o] + image * output.count);
  }
}

void Executor::fill_nan(std::int64_t image, float* const* outputs) const {
  for (std::size_t o = 0; o < plan_.outputs.size(); ++o) {
    const std::int64_t floats = output_floats(plan_.outputs[o]);
    std::fill_n(outputs[o] + image * floats, floats, std::numeric_limits<float>::quiet_NaN());
  }
}

}  // namespace faceattr::cpu
