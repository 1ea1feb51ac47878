// The pooled features that linear heads read:
//
//   dst[(ky * kernel + kx) * count + c] = (1 / positions) * sum over (oy, ox) of src[oy * stride + ky - pad, ox *
//   stride + kx - pad, c]
//
// with pad = kernel / 2, zero outside the source, and positions = out_height * out_width. Positions are summed row by
// row, in one chain per output.
#pragma once

#include <cstdint>

namespace faceattr::cpu {

struct ShiftedMeansArgs {
  const float* src = nullptr;  // position (0, 0), first channel of interest
  std::int64_t row_pitch = 0, pixel_pitch = 0;
  int height = 0, width = 0;  // of the source
  int out_height = 0, out_width = 0;
  int kernel = 1, stride = 1;
  int count = 0;
  float* dst = nullptr;
  // Of a narrow map, instead of `src`; integers are summed exactly, `scale` is by channel of `count`.
  const std::int16_t* narrow = nullptr;
  const std::uint8_t* bytes = nullptr;  // instead, of integers: their distances from `low`
  int low = 0;
  const float* scale = nullptr;
};

// Channels that one call sums at most.
constexpr int kShiftedMeansChannels = 64;

struct ShiftedMeansKernel {
  const char* name;
  // Channels [channel_begin, channel_end) of one tap, at most kShiftedMeansChannels.
  void (*run)(const ShiftedMeansArgs& args, int tap, int channel_begin, int channel_end);
  void (*run_integers)(const ShiftedMeansArgs& args, int tap, int channel_begin, int channel_end);
  void (*run_bfloat16)(const ShiftedMeansArgs& args, int tap, int channel_begin, int channel_end);
};

}  // namespace faceattr::cpu
