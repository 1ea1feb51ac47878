// The stem between its strip of input rows and the pooled map: 7x7 convolution at stride 2, bias, ReLU and 2x2 max
// pool. The four outputs under a pooled one are summed side by side in registers, and their maximum alone gets a bias,
// a multiplier that is not negative, and is rounded. All keep the order of numbers, so the result is that of the steps
// one after the other, but for sums that overflow to NaN.
//
//   dst[x, o] = store(max over r, c in {0, 1} of
//                     sum_ky sum_i src[(ky + 2 r) * pitch + 6 * (2 x + c) + i] * weights[o, ky, i])
//
// Pixels are RGB triples. The sum over (ky, i) is one chain in this order, as in segmented_conv and narrow_conv. Of the
// 21 values of a row, kernels of bytes read twenty as five fours; the last of all seven rows, which would be a four
// each, they read from a copy where rows are next to each other, as two.
#pragma once

#include <cstdint>

#include "cpu/kernels/narrow_conv/narrow_conv.h"

namespace faceattr::cpu {

constexpr int kStemTaps = 7, kStemPad = 3, kRgb = 3;
constexpr int kStemRow = kStemTaps * kRgb;  // values of a row under one output
constexpr int kStemLastPitch = 40;          // from one column of the copy to the next: rows of a strip, and 3 more read

// Kernels that read fours of bytes compute twice the sum, of values that are not negative; what outputs at the image's
// edge lack, they get by biases of their own.
struct StemConvArgs {
  const void* src = nullptr;  // first tap of the upper left output
  std::int64_t pitch = 0;     // values from one row to the next
  // [panel][7][run / group][panel width][group]: runs of 21 values, filled up to pairs with weights of zero, whose
  // values are read too; zero-padded channels. Of bytes, runs of 20, then [2][panel width][4], the eighth weight zero.
  const void* weights = nullptr;
  // Kernels of bytes only: the last values, [column of outputs][row], the first of the upper left output.
  const std::uint8_t* last = nullptr;
  int begin = 0, end = 0;  // pooled positions
  int out_channels = 0;
  NarrowStore store;  // of floats: `bias` has their bits, and `floats` is written
  // Kernels of bytes only: added to the output at row r and column c of the four, before the pool; null: nothing.
  const std::int32_t* biases[2][2] = {};
};

// Computes pooled positions [begin, end) of a row, channels of one panel.
struct StemConvKernel {
  const char* name;
  int panel;  // output channels per panel
  void (*run)(const StemConvArgs& args, int panel);
};

// float32; pairs of integers of 16 bits; fours of bytes without a sign, by weights of 8 bits; bfloat16.
using FloatStemKernel = StemConvKernel;
using PairStemKernel = StemConvKernel;
using QuadStemKernel = StemConvKernel;
using Bfloat16StemKernel = StemConvKernel;

}  // namespace faceattr::cpu
