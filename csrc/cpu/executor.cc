#include "cpu/executor.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "base/bfloat16.h"

namespace faceattr::cpu {
namespace {

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
  std::vector<std::size_t> workspaces;
  for (const Phase& phase : plan_.phases) workspaces.push_back(workspace_floats(plan_, phase));
  memory_ = plan_memory(plan_, kinds_, workspaces);
  for (std::size_t t = 0; t < plan_.tensors.size(); ++t) {
    vector_offsets_.push_back(vector_floats_);
    if (kinds_[t] == TensorKind::kVector) {
      vector_floats_ += (plan_.tensors[t].channels + kVectorAlign - 1) / kVectorAlign * kVectorAlign;
    }
  }
  const Layout layout = {plan_, memory_, vector_offsets_, features};
  runners_.reserve(plan_.phases.size());  // runners hold pointers into themselves: they are built in place
  for (const Phase& phase : plan_.phases) {
    if (const auto* p = std::get_if<StemPhase>(&phase)) {
      plan_.tensors[p->dst].narrow() ? add<NarrowStemRunner>(*p, layout) : add<StemRunner>(*p, layout);
    } else if (const auto* p = std::get_if<SegmentedConvPhase>(&phase)) {
      plan_.tensors[p->segments[0].src].narrow() ? add<NarrowConvRunner>(*p, layout) : add<ConvRunner>(*p, layout);
    } else if (const auto* p = std::get_if<WinogradConvPhase>(&phase)) {
      add<WinogradRunner>(*p, layout, memory_.workspaces[runners_.size()]);
    } else if (const auto* p = std::get_if<QuantizedStemPhase>(&phase)) {
      add<NarrowStemRunner>(*p, layout);
    } else if (const auto* p = std::get_if<QuantizedConvPhase>(&phase)) {
      add<NarrowConvRunner>(*p, layout);
    } else if (const auto* p = std::get_if<ShiftedMeansPhase>(&phase)) {
      add<MeansRunner>(*p, layout);
    } else {
      add<LinearRunner>(std::get<LinearHeadPhase>(phase), layout);
    }
    std::visit([&](const auto& r) { scratch_floats_ = std::max(scratch_floats_, r.scratch_floats()); },
               runners_.back());
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

std::int64_t Executor::output_floats(const Output& output) const {
  const TensorShape& shape = plan_.tensors[output.tensor];
  return static_cast<std::int64_t>(shape.height) * shape.width * output.count;
}

bool Executor::run_image(const Pixels& pixels, std::int64_t image, const ImageMemory& memory, float* const* outputs,
                         const Team& team, double* seconds) const {
  bool finite = true;
  Stopwatch watch(seconds, team);
  for (std::size_t p = 0; p < runners_.size(); ++p) {
    if (const auto* stem = std::get_if<StemRunner>(&runners_[p])) {
      finite &= stem->run(pixels, image, memory, team);
    } else if (const auto* conv = std::get_if<ConvRunner>(&runners_[p])) {
      conv->run(memory, team);
    } else if (const auto* winograd = std::get_if<WinogradRunner>(&runners_[p])) {
      winograd->run(memory, team);
    } else if (const auto* stem = std::get_if<NarrowStemRunner>(&runners_[p])) {
      finite &= stem->run(pixels, image, memory, team);
    } else if (const auto* conv = std::get_if<NarrowConvRunner>(&runners_[p])) {
      conv->run(memory, team);
    } else if (const auto* means = std::get_if<MeansRunner>(&runners_[p])) {
      means->run(memory, team);
    } else {
      continue;  // heads come later, for the whole batch
    }
    team.sync();
    watch.lap(p);
  }
  copy_maps(memory, image, outputs, team);
  team.sync();  // the next image reuses the arena
  return finite;
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
        if (shape.format == Format::kInteger) {
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
