// Which phases of a plan resident_blocks.h can run as one: found by structure, on any plan.
#pragma once

#include <vector>

#include "cuda/hopper/params.h"
#include "cuda/packing.h"
#include "cuda/program.h"

namespace faceattr::cuda {

// Phases first … last are residual blocks, a reduce and an expand each:
//
//   m = relu(1x1(x)), x' = 3x3(m) + x        of float16, or
//   m = relu(1x1(copy of x)), x' = 3x3(m) + x, with a copy of x'        of bfloat16, x and x' float32
//
// and nothing outside reads what lies between. A bfloat16 stream is read by its copy alone and rounded to bfloat16
// after every block; its float32 form is written after the last.
struct ResidentRun {
  int first = 0, last = 0;
  ResidentShapeId shape = ResidentShapeId::k14x256x128;
  Format format = Format::kHalf;
  int src = 0;                   // narrow
  int narrow = -1, floats = -1;  // what the last phase writes; or -1

  int blocks() const { return (last - first + 1) / 2; }
};
std::vector<ResidentRun> find_resident_runs(const Plan& plan);

// From so many images on a run is faster than its phases one by one. A run takes the time of one image's weights
// streaming by however few images there are, while single phases spread one image over all multiprocessors: at half a
// multiprocessor's share of each the two are estimated to meet. Nobody has measured it; a target may say otherwise.
int resident_images(const Target& target);

struct PackedResident {
  std::size_t weights = 0, bias = 0;
};
PackedResident pack_resident(const Plan& plan, const ResidentRun& run, Packing& packing);

}  // namespace faceattr::cuda
