// The transforms of winograd.h for narrow maps, around matrix products over tiles (narrow_conv, one position per tile).
// Two families:
//
//   quantized: at stride 1 F(2x2, 3x3), 16 products for 4 outputs where a direct convolution needs 36, and F(4x4, 3x3),
//     36 for 16 instead of 144, and still the very same integers:
//
//       s · dst tile = Aᵀ [ sum over c of (Bᵀ d_c B) ∘ U_c ] A,   U = G w Gᵀ,   s = 4 or 576
//
//     with d the input of a tile. Every number is an integer (quantized.h has the matrices); |Bᵀ d B| and |U| fit 16
//     bits: 4 · 255 and 9 · 127 for F(2x2); 17340 and 18288 for F(4x4). From there on arithmetic is modulo 2^32, which
//     is exact for what fits: 4 · dst up to kQuantizedWinogradChannels channels; 576 · dst does not, but 9 has an
//     inverse modulo 2^32, which leaves 64 · dst, and that fits up to kQuantizedWinogradWeights. Points: Lavin & Gray,
//     "Fast Algorithms for Convolutional Neural Networks", 2015: 0, ±1, ±2 and infinity;
//   bfloat16: every form of winograd.h. Transforms are in float32; points and U are rounded to bfloat16, sums
//     of products are float32.
//
// Then as narrow_conv stores them.
#pragma once

#include <cstdint>

#include "cpu/kernels/narrow_conv/narrow_conv.h"
#include "cpu/kernels/winograd/winograd.h"

namespace faceattr::cpu {

struct NarrowInputArgs {
  const std::int16_t* src = nullptr;    // first value of the tile's input, in the bordered source
  const std::uint8_t* bytes = nullptr;  // instead, in levels that store integers so: their distances from `low`
  int low = 0;
  std::int64_t row_pitch = 0, pixel_pitch = 0;
  int rows = 0, columns = 0;    // of the input that exist; the rest of a tile at the lower or right edge counts as zero
  int channels = 0;             // a multiple of 4
  std::int16_t* dst = nullptr;  // [point][…]: channels contiguous, point_pitch values from one point to the next
  std::int64_t point_pitch = 0;
};

struct NarrowOutputArgs {
  const std::int32_t* src = nullptr;  // [point][…] as above: sums of 32 bits, of bfloat16 the bits of floats
  std::int64_t point_pitch = 0;
  const std::int32_t* direct = nullptr;  // sums to add, of the tile's first output, or null
  std::int64_t direct_row_pitch = 0, direct_pixel_pitch = 0;
  int first_channel = 0, channels = 0;  // of the destination
  int row = 0, column = 0;              // of the tile's first output
  int rows = 0, columns = 0;            // of the tile that exist; nothing else is written
  NarrowStore store;
};

struct NarrowWinogradTransforms {
  const char* name;
  WinogradForm form;
  void (*input)(const NarrowInputArgs& args);
  void (*output)(const NarrowOutputArgs& args);
};

// Of one instruction set, in the order of kWinogradForms; of integers only the first two.
struct QuantizedWinogradKernel {
  NarrowWinogradTransforms transforms[2];
};
struct Bfloat16WinogradKernel {
  NarrowWinogradTransforms transforms[kWinogradFormCount];
};

}  // namespace faceattr::cpu
