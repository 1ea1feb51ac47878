// Where the maps and vectors of a batch lie in a workspace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/phase.h"

namespace faceattr::cuda {

struct Life {
  int first = -1, last = -1;  // phases; -1: never
};

// A workspace holds, per image of the batch: maps (those whose lives do not overlap share memory), then a row of
// vectors, then flags. A map's images lie one after the other from images * map_offset on.
struct Memory {
  std::vector<Life> lives;              // by tensor
  std::vector<std::size_t> map_offset;  // bytes per image, multiples of 256; meaningless for vectors
  std::vector<std::size_t> map_bytes;   // of one image
  std::vector<int> vector_offset;       // floats, multiples of 4; meaningless for maps
  std::size_t arena_bytes = 0;          // per image
  int vector_pitch = 0;                 // floats per image
};

struct Use {
  int tensor, phase;
};

// A phase's outputs are gathered right behind it, so a map lives from the phase that writes it to the last that reads
// it, or to a later use.
Memory place_tensors(const Plan& plan, const std::vector<TensorKind>& kinds, const std::vector<Use>& later_uses = {});

// Calls visit(tensor) for all that a phase reads; a residual may be -1.
template <class Visit>
void for_each_source(const Phase& any, const Visit& visit) {
  if (const auto* conv = std::get_if<SegmentedConvPhase>(&any)) {
    for (const Segment& s : conv->segments) visit(s.src);
    visit(conv->residual);
  } else if (const auto* quantized = std::get_if<QuantizedConvPhase>(&any)) {
    for (const Segment& s : quantized->segments) visit(s.src);
    visit(quantized->residual);
  } else if (const auto* quantize = std::get_if<QuantizePhase>(&any)) {
    visit(quantize->src);
  } else if (const auto* means = std::get_if<ShiftedMeansPhase>(&any)) {
    visit(means->src);
  } else if (const auto* linear = std::get_if<LinearHeadPhase>(&any)) {
    for (const LinearInput& input : linear->inputs) visit(input.src);
  }
}

}  // namespace faceattr::cuda
