#include "plan/memory_planner.h"

#include <algorithm>
#include <numeric>

namespace faceattr {
namespace {

constexpr std::size_t kAlignFloats = 16;  // one cache line, one 512-bit vector

struct Life {
  int first = -1, last = -1;  // phases
};

void extend(Life& life, int phase) {
  if (life.first < 0) life.first = phase;
  life.last = std::max(life.last, phase);
}

std::size_t padded_floats(const TensorShape& shape, int border) {
  const std::size_t floats =
      static_cast<std::size_t>(shape.height + 2 * border) * (shape.width + 2 * border) * shape.channels;
  return (floats + kAlignFloats - 1) / kAlignFloats * kAlignFloats;
}

// Visits every (tensor, kernel) that a phase reads.
template <class Visit>
void for_each_read(const Phase& phase, const Visit& visit) {
  if (const auto* conv = std::get_if<SegmentedConvPhase>(&phase)) {
    for (const Segment& s : conv->segments) visit(s.src, s.kernel);
    if (conv->residual >= 0) visit(conv->residual, 1);
  } else if (const auto* means = std::get_if<ShiftedMeansPhase>(&phase)) {
    visit(means->src, 1);  // clips its taps itself
  }
}

}  // namespace

MemoryPlan plan_memory(const Plan& plan, const std::vector<TensorKind>& kinds) {
  const int count = static_cast<int>(plan.tensors.size());
  MemoryPlan result;
  result.maps.resize(count);
  std::vector<Life> lives(count);
  for (int p = 0; p < static_cast<int>(plan.phases.size()); ++p) {
    std::visit([&](const auto& phase) { extend(lives[phase.dst], p); }, plan.phases[p]);
    for_each_read(plan.phases[p], [&](int tensor, int kernel) {
      extend(lives[tensor], p);
      if (kernel == 3) result.maps[tensor].border = 1;
    });
  }
  for (const Output& output : plan.outputs) extend(lives[output.tensor], static_cast<int>(plan.phases.size()));

  // Tensors that share one place from the start: a block's output and the input that it replaces.
  std::vector<int> root(count);
  std::iota(root.begin(), root.end(), 0);
  for (int p = 0; p < static_cast<int>(plan.phases.size()); ++p) {
    const auto* conv = std::get_if<SegmentedConvPhase>(&plan.phases[p]);
    if (conv == nullptr || conv->residual < 0 || lives[conv->residual].last != p) continue;
    bool also_convolved = false;
    for (const Segment& s : conv->segments) also_convolved |= s.src == conv->residual;
    if (also_convolved || result.maps[conv->residual].border != result.maps[conv->dst].border) continue;
    root[conv->dst] = root[conv->residual];
    Life& life = lives[root[conv->dst]];
    life.last = std::max(life.last, lives[conv->dst].last);
  }

  // Greedy by size: the largest first, each at the lowest offset that no overlapping life occupies.
  std::vector<int> order;
  for (int t = 0; t < count; ++t) {
    const TensorShape& shape = plan.tensors[t];
    MapPlacement& map = result.maps[t];
    map.pixel_pitch = shape.channels;
    map.row_pitch = static_cast<std::int64_t>(shape.width + 2 * map.border) * shape.channels;
    if (kinds[t] == TensorKind::kMap && root[t] == t) order.push_back(t);
  }
  const auto size_of = [&](int t) { return padded_floats(plan.tensors[t], result.maps[t].border); };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return size_of(a) > size_of(b); });
  std::vector<int> placed;  // by offset
  for (int t : order) {
    std::size_t offset = 0;
    for (int other : placed) {
      const bool overlap = lives[t].first <= lives[other].last && lives[other].first <= lives[t].last;
      if (!overlap) continue;
      const std::size_t begin = result.maps[other].offset, end = begin + size_of(other);
      if (offset + size_of(t) <= begin) break;
      offset = std::max(offset, end);
    }
    result.maps[t].offset = offset;
    result.arena_floats = std::max(result.arena_floats, offset + size_of(t));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), t,
                                   [&](int a, int b) { return result.maps[a].offset < result.maps[b].offset; }),
                  t);
  }
  for (int t = 0; t < count; ++t) result.maps[t].offset = result.maps[root[t]].offset;
  return result;
}

}  // namespace faceattr
