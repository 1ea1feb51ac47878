// The pixels of a few rows as the stem's convolution reads them: the same for its runners of all formats.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/runners.h"

namespace faceattr::cpu {

// Pooled rows whose input is loaded at once: 8 rows are 37 input rows (5 of them shared with the neighbours), about
// 100 KiB of floats at 224 pixels: a fifth of a small L2.
constexpr int kStripRows = 8;
constexpr int strip_input_rows(int pooled_rows) { return 4 * pooled_rows + kStemTaps - 2; }
// Values from one row of a strip to the next.
constexpr std::int64_t strip_pitch(int size) { return static_cast<std::int64_t>(size + 2 * kStemPad) * kRgb; }

// A row as the caller gave it: RGB next to each other, or, where `u8` is null, a plane each.
struct PixelRow {
  const std::uint8_t* u8;
  const float *red, *green, *blue;
};

inline PixelRow pixel_row(const Pixels& pixels, std::int64_t image, int size, int y) {
  const std::int64_t plane = static_cast<std::int64_t>(size) * size, begin = static_cast<std::int64_t>(y) * size;
  if (pixels.u8 != nullptr) return {pixels.u8 + (image * plane + begin) * kRgb, nullptr, nullptr, nullptr};
  const float* red = pixels.f32 + image * plane * kRgb + begin;
  return {nullptr, red, red + plane, red + 2 * plane};
}

// Writes rows [first_row, first_row + rows) of an image, with zeros around it; `load`(dst, row) writes what is between
// them and says whether it is finite. Returns false if it met a non-finite pixel.
template <class Value, class Load>
bool load_strip(const Pixels& pixels, std::int64_t image, int size, int first_row, int rows, Value* strip,
                const Load& load) {
  const std::int64_t pitch = strip_pitch(size);
  constexpr int kEdge = kStemPad * kRgb;
  bool finite = true;
  for (int r = 0; r < rows; ++r, strip += pitch) {
    const int y = first_row + r;
    if (y < 0 || y >= size) {  // padding is zero after normalisation, whatever the mean
      std::fill_n(strip, pitch, Value{0});
      continue;
    }
    std::fill_n(strip, kEdge, Value{0});
    std::fill_n(strip + pitch - kEdge, kEdge, Value{0});
    finite &= load(strip + kEdge, pixel_row(pixels, image, size, y));
  }
  return finite;
}

}  // namespace faceattr::cpu
