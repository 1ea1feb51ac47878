// The two ends of the stem around its convolution, which is a segmented_conv of seven runs of 21 floats, or a
// quantized_conv: pixels → padded, normalised, interleaved rows; and the 2x2 max pool.
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

// The same as integers: dst[3 * x + c] = rint(2 * (pixel - mean[c])), at most 2^15 - 1 in magnitude. Exact for pixels
// of 8 bits where the mean is a multiple of one half.
struct LoadIntegersArgs {
  int width = 0;
  const float* mean = nullptr;           // [3 * width]
  const float* doubled_scale = nullptr;  // [3 * width]: normalised pixels times it are 2 * (pixel - mean)
  std::int16_t* dst = nullptr;
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

  void (*load_u8_integers)(const LoadIntegersArgs& args, const std::uint8_t* row);
  bool (*load_f32_integers)(const LoadIntegersArgs& args, const float* red, const float* green, const float* blue);
  // In place.
  void (*integers_to_bfloat16)(std::int16_t* values, std::int64_t count);
  // Of integers, or of bfloat16 that are not negative, whose bits are ordered as they are. Positions of dst lie `pitch`
  // values apart.
  void (*max_pool_integers)(const std::int16_t* top, const std::int16_t* bottom, int width, int channels,
                            std::int64_t pitch, std::int16_t* dst);
  // The same into bytes, of integers from 0 to 255.
  void (*max_pool_bytes)(const std::int16_t* top, const std::int16_t* bottom, int width, int channels,
                         std::int64_t pitch, std::uint8_t* dst);
};

}  // namespace faceattr::cpu
