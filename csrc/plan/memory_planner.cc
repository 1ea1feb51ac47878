#include "plan/memory_planner.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace faceattr {
namespace {

constexpr std::size_t kAlignFloats = 16;  // one cache line, one 512-bit vector
// Floats of weights per float of the maps that a phase reads and writes from which a group of images pays: it loads the
// weights once per group instead of once per image, but each image's maps no longer stay in the core's own cache from
// one phase to the next: they are stored to the outer cache once and loaded once.
constexpr std::size_t kHeavyWeights = 2;

struct Life {
  int first = -1, last = -1;  // phases
};

void extend(Life& life, int phase) {
  if (life.first < 0) life.first = phase;
  life.last = std::max(life.last, phase);
}

std::size_t align(std::size_t floats) { return (floats + kAlignFloats - 1) / kAlignFloats * kAlignFloats; }

// Narrow values are read four at a time at most.
int pixel_pitch(const TensorShape& shape) { return shape.narrow() ? (shape.channels + 3) / 4 * 4 : shape.channels; }

int value_bytes(const TensorShape& shape, int integer_bytes) {
  if (shape.format == Format::kInteger) return integer_bytes;
  return shape.narrow() ? sizeof(std::int16_t) : sizeof(float);
}

std::size_t padded_floats(const TensorShape& shape, int border, int integer_bytes) {
  const std::size_t positions = static_cast<std::size_t>(shape.height + 2 * border) * (shape.width + 2 * border);
  return align(positions * pixel_pitch(shape) * value_bytes(shape, integer_bytes) / sizeof(float));
}

// A piece of the arena: a map, or what one phase works in.
struct Block {
  std::size_t floats;
  Life life;
  std::size_t* offset;  // result
};

// What grouped phases use first, at the arena's beginning; then greedy by size: the largest first, each at the lowest
// offset that no overlapping life occupies. Sets the sizes of arena and slot.
void place(std::vector<Block> blocks, MemoryPlan& memory) {
  const auto grouped = [&](const Block& block) { return block.life.last >= memory.first_grouped; };
  std::stable_sort(blocks.begin(), blocks.end(), [&](const Block& a, const Block& b) {
    return grouped(a) != grouped(b) ? grouped(a) : a.floats > b.floats;
  });
  std::vector<const Block*> placed;  // by offset
  for (const Block& block : blocks) {
    std::size_t offset = 0;
    for (const Block* other : placed) {
      const bool overlap = block.life.first <= other->life.last && other->life.first <= block.life.last;
      if (!overlap) continue;
      if (offset + block.floats <= *other->offset) break;
      offset = std::max(offset, *other->offset + other->floats);
    }
    *block.offset = offset;
    memory.arena_floats = std::max(memory.arena_floats, offset + block.floats);
    if (grouped(block)) memory.slot_floats = memory.arena_floats;
    const auto later = [](const Block* a, const Block* b) { return *a->offset < *b->offset; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &block, later), &block);
  }
}

// What a direct and a Winograd convolution have in common; null for other phases.
const SegmentedConvPhase* convolution(const Phase& phase) {
  if (const auto* winograd = std::get_if<WinogradConvPhase>(&phase)) return &winograd->direct;
  return std::get_if<SegmentedConvPhase>(&phase);
}

// The map that a phase adds, or -1.
int shortcut(const Phase& phase) {
  if (const auto* quantized = std::get_if<QuantizedConvPhase>(&phase)) return quantized->residual;
  const SegmentedConvPhase* conv = convolution(phase);
  return conv == nullptr ? -1 : conv->residual;
}

// The second map that a phase writes, or -1.
int narrow_copy(const Phase& phase) {
  if (const auto* quantized = std::get_if<QuantizedConvPhase>(&phase)) return quantized->copy;
  const SegmentedConvPhase* conv = convolution(phase);
  return conv == nullptr ? -1 : conv->copy;
}

// Visits every (tensor, kernel) that a phase reads.
template <class Visit>
void for_each_read(const Phase& phase, const Visit& visit) {
  if (const auto* winograd = std::get_if<WinogradConvPhase>(&phase)) {
    for (const Segment& s : winograd->segments) visit(s.src, s.kernel);
  }
  if (const SegmentedConvPhase* conv = convolution(phase)) {
    for (const Segment& s : conv->segments) visit(s.src, s.kernel);
    if (conv->residual >= 0) visit(conv->residual, 1);
  } else if (const auto* quantized = std::get_if<QuantizedConvPhase>(&phase)) {
    for (const Segment& s : quantized->segments) visit(s.src, s.kernel);
    for (const Segment& s : quantized->transformed) visit(s.src, s.kernel);
    if (quantized->residual >= 0) visit(quantized->residual, 1);
  } else if (const auto* quantize = std::get_if<QuantizePhase>(&phase)) {
    visit(quantize->src, 1);
  } else if (const auto* means = std::get_if<ShiftedMeansPhase>(&phase)) {
    visit(means->src, 1);  // clips its taps itself
  }
}

// The weights of a convolution in floats; those of narrow maps are as wide as the values that they meet. 0 for other
// phases.
std::size_t weight_floats(const Plan& plan, const Phase& phase, int integer_bytes) {
  if (const auto* quantized = std::get_if<QuantizedConvPhase>(&phase))
    return quantized->weight.size() * integer_bytes / sizeof(float) +
           quantized->transformed_weight.size() / kNarrowPerFloat;
  const SegmentedConvPhase* conv = convolution(phase);
  if (conv == nullptr) return 0;
  const auto* winograd = std::get_if<WinogradConvPhase>(&phase);
  const std::size_t floats = conv->weight.size() + (winograd == nullptr ? 0 : winograd->weight.size());
  const Segment& read = winograd == nullptr ? conv->segments[0] : winograd->segments[0];
  return plan.tensors[read.src].narrow() ? floats / kNarrowPerFloat : floats;
}

// The first phase whose weights are worth a group of images, or the number of phases.
int first_weight_heavy(const Plan& plan, int integer_bytes) {
  for (int p = 0; p < static_cast<int>(plan.phases.size()); ++p) {
    const Phase& phase = plan.phases[p];
    std::vector<bool> used(plan.tensors.size(), false);
    used[std::visit([](const auto& any) { return destination(any); }, phase)] = true;
    if (narrow_copy(phase) >= 0) used[narrow_copy(phase)] = true;
    for_each_read(phase, [&](int tensor, int) { used[tensor] = true; });
    std::size_t maps = 0;
    for (std::size_t t = 0; t < used.size(); ++t) {
      if (used[t]) maps += padded_floats(plan.tensors[t], 0, integer_bytes);
    }
    if (weight_floats(plan, phase, integer_bytes) > kHeavyWeights * maps) return p;
  }
  return static_cast<int>(plan.phases.size());
}

}  // namespace

MemoryPlan plan_memory(const Plan& plan, const std::vector<TensorKind>& kinds,
                       const std::vector<std::size_t>& workspaces, int integer_bytes) {
  const int count = static_cast<int>(plan.tensors.size());
  MemoryPlan result;
  result.maps.resize(count);
  result.first_grouped = first_weight_heavy(plan, integer_bytes);
  std::vector<Life> lives(count);
  for (int p = 0; p < static_cast<int>(plan.phases.size()); ++p) {
    std::visit([&](const auto& phase) { extend(lives[destination(phase)], p); }, plan.phases[p]);
    const int copy = narrow_copy(plan.phases[p]);
    if (copy >= 0) extend(lives[copy], p);
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
    const int residual = shortcut(plan.phases[p]);
    if (residual < 0 || lives[residual].last != p) continue;
    const int dst = std::visit([](const auto& phase) { return destination(phase); }, plan.phases[p]);
    int reads = 0;
    for_each_read(plan.phases[p], [&](int tensor, int) { reads += tensor == residual; });
    if (reads > 1 || result.maps[residual].border != result.maps[dst].border) continue;
    root[dst] = root[residual];
    Life& life = lives[root[dst]];
    life.last = std::max(life.last, lives[dst].last);
  }

  std::vector<Block> blocks;
  for (int t = 0; t < count; ++t) {
    const TensorShape& shape = plan.tensors[t];
    MapPlacement& map = result.maps[t];
    map.value_bytes = value_bytes(shape, integer_bytes);
    map.pixel_pitch = pixel_pitch(shape);
    map.row_pitch = static_cast<std::int64_t>(shape.width + 2 * map.border) * map.pixel_pitch;
    if (kinds[t] != TensorKind::kMap || root[t] != t) continue;
    blocks.push_back({padded_floats(shape, map.border, integer_bytes), lives[t], &map.offset});
  }
  result.workspaces.resize(plan.phases.size());
  for (int p = 0; p < static_cast<int>(workspaces.size()); ++p) {
    if (workspaces[p] > 0) blocks.push_back({align(workspaces[p]), {p, p}, &result.workspaces[p]});
  }
  place(std::move(blocks), result);
  for (int t = 0; t < count; ++t) result.maps[t].offset = result.maps[root[t]].offset;
  return result;
}

}  // namespace faceattr
