// Where every map of an image lies in the arena: maps whose lives do not overlap share memory. And which phases run
// layer by layer over a group of images.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "plan/phase.h"

namespace faceattr {

// Of values of 16 bits: a bfloat16, or an integer, of which both ranges of 8 bits fit. Multiply-adds read pairs of
// them. Where they read four integers at once, a map of integers holds bytes instead: an integer's distance from `low`.
constexpr std::size_t kNarrowPerFloat = sizeof(float) / sizeof(std::int16_t);

// A map in the arena. A map that a 3x3 reads has a border of one zero position on each side, so that no tap needs a
// test.
struct MapPlacement {
  std::size_t offset = 0;  // in floats, of the padded position (0, 0); a multiple of 16
  int border = 0;
  int value_bytes = sizeof(float);
  std::int64_t row_pitch = 0;    // values from one row to the next
  std::int64_t pixel_pitch = 0;  // values from one position to the next

  // Of the position (0, 0) of a map of floats, in floats; of a narrow map, in values of its width.
  std::size_t interior() const { return offset + inner(); }
  std::size_t narrow_interior() const { return sizeof(float) / value_bytes * offset + inner(); }

 private:
  std::size_t inner() const { return static_cast<std::size_t>(border * (row_pitch + pixel_pitch)); }
};

struct MemoryPlan {
  std::vector<MapPlacement> maps;       // by tensor; meaningless for vectors
  std::vector<std::size_t> workspaces;  // by phase: offset of the memory that only this phase uses
  std::size_t arena_floats = 0;         // of one image

  // From this phase on a thread runs each phase for a group of images before the next phase, so that weights are loaded
  // once per group; phases before it run image by image. The number of phases where no phase gains from it.
  int first_grouped = 0;
  // The arena of each image of a group begins this many floats after the one before. What grouped phases read or write
  // lies in the first `slot_floats` of an arena. What only earlier phases use lies anywhere: they run in the order of
  // the images, and the next slots hold nothing yet. So a group takes arena_floats + (images - 1) * slot_floats.
  std::size_t slot_floats = 0;
};

// `workspaces`: floats that each phase needs besides its tensors, as its backend says; empty: none. `integer_bytes`: of
// a value in a map of integers.
//
// Grouped are all phases from the first convolution on whose weights are more than twice as large as the maps that it
// reads and writes.
//
// A block's output takes the place of its input (`residual`) where nothing reads the input later: each element is read
// just before it is written, by the same thread.
MemoryPlan plan_memory(const Plan& plan, const std::vector<TensorKind>& kinds,
                       const std::vector<std::size_t>& workspaces = {}, int integer_bytes = sizeof(std::int16_t));

}  // namespace faceattr
