// 3x3 convolutions by tiles of outputs, with fewer products than the nine per output and channel of a direct one:
//
//   dst tile = Aᵀ [ sum over c of (Bᵀ d_c B) ∘ U_c ] A,   U = G w Gᵀ (computed in float64 when the plan is compiled)
//
// with d the input of the tile. These are the two transforms around the products, which are one matrix product over
// tiles per point (segmented_conv, one position per tile). Forms:
//
// Stride 1: F(2x2, 3x3) has 4x4 inputs and as many points; F(4x4, 3x3) 6x6; F(5x5, 3x3) 7x7 (Lavin & Gray, "Fast
// Algorithms for Convolutional Neural Networks", 2015). Along an axis, a matrix is given by its points, infinity last:
// 0, ±1; 0, ±11/16, ±3/2; ±1/4, ±7/8, ±7/4. Every factor of the transforms is a float32 number.
//
// Stride 2, polyphase: along one axis, output o is w0 x[2o-1] + w1 x[2o] + w2 x[2o+1]. The odd inputs make a filter of
// two taps at stride 1, of which F(4, 2) computes four outputs with five products (points ±7/16, ±5/4, infinity); the
// even ones go with one tap, four products. So 9x9 inputs become 9x9 points, five transformed and four as they are
// along each axis. The 4x4 points that are untransformed along both are left out: they are a 1x1 convolution at stride
// 2 with the centre tap, which the caller adds. 65 points remain, and 16 products of that 1x1.
#pragma once

#include <cstdint>

namespace faceattr::cpu {

// Points and filters are in row-major order: first the rows of transformed points, with `side` columns each; then the
// others, with `transformed` columns. Always inline: kernels compiled for newer instruction sets call these too.
struct WinogradForm {
  int stride;
  int output;       // side of a tile of outputs
  int side;         // of its input, and of its points
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
  // Whether the first `outputs` of a tile depend on a point along an axis: infinity, the last of the transformed ones,
  // is in the last output alone, and an input in its own.
  [[gnu::always_inline]] constexpr bool reaches(int point, int outputs) const {
    return point < transformed ? point + 1 < transformed || outputs == output : point - transformed < outputs;
  }
  [[gnu::always_inline]] constexpr int filters() const { return filter(side - 1, transformed - 1) + 1; }
};

constexpr WinogradForm kWinograd2x2 = {1, 2, 4, 4};
constexpr WinogradForm kWinograd4x4 = {1, 4, 6, 6};
constexpr WinogradForm kWinograd5x5 = {1, 5, 7, 7};
constexpr WinogradForm kPolyphase4x4 = {2, 4, 9, 5};
constexpr WinogradForm kWinogradForms[] = {kWinograd2x2, kWinograd4x4, kWinograd5x5, kPolyphase4x4};
constexpr int kWinogradFormCount = sizeof(kWinogradForms) / sizeof(kWinogradForms[0]);
static_assert(kWinograd4x4.points() == 36 && kWinograd4x4.filters() == 36);
static_assert(kPolyphase4x4.points() == 65 && kPolyphase4x4.filters() == 35);

// Index in kWinogradForms, or -1.
constexpr int winograd_form(int stride, int output) {
  for (int i = 0; i < kWinogradFormCount; ++i) {
    if (kWinogradForms[i].stride == stride && kWinogradForms[i].output == output) return i;
  }
  return -1;
}

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

struct WinogradTransforms {
  const char* name;
  WinogradForm form;
  void (*input)(const WinogradInputArgs& args);
  void (*output)(const WinogradOutputArgs& args);
};

// Of one instruction set, in the order of kWinogradForms.
struct WinogradKernel {
  WinogradTransforms transforms[kWinogradFormCount];
};

}  // namespace faceattr::cpu
