#include "cuda/memory.h"

#include <algorithm>

#include "cuda/layout.h"

namespace faceattr::cuda {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t align(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Calls visit(tensor) for all that a phase reads and writes; some may be -1.
template <class Visit>
void for_each_tensor(const Phase& any, const Visit& visit) {
  for_each_source(any, visit);
  visit(std::visit([](const auto& phase) { return destination(phase); }, any));
  if (const auto* conv = std::get_if<SegmentedConvPhase>(&any)) visit(conv->copy);
  if (const auto* quantized = std::get_if<QuantizedConvPhase>(&any)) visit(quantized->copy);
}

}  // namespace

Memory place_tensors(const Plan& plan, const std::vector<TensorKind>& kinds, const std::vector<Use>& later_uses) {
  const int count = static_cast<int>(plan.tensors.size());
  Memory memory;
  memory.lives.resize(count);
  memory.map_offset.resize(count);
  memory.map_bytes.resize(count);
  memory.vector_offset.resize(count);
  for (int p = 0; p < static_cast<int>(plan.phases.size()); ++p) {
    for_each_tensor(plan.phases[p], [&](int tensor) {
      if (tensor < 0) return;
      Life& life = memory.lives[tensor];
      if (life.first < 0) life.first = p;
      life.last = p;
    });
  }
  for (const Use& use : later_uses) memory.lives[use.tensor].last = std::max(memory.lives[use.tensor].last, use.phase);
  std::vector<int> maps;
  for (int t = 0; t < count; ++t) {
    const TensorShape& shape = plan.tensors[t];
    if (kinds[t] == TensorKind::kMap) {
      memory.map_bytes[t] = static_cast<std::size_t>(group_count(shape.channels, shape.format)) * shape.height *
                            shape.width * kGroupBytes;
      maps.push_back(t);
    } else if (kinds[t] == TensorKind::kVector) {
      memory.vector_offset[t] = memory.vector_pitch;
      memory.vector_pitch += divide_up(shape.channels, 4) * 4;
    }
  }
  memory.vector_pitch = divide_up(memory.vector_pitch, 64) * 64;

  // Greedy: the largest first, each at the lowest offset that no overlapping life occupies.
  std::stable_sort(maps.begin(), maps.end(), [&](int a, int b) { return memory.map_bytes[a] > memory.map_bytes[b]; });
  std::vector<int> placed;  // by offset
  for (int map : maps) {
    const Life& life = memory.lives[map];
    const std::size_t bytes = align(memory.map_bytes[map]);
    std::size_t offset = 0;
    for (int other : placed) {
      const Life& its = memory.lives[other];
      if (life.first > its.last || its.first > life.last) continue;
      if (offset + bytes <= memory.map_offset[other]) break;
      offset = std::max(offset, memory.map_offset[other] + align(memory.map_bytes[other]));
    }
    memory.map_offset[map] = offset;
    memory.arena_bytes = std::max(memory.arena_bytes, offset + bytes);
    const auto later = [&](int a, int b) { return memory.map_offset[a] < memory.map_offset[b]; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), map, later), map);
  }
  return memory;
}

}  // namespace faceattr::cuda
