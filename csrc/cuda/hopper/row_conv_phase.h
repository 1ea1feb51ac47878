// Which convolutions of a plan row_conv.h computes, and their weights.
#pragma once

#include <optional>

#include "cuda/hopper/params.h"
#include "cuda/packing.h"
#include "cuda/program.h"

namespace faceattr::cuda {

// A phase of one 3x3 and at most one 1x1, both of stride 1, of 16 bits throughout, whose channels fit and fill at least
// half of the products; rows are long enough not to be mostly padding.
struct RowConvPhase {
  Segment near, own;  // own.count 0: there is none
  std::size_t weights = 0, bias = 0;
};
std::optional<RowConvPhase> find_row_conv(const Plan& plan, const SegmentedConvPhase& phase, Packing& packing);

// Whether a batch has a strip for every multiprocessor: with less the other kernels' smaller tiles spread it further.
// An estimate, which nobody has measured; a target may say otherwise.
bool takes_rows(const Target& target, int images, int height);

}  // namespace faceattr::cuda
