// What the stem's convolution (stem_conv) reads: pixels → normalised, interleaved rows.
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

// Where all pixels of a row are some (2 * byte - doubled_mean[c]), the same as those bytes.
struct LoadBytesArgs {
  int width = 0;
  const std::int32_t* doubled_mean = nullptr;  // [3 * width]
  const float* doubled_scale = nullptr;        // [3 * width]
  std::uint8_t* dst = nullptr;
};

struct StemKernel {
  const char* name;
  // uint8 RGB triples.
  void (*load_u8)(const LoadRowArgs& args, const std::uint8_t* row);
  // Three float planes, already normalised. Returns false if a value is not finite.
  bool (*load_f32)(const LoadRowArgs& args, const float* red, const float* green, const float* blue);
  void (*load_u8_integers)(const LoadIntegersArgs& args, const std::uint8_t* row);
  bool (*load_f32_integers)(const LoadIntegersArgs& args, const float* red, const float* green, const float* blue);
  // Returns false if a value is none of a byte, or not finite.
  bool (*load_f32_bytes)(const LoadBytesArgs& args, const float* red, const float* green, const float* blue);
  // In place.
  void (*integers_to_bfloat16)(std::int16_t* values, std::int64_t count);
};

}  // namespace faceattr::cpu
