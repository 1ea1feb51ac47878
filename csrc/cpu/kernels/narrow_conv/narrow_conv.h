// Convolutions of narrow maps: segmented_conv.h with values and weights of 16 bits, read in pairs. Two families:
//
//   quantized: integers of 8 bits (0..255 or -128..127) and weights of -127..127, sums of 32 bits. No sum overflows, so
//     every order gives the same: an output is the same number on every instruction set;
//   bfloat16: sums of float32, two products after the other; each instruction set rounds its own way.
//
//   sum[p, o] = sum_s sum_t sum_i src_s[p * step_s + tap_s(t) + i] * weights[o, (s, t, i)]
//
// Then in float32, each step rounded to nearest even: value = (sum + bias) * multiplier (quantized), sum + bias
// (bfloat16); value += residual; ReLU; stores.
#pragma once

#include <cstdint>

#include "cpu/kernels/segmented_conv/segmented_conv.h"

namespace faceattr::cpu {

// From sums to what is stored.
struct NarrowStore {
  // Padded to whole panels.
  const std::int32_t* bias = nullptr;  // quantized: in units of the sum; bfloat16: the bits of floats
  const float* multiplier = nullptr;   // of quantized sums
  bool relu = false;
  float* floats = nullptr;  // output (0, 0) of a map of floats, or null
  std::int64_t floats_row_pitch = 0, floats_pixel_pitch = 0;
  const float* residual = nullptr;  // may be `floats`, or null
  std::int64_t residual_row_pitch = 0, residual_pixel_pitch = 0;
  // Output (0, 0) of a narrow map of the family's own format, or null: clamp(rint(value * inverse), low, low + 255), or
  // the value as a bfloat16.
  std::int16_t* narrow = nullptr;
  std::int64_t narrow_row_pitch = 0, narrow_pixel_pitch = 0;
  const float* inverse = nullptr;  // padded; null: 1
  float low = 0;
};

struct NarrowConvArgs {
  const std::int16_t* base = nullptr;
  const ConvSegment* segments = nullptr;  // in narrow values; runs have an even length
  int segment_count = 0;
  const std::int16_t* weights = nullptr;  // [panel][K / 2][panel width][2], K = all runs; zero-padded channels
  std::int64_t k = 0;
  int out_channels = 0;
  int out_width = 0;
  NarrowStore store;
  // Instead of `store`, where it is not null: bare sums of output (0, 0), whole panels of them.
  std::int32_t* sums = nullptr;
  std::int64_t sums_row_pitch = 0, sums_pixel_pitch = 0;
};

// Computes output positions [pixel_begin, pixel_end) in row-major order, channels of one panel. Reads nothing outside
// the runs, writes nothing but those outputs.
struct NarrowConvKernel {
  const char* name;
  int panel;  // output channels per panel
  void (*run)(const NarrowConvArgs& args, int pixel_begin, int pixel_end, int panel);
};

using QuantizedConvKernel = NarrowConvKernel;
using Bfloat16ConvKernel = NarrowConvKernel;

}  // namespace faceattr::cpu
