// 3x3 convolutions by tiles of 4x4 outputs, with fewer products than the 144 per channel of a direct convolution:
//
//   dst tile = Aᵀ [ sum over c of (Bᵀ d_c B) ∘ U_c ] A,   U = G w Gᵀ (computed in float64 when the plan is compiled)
//
// with d the input of the tile. These are the two transforms around the products, which are one matrix product over
// tiles per point (segmented_conv, one position per tile). Two forms:
//
// Stride 1, F(4x4, 3x3): 6x6 inputs, 36 points. Matrices: Lavin & Gray, "Fast Algorithms for Convolutional Neural
// Networks", 2015, points 0, ±1, ±2 and infinity.
//
// Stride 2, polyphase: along one axis, output o is w0 x[2o-1] + w1 x[2o] + w2 x[2o+1]. The odd inputs make a filter of
// two taps at stride 1, of which F(4, 2) computes four outputs with five products (points 0, ±1, 2 and infinity); the
// even ones go with one tap, four products. So 9x9 inputs become 9x9 points, five transformed and four as they are
// along each axis. The 4x4 points that are untransformed along both are left out: they are a 1x1 convolution at stride
// 2 with the centre tap, which the caller adds. 65 points remain, and 16 products of that 1x1.
#pragma once

#include <cstdint>

namespace faceattr::cpu {

constexpr int kWinogradOutput = 4;  // side of an output tile

// Points and filters are in row-major order: first the rows of transformed points, with `side` columns each; then the
// others, with `transformed` columns. Always inline: kernels compiled for newer instruction sets call these too.
struct WinogradForm {
  int stride;
  int side;         // of a tile's input, and of its points
  int transformed;  // points along one axis that are sums of inputs; the rest are inputs

  [[gnu::always_inline]] constexpr int point(int row, int column) const {
    return row < transformed ? row * side + column : transformed * side + (row - transformed) * transformed + column;
  }
  [[gnu::always_inline]] constexpr bool has_point(int row, int column) const {
    return row < transformed || column < transformed;
  }
  [[gnu::always_inline]] constexpr int points() const { return point(side, 0); }
  // Points that are inputs along an axis share their filter.
  [[gnu::always_inline]] constexpr int filter(int row, int column) const {
    const int axis = transformed < side ? transformed + 1 : side;
    return (row < transformed ? row : transformed) * axis + (column < transformed ? column : transformed);
  }
  [[gnu::always_inline]] constexpr int filters() const { return filter(side - 1, transformed - 1) + 1; }
};

constexpr WinogradForm kWinograd4x4 = {1, 6, 6};
constexpr WinogradForm kPolyphase4x4 = {2, 9, 5};
static_assert(kWinograd4x4.points() == 36 && kWinograd4x4.filters() == 36);
static_assert(kPolyphase4x4.points() == 65 && kPolyphase4x4.filters() == 35);

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
  WinogradForm form;
  void (*input)(const WinogradInputArgs& args);
  void (*output)(const WinogradOutputArgs& args);
};
using PolyphaseKernel = WinogradKernel;  // a family of its own in kernel_list.inc

}  // namespace faceattr::cpu
