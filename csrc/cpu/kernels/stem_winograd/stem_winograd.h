// The stem by tiles of 4x4 outputs, which are 2x2 pooled ones: 7x7 convolution at stride 2, bias, ReLU and 2x2 max pool
// with 507 products per tile and output channel where a direct sum has 16 · 147 = 2352.
//
// Polyphase along each axis: output o is the sum over taps t of w[t] x[2 o + t]. The even taps and inputs make a filter
// of four taps at stride 1, the odd ones one of three. F(4, 4) computes four outputs of the first from seven products,
// at the points of F(5, 3) (winograd.h): ±1/4, ±7/8, ±7/4 and infinity; F(4, 3) those of the second from six, at the
// finite ones. Both end in the same transform Aᵀ, so their products add up before it, and a tile has 7x7 points:
//
//   tile = Aᵀ [ sum over c and the four combinations of even and odd of (Bᵀ d B) ∘ (G w Gᵀ) ] A
//
// A point that is finite along both axes sums 12 products (3 channels of each combination), at infinity along one axis
// 6, along both 3: 36 · 12 + 2 · 6 · 6 + 3 = 507.
#pragma once

#include <cstdint>

#include "cpu/kernels/stem_conv/stem_conv.h"

namespace faceattr::cpu {

constexpr int kStemTile = 4;         // outputs along an axis; half as many are left by the pool
constexpr int kStemTilePoints = 7;   // along an axis, infinity last
constexpr int kStemTileInputs = 13;  // values along an axis: seven of even number, six of odd
constexpr int kStemTileStep = 2 * kStemTile;
constexpr int kStemProducts = 507;

// Products that point (row, column) sums: a channel's are next to each other, then the columns' even and odd ones, then
// the rows'. Always inline: kernels compiled for newer instruction sets call these too.
[[gnu::always_inline]] constexpr int stem_point_products(int row, int column) {
  const int last = kStemTilePoints - 1;
  return kRgb * (row < last ? 2 : 1) * (column < last ? 2 : 1);
}
// Where they begin, points in row-major order: a row of finite points has 6 * 12 + 6 = 78.
[[gnu::always_inline]] constexpr int stem_point_begin(int row, int column) {
  return row * 78 + column * stem_point_products(row, 0);
}
static_assert(stem_point_begin(1, 0) == stem_point_begin(0, 6) + stem_point_products(0, 6));
static_assert(stem_point_begin(6, 6) + stem_point_products(6, 6) == kStemProducts);

// Tiles lie next to each other in vectors; `tile_pitch` is a multiple of 16 and larger than their number, and what lies
// behind them is computed and never read.
constexpr int stem_tile_pitch(int tiles) { return (tiles + 16) / 16 * 16; }

// A row of pixels, its columns transformed: dst[(c * 13 + j) * tile_pitch + tile], j = 0 … 6 the points of the even
// columns, then the six of the odd ones.
struct StemRowArgs {
  int width = 0;  // pixels
  int tiles = 0, tile_pitch = 0;
  const float* mean = nullptr;           // [3], of bytes
  const float* inverse_scale = nullptr;  // [3]
  float* scratch = nullptr;              // stem_row_scratch() floats
  float* dst = nullptr;
};
constexpr int stem_row_floats(int tile_pitch) { return kRgb * kStemTileInputs * tile_pitch; }
constexpr int stem_row_scratch(int tile_pitch) { return 2 * kStemTileStep * tile_pitch; }

struct StemTilesArgs {
  const float* inputs[kStemTileInputs] = {};  // of transformed columns
  int tiles = 0, tile_pitch = 0;
  float* transformed = nullptr;    // [507][tile_pitch]
  float* products = nullptr;       // [49][block][panel], of a block of tiles
  const float* weights = nullptr;  // [panel][507][panel width], zero-padded channels
  const float* bias = nullptr;     // padded to whole panels
  int out_channels = 0;
  int rows = 0, columns = 0;  // pooled outputs that exist; of the last tile of a row or column one may be missing
  // Pooled output (0, 0) of a map of floats, or of bfloat16.
  float* floats = nullptr;
  std::int16_t* bfloat16 = nullptr;
  std::int64_t row_pitch = 0, pixel_pitch = 0;
};

struct StemWinogradKernel {
  const char* name;
  int panel;  // output channels per panel
  int block;  // tiles
  void (*load_u8)(const StemRowArgs& args, const std::uint8_t* row);
  // Three float planes, already normalised. Returns false if a value is not finite.
  bool (*load_f32)(const StemRowArgs& args, const float* red, const float* green, const float* blue);
  void (*transform)(const StemTilesArgs& args);
  // All tiles, channels of one panel.
  void (*run)(const StemTilesArgs& args, int panel);
};

}  // namespace faceattr::cpu
