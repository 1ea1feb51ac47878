// The stem between its strip of input rows and the pooled map: 7x7 convolution at stride 2, bias, ReLU and 2x2 max
// pool. The four outputs under a pooled one are summed side by side in registers, and their maximum alone gets a bias
// and is rounded: both keep the order of values, so the result is that of the steps one after the other.
//
//   dst[x, o] = store(max over r, c in {0, 1} of sum_ky sum_i src[(ky + 2 r) * pitch + 6 * (2 x + c) + i] * w[o, ky,
//   i])
//
// Pixels are RGB triples. The sum over (ky, i) is one chain in this order, as in segmented_conv and narrow_conv.
#pragma once

#include <cstdint>

#include "cpu/kernels/narrow_conv/narrow_conv.h"

namespace faceattr::cpu {

constexpr int kStemTaps = 7, kStemPad = 3, kRgb = 3;

struct StemConvArgs {
  const void* src = nullptr;  // first tap of the upper left output
  std::int64_t pitch = 0;     // values from one row to the next
  // [panel][7][run / group][panel width][group]: runs of 21 values, in pairs with one more of weight zero, which is
  // read too; zero-padded channels.
  const void* weights = nullptr;
  int width = 0;  // pooled positions
  int out_channels = 0;
  NarrowStore store;  // of floats: `bias` has their bits, and `floats` is written
};

// Computes one row of pooled positions, channels of one panel.
struct StemConvKernel {
  const char* name;
  int panel;  // output channels per panel
  void (*run)(const StemConvArgs& args, int panel);
};

// float32; pairs of integers of 16 bits; bfloat16.
using FloatStemKernel = StemConvKernel;
using PairStemKernel = StemConvKernel;
using Bfloat16StemKernel = StemConvKernel;

}  // namespace faceattr::cpu
