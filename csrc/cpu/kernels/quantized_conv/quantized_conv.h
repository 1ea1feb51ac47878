// Convolutions of integer maps: segmented_conv.h with 16-bit values, sums of 32 bits and a requantisation.
//
//   sum[p, o] = sum_s sum_t sum_i src_s[p * step_s + tap_s(t) + i] * weights[o, (s, t, i)] + bias[o]
//
// Integers range over 8 bits (0..255 or -128..127), weights over -127..127, so no sum overflows and every order gives
// the same: an output is the same number on every instruction set. The steps in float32 that follow are rounded one by
// one, to nearest, ties to even.
#pragma once

#include <cstdint>

#include "cpu/kernels/segmented_conv/segmented_conv.h"

namespace faceattr::cpu {

// From a sum to what is stored; see QuantizedConvPhase.
struct Requantize {
  const std::int32_t* bias = nullptr;  // bias, multiplier, inverse: padded to whole panels
  const float* multiplier = nullptr;
  bool relu = false;
  float* dst = nullptr;  // output (0, 0) of a map of floats, or null: only the integers are wanted
  std::int64_t dst_row_pitch = 0, dst_pixel_pitch = 0;
  const float* residual = nullptr;  // may be dst, or null
  std::int64_t residual_row_pitch = 0, residual_pixel_pitch = 0;
  std::int16_t* integers = nullptr;  // output (0, 0) of a map of integers, or null
  std::int64_t integers_row_pitch = 0, integers_pixel_pitch = 0;
  const float* inverse = nullptr;  // null: the multiplier leads to the integers
  float low = 0;                   // of the integers, the highest is low + 255
};

struct QuantizedConvArgs {
  const std::int16_t* base = nullptr;
  const ConvSegment* segments = nullptr;  // in integers; runs have an even length
  int segment_count = 0;
  const std::int16_t* weights = nullptr;  // [panel][K / 2][panel width][2], K = all runs; zero-padded channels
  std::int64_t k = 0;
  int out_channels = 0;
  int out_width = 0;
  Requantize requantize;
};

// Computes output positions [pixel_begin, pixel_end) in row-major order, channels of one panel. Reads nothing outside
// the runs, writes nothing but those outputs.
struct QuantizedConvKernel {
  const char* name;
  int panel;  // output channels per panel
  void (*run)(const QuantizedConvArgs& args, int pixel_begin, int pixel_end, int panel);
};

}  // namespace faceattr::cpu
