// A map of floats as integers, row by row:
//
//   dst[x, c] = clamp(rint(src[x, c] * inverse[c]), low, low + 255)
//
// The product is rounded to float32, then to the nearest even integer. NaN becomes `low`. Bytes hold dst - low.
#pragma once

#include <cstdint>

namespace faceattr::cpu {

struct QuantizeArgs {
  const float* src = nullptr;  // the first position of a row
  std::int64_t src_pixel_pitch = 0;
  int width = 0, channels = 0;
  const float* inverse = nullptr;  // by channel
  float low = 0;
  std::int16_t* dst = nullptr;
  std::uint8_t* bytes = nullptr;  // instead, in levels that store integers so
  std::int64_t dst_pixel_pitch = 0;
};

struct QuantizeKernel {
  const char* name;
  void (*run)(const QuantizeArgs& args);
};

}  // namespace faceattr::cpu
