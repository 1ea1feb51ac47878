// Winograd's F(4x4, 3x3) for stride-1 3x3 convolutions: 36 products for 16 outputs where a direct convolution needs
// 144.
//
//   dst tile = Aᵀ [ sum over c of (Bᵀ d_c B) ∘ U_c ] A,   U = G w Gᵀ (computed in float64 when the plan is compiled)
//
// with d the 6x6 input of a 4x4 output tile. These are the two transforms around the products, which are 36 matrix
// products over tiles (segmented_conv, one position per tile). Matrices: Lavin & Gray, "Fast Algorithms for
// Convolutional Neural Networks", 2015, points 0, ±1, ±2 and infinity.
#pragma once

#include <cstdint>

namespace faceattr::cpu {

constexpr int kWinogradOutput = 4;                                // side of an output tile
constexpr int kWinogradInput = kWinogradOutput + 2;               // side of its input
constexpr int kWinogradPoints = kWinogradInput * kWinogradInput;  // products per tile and channel

struct WinogradInputArgs {
  const float* src = nullptr;  // first value of the tile's input, in the bordered source
  std::int64_t row_pitch = 0, pixel_pitch = 0;
  int rows = 0, columns = 0;  // of the input that exist; the rest of a tile at the lower or right edge counts as zero
  int channels = 0;
  float* dst = nullptr;  // [point][…]: channels contiguous, point_pitch floats from one point to the next
  std::int64_t point_pitch = 0;
};

struct WinogradOutputArgs {
  const float* src = nullptr;  // [point][…] as above
  std::int64_t point_pitch = 0;
  int channels = 0;
  const float* bias = nullptr;
  const float* residual = nullptr;  // added; may be dst; null: nothing
  std::int64_t residual_row_pitch = 0, residual_pixel_pitch = 0;
  bool relu = false;
  float* dst = nullptr;  // first output of the tile
  std::int64_t dst_row_pitch = 0, dst_pixel_pitch = 0;
  int rows = 0, columns = 0;  // of the tile that exist; nothing else is written
};

struct WinogradKernel {
  const char* name;
  void (*input)(const WinogradInputArgs& args);
  void (*output)(const WinogradOutputArgs& args);
};

}  // namespace faceattr::cpu
