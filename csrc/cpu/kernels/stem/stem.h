// The two ends of the stem around its convolution, which is a segmented_conv of seven runs of 21 floats:
// pixels → padded, normalised, interleaved rows; and the 2x2 max pool.
#pragma once

#include <cstdint>

namespace faceattr::cpu {

// One input row, `width` pixels, as `width` RGB triples: dst[3 * x + c] = (pixel - mean[c]) / scale[c].
struct LoadRowArgs {
  int width = 0;
  const float* mean = nullptr;           // [3 * width], repeating: keeps the loop free of the channel index
  const float* inverse_scale = nullptr;  // [3 * width]
  float* dst = nullptr;
};

struct StemKernel {
  const char* name;
  // uint8 RGB triples.
  void (*load_u8)(const LoadRowArgs& args, const std::uint8_t* row);
  // Three float planes, already normalised. Returns false if a value is not finite.
  bool (*load_f32)(const LoadRowArgs& args, const float* red, const float* green, const float* blue);
  // dst[x, c] = max over 2x2 of src, x in [0, width): two rows of 2 * width positions, `channels` contiguous floats
  // each.
  void (*max_pool)(const float* top, const float* bottom, int width, int channels, float* dst);
};

}  // namespace faceattr::cpu
