// Convolutions of narrow maps: segmented_conv.h with values and weights of 16 bits, read in pairs, or of 8 bits, read
// in fours. Three families:
//
//   quantized: maps of integers of 8 bits (0..255 or -128..127) and weights of -127..127, sums of 32 bits. No sum
//     overflows, so every order gives the same: an output is the same number on every instruction set. Kernels that
//     read fours take a value's distance from the lower end of its range, 0..255, and the bias makes up for it: sum w x
//     = sum w (x - low) + low * sum w, border and all, where zeros are stored as -low;
//   pairs: the same of integers and weights of 16 bits, where the sums fit: those of transformed tiles;
//   bfloat16: sums of float32, two products after the other; each instruction set rounds its own way.
//
//   sum[p, o] = sum_s sum_t sum_i src_s[p * step_s + tap_s(t) + i] * weights[o, (s, t, i)]
//
// Then in float32, each step rounded to nearest even: value = (sum + bias) * multiplier (integers), sum + bias
// (bfloat16); value += residual; ReLU; stores.
#pragma once

#include <cstdint>

#include "cpu/kernels/segmented_conv/segmented_conv.h"

namespace faceattr::cpu {

// From sums to what is stored.
struct NarrowStore {
  // Padded to whole panels.
  const std::int32_t* bias = nullptr;  // integers: in units of the sum; bfloat16: the bits of floats
  const float* multiplier = nullptr;   // of sums of integers
  bool relu = false;
  float* floats = nullptr;  // output (0, 0) of a map of floats, or null
  std::int64_t floats_row_pitch = 0, floats_pixel_pitch = 0;
  const float* residual = nullptr;  // may be `floats`, or null
  std::int64_t residual_row_pitch = 0, residual_pixel_pitch = 0;
  // Output (0, 0) of a narrow map of the family's own format, or null: clamp(rint(value * inverse), low, low + 255), or
  // the value as a bfloat16. `bytes` instead, in levels that store integers so: the integer minus low.
  std::int16_t* narrow = nullptr;
  std::uint8_t* bytes = nullptr;
  std::int64_t narrow_row_pitch = 0, narrow_pixel_pitch = 0;
  const float* inverse = nullptr;  // padded; null: 1
  float low = 0;
};

struct NarrowConvArgs {
  const void* base = nullptr;             // int16_t values, or uint8_t
  const ConvSegment* segments = nullptr;  // in values; the length of a run is a multiple of the group, 2 or 4
  int segment_count = 0;
  // int16_t or int8_t, [panel][K / group][panel width][group], K = all runs; zero-padded channels.
  const void* weights = nullptr;
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
  int value_bytes = sizeof(std::int16_t);  // of values and weights: 2 are read in pairs, 1 in fours
};

using QuantizedConvKernel = NarrowConvKernel;
using PairConvKernel = NarrowConvKernel;
using Bfloat16ConvKernel = NarrowConvKernel;

}  // namespace faceattr::cpu
