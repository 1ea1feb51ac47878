// From a feature set to kernels: resolved once per engine, never per call.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels/linear/linear.h"
#include "cpu/kernels/narrow_conv/narrow_conv.h"
#include "cpu/kernels/narrow_winograd/narrow_winograd.h"
#include "cpu/kernels/quantize/quantize.h"
#include "cpu/kernels/segmented_conv/segmented_conv.h"
#include "cpu/kernels/shifted_means/shifted_means.h"
#include "cpu/kernels/stem/stem.h"
#include "cpu/kernels/stem_conv/stem_conv.h"
#include "cpu/kernels/stem_winograd/stem_winograd.h"
#include "cpu/kernels/winograd/winograd.h"

namespace faceattr::cpu {

template <class Kernel>
struct Candidate {
  std::uint32_t features;  // what it needs
  const Kernel* kernel;
};

// kernel_list.inc by family, best first; the last of each needs no feature.
struct KernelLists {
  std::vector<Candidate<SegmentedConvKernel>> SegmentedConv;
  std::vector<Candidate<QuantizedConvKernel>> QuantizedConv;
  std::vector<Candidate<PairConvKernel>> PairConv;
  std::vector<Candidate<QuantizedWinogradKernel>> QuantizedWinograd;
  std::vector<Candidate<Bfloat16ConvKernel>> Bfloat16Conv;
  std::vector<Candidate<Bfloat16WinogradKernel>> Bfloat16Winograd;
  std::vector<Candidate<FloatStemKernel>> FloatStem;
  std::vector<Candidate<PairStemKernel>> PairStem;
  std::vector<Candidate<QuadStemKernel>> QuadStem;
  std::vector<Candidate<Bfloat16StemKernel>> Bfloat16Stem;
  std::vector<Candidate<QuantizeKernel>> Quantize;
  std::vector<Candidate<ShiftedMeansKernel>> ShiftedMeans;
  std::vector<Candidate<LinearKernel>> Linear;
  std::vector<Candidate<StemKernel>> Stem;
  std::vector<Candidate<StemWinogradKernel>> StemWinograd;
  std::vector<Candidate<WinogradKernel>> Winograd;
};
const KernelLists& kernel_lists();

// The first kernel whose needs are all in `features`.
template <class Kernel>
const Kernel& best(const std::vector<Candidate<Kernel>>& candidates, std::uint32_t features) {
  for (const Candidate<Kernel>& candidate : candidates) {
    if ((candidate.features & ~features) == 0) return *candidate.kernel;
  }
  return *candidates.back().kernel;
}

}  // namespace faceattr::cpu
