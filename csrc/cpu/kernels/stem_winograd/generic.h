// The algorithm of stem_winograd.h over any vector. Inputs are transformed with tiles in a vector, so pixels are first
// dealt to the columns of tiles; products and outputs have channels in a vector.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels/stem_winograd/stem_winograd.h"
#include "cpu/kernels/winograd/generic.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// `Narrow` says how a vector is stored as bfloat16.
template <class Narrow, int kBlock, int kVectors>
struct StemWinograd {
  using Vec = typename Narrow::Float;
  static constexpr int kWidth = Vec::kWidth;
  static constexpr int kPanel = kVectors * kWidth, kTiles = kBlock;
  static constexpr int kPoints = kStemTilePoints, kInputs = kStemTileInputs, kStep = kStemTileStep;
  static constexpr int kFinite = kPoints - 1;
  static constexpr int kPooled = kStemTile / 2;  // outputs of a tile along an axis

  static void load_u8(const StemRowArgs& args, const std::uint8_t* row) {
    float* line = args.scratch;
    for (int c = 0; c < kRgb; ++c) {
      const float mean = args.mean[c], inverse_scale = args.inverse_scale[c];
      float* pixels = begin_line(args);
      for (int x = 0; x < args.width; ++x) pixels[x] = (static_cast<float>(row[3 * x + c]) - mean) * inverse_scale;
      transform_line(args, line, c);
    }
  }

  static bool load_f32(const StemRowArgs& args, const float* red, const float* green, const float* blue) {
    constexpr std::uint32_t kExponent = 0x7f800000;  // all ones: infinity or NaN
    const float* planes[kRgb] = {red, green, blue};
    std::uint32_t bad = 0;
    for (int c = 0; c < kRgb; ++c) {
      const float* plane = planes[c];
      float* pixels = begin_line(args);
      for (int x = 0; x < args.width; ++x) {
        std::uint32_t bits;
        std::memcpy(&bits, plane + x, sizeof bits);
        bad |= (bits & kExponent) == kExponent;
        pixels[x] = plane[x];
      }
      transform_line(args, args.scratch, c);
    }
    return bad == 0;
  }

  static void transform(const StemTilesArgs& args) {
    const std::int64_t pitch = args.tile_pitch, point_row = stem_point_begin(1, 0) * pitch;
    for (int c = 0; c < kRgb; ++c) {
      for (int j = 0; j < kInputs; ++j) {
        const bool odd = j >= kPoints;
        const int column = odd ? j - kPoints : j;
        const int step = (odd ? kRgb : 0) + c, odd_row = column < kFinite ? 2 * kRgb : kRgb;
        float* finite = args.transformed + (stem_point_begin(0, column) + step) * pitch;
        float* infinite = args.transformed + (stem_point_begin(kFinite, column) + step) * pitch;
        const std::int64_t src = (c * kInputs + j) * pitch;
        for (int t = 0; t < args.tiles; t += kWidth) {
          Vec d[kInputs], o[kPoints];
#pragma GCC unroll 16
          for (int y = 0; y < kInputs; ++y) d[y] = Vec::load(args.inputs[y] + src + t);
          even(d, o);
#pragma GCC unroll 16
          for (int i = 0; i < kFinite; ++i) o[i].store(finite + i * point_row + t);
          o[kFinite].store(infinite + t);
          odds(d, o);
#pragma GCC unroll 16
          for (int i = 0; i < kFinite; ++i) o[i].store(finite + i * point_row + odd_row * pitch + t);
        }
      }
    }
  }

  static void run(const StemTilesArgs& args, int panel) {
    int t = 0;
    for (; t + kBlock <= args.tiles; t += kBlock) tiles<kBlock>(args, t, panel);
    if (t < args.tiles && args.tiles >= kBlock) {
      tiles<kBlock>(args, args.tiles - kBlock, panel);  // some of them once more, to the same bits
    } else {
      for (; t < args.tiles; ++t) tiles<1>(args, t, panel);
    }
  }

 private:
  using Axis = Winograd5x5Axis<Vec>;

  // Zeros where padding and missing tiles are; returns where the pixels go.
  static float* begin_line(const StemRowArgs& args) {
    float* line = args.scratch;
    const int end = kStemPad + args.width, all = kStep * args.tile_pitch;
    for (int x = 0; x < kStemPad; ++x) line[x] = 0.0f;
    for (int x = end; x < all; ++x) line[x] = 0.0f;
    return line + kStemPad;
  }

  // Column x of tile t, pixel 8 t + x, is value t of the line of pixels x, x + 8, …
  static void transform_line(const StemRowArgs& args, const float* line, int c) {
    const std::int64_t pitch = args.tile_pitch;
    float* columns = args.scratch + kStep * pitch;  // [8][tile_pitch], the next tile's columns follow
    for (int t = 0; t <= args.tiles; t += kWidth) {
      Vec v[kStep], w[kStep];
#pragma GCC unroll 8
      for (int i = 0; i < kStep; ++i) v[i] = Vec::load(line + kStep * t + i * kWidth);
      // Three rounds; in each, one bit of a value's column becomes one of its vector's number.
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) Vec::deal(v[2 * i], v[2 * i + 1], w[i], w[4 + i]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) Vec::deal(w[2 * i], w[2 * i + 1], v[i % 2 + i / 2 * 4], v[i % 2 + i / 2 * 4 + 2]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) Vec::deal(v[2 * i], v[2 * i + 1], w[i], w[4 + i]);
      constexpr int kColumns[kStep] = {0, 2, 1, 3, 4, 6, 5, 7};
#pragma GCC unroll 8
      for (int i = 0; i < kStep; ++i) w[i].store(columns + kColumns[i] * pitch + t);
    }
    float* dst = args.dst + c * kInputs * pitch;
    for (int t = 0; t < args.tiles; t += kWidth) {
      Vec d[kInputs], o[kPoints];
#pragma GCC unroll 16
      for (int x = 0; x < kInputs; ++x) d[x] = Vec::load(columns + x % kStep * pitch + t + x / kStep);
      even(d, o);
#pragma GCC unroll 16
      for (int j = 0; j < kPoints; ++j) o[j].store(dst + j * pitch + t);
      odds(d, o);
#pragma GCC unroll 16
      for (int j = 0; j < kFinite; ++j) o[j].store(dst + (kPoints + j) * pitch + t);
    }
  }

  [[gnu::always_inline]] static inline void even(const Vec (&d)[kInputs], Vec (&o)[kPoints]) {
    const Vec inputs[kPoints] = {d[0], d[2], d[4], d[6], d[8], d[10], d[12]};
    Axis::template input<0>(inputs, o);
    Axis::template input<1>(inputs, o);
    Axis::template input<2>(inputs, o);
    Axis::template input<3>(inputs, o);
  }

  // The rows of finite points are the same without infinity.
  [[gnu::always_inline]] static inline void odds(const Vec (&d)[kInputs], Vec (&o)[kPoints]) {
    const Vec inputs[kPoints] = {d[1], d[3], d[5], d[7], d[9], d[11], Vec::zero()};
    Axis::template input<0>(inputs, o);
    Axis::template input<1>(inputs, o);
    Axis::template input<2>(inputs, o);
  }

  // As F(5, 3)'s, without its last output: there, infinity adds to the fourth.
  [[gnu::always_inline]] static inline void output(const Vec (&m)[kPoints], Vec (&o)[kStemTile]) {
    constexpr float p = Axis::kP, q = Axis::kQ, r = Axis::kR;
    const Vec sum1 = m[0] + m[1], sum2 = m[2] + m[3], sum3 = m[4] + m[5];
    const Vec difference1 = m[0] - m[1], difference2 = m[2] - m[3], difference3 = m[4] - m[5];
    o[0] = (sum1 + sum2) + sum3;
    o[1] = plus(plus(constant<Vec>(p) * difference1, q, difference2), r, difference3);
    o[2] = plus(plus(constant<Vec>(p * p) * sum1, q * q, sum2), r * r, sum3);
    o[3] = plus(plus(plus(m[6], p * p * p, difference1), q * q * q, difference2), r * r * r, difference3);
  }

  template <int kCount>
  static void tiles(const StemTilesArgs& args, int first, int panel) {
    multiply<kCount>(args, first, panel);
    for (int t = 0; t < kCount; ++t) {
      for (int j = 0; j < kVectors; ++j) pool<kCount>(args, t, first + t, panel * kPanel, j * kWidth);
    }
  }

  template <int kCount>
  [[gnu::noinline]] static void multiply(const StemTilesArgs& args, int first, int panel) {
    const std::int64_t pitch = args.tile_pitch;
    const float* weights = args.weights + std::int64_t{kStemProducts} * kPanel * panel;
    const float* values = args.transformed + first;
    float* products = args.products;
    for (int row = 0; row < kPoints; ++row) {
      for (int column = 0; column < kPoints; ++column) {
        Vec acc[kCount][kVectors];
#pragma GCC unroll 16
        for (int t = 0; t < kCount; ++t) {
#pragma GCC unroll 8
          for (int j = 0; j < kVectors; ++j) acc[t][j] = Vec::zero();
        }
        const int count = stem_point_products(row, column);
#pragma GCC unroll 1
        for (int i = 0; i < count; i += kRgb) {
#pragma GCC unroll 3
          for (int c = 0; c < kRgb; ++c) {
            Vec w[kVectors];
#pragma GCC unroll 8
            for (int j = 0; j < kVectors; ++j) w[j] = Vec::load(weights + j * kWidth);
#pragma GCC unroll 16
            for (int t = 0; t < kCount; ++t) {
              const Vec value = Vec::broadcast(values + t);
#pragma GCC unroll 8
              for (int j = 0; j < kVectors; ++j) acc[t][j].add_product(value, w[j]);
            }
            weights += kPanel;
            values += pitch;
          }
        }
#pragma GCC unroll 16
        for (int t = 0; t < kCount; ++t) {
#pragma GCC unroll 8
          for (int j = 0; j < kVectors; ++j) acc[t][j].store(products + t * kPanel + j * kWidth);
        }
        products += kCount * kPanel;
      }
    }
  }

  // Of the arguments, by value: what is stored through its pointers cannot change it.
  struct Pooled {
    int rows, columns, out_channels;
    float* floats;
    std::int16_t* bfloat16;
    std::int64_t row_pitch, pixel_pitch;
  };

  template <int kCount>
  static void pool(const StemTilesArgs& all, int block_tile, int tile, int first, int channel) {
    const Pooled args = {all.rows,     all.columns,   all.out_channels, all.floats,
                         all.bfloat16, all.row_pitch, all.pixel_pitch};
    const Vec bias = Vec::load(all.bias + first + channel);
    const float* src = all.products + block_tile * kPanel + channel;
    Vec rows[kStemTile][kPoints];
#pragma GCC unroll 16
    for (int x = 0; x < kPoints; ++x) {
      Vec m[kPoints], o[kStemTile];
#pragma GCC unroll 16
      for (int y = 0; y < kPoints; ++y) m[y] = Vec::load(src + (y * kPoints + x) * kCount * kPanel);
      output(m, o);
#pragma GCC unroll 16
      for (int y = 0; y < kStemTile; ++y) rows[y][x] = o[y];
    }
#pragma GCC unroll 2
    for (int y = 0; y < kPooled; ++y) {
      if (y >= args.rows) break;
      Vec upper[kStemTile], lower[kStemTile];
      output(rows[2 * y], upper);
      output(rows[2 * y + 1], lower);
#pragma GCC unroll 2
      for (int x = 0; x < kPooled; ++x) {
        const int column = kPooled * tile + x;
        if (column >= args.columns) break;
        const Vec most = upper[2 * x].max(upper[2 * x + 1]).max(lower[2 * x].max(lower[2 * x + 1]));
        store(args, (most + bias).max(Vec::zero()), y * args.row_pitch + column * args.pixel_pitch + first + channel,
              args.out_channels - first - channel);
      }
    }
  }

  [[gnu::always_inline]] static inline void store(const Pooled& args, Vec value, std::int64_t at, int channels) {
    if (channels >= kWidth) {
      if (args.floats != nullptr) return value.store(args.floats + at);
      return Narrow::store_narrow(args.bfloat16 + at, value, 0, 0);
    }
    float floats[kWidth];
    std::int16_t narrow[kWidth];
    value.store(floats);
    Narrow::store_narrow(narrow, value, 0, 0);
    for (int i = 0; i < channels; ++i) {
      if (args.floats != nullptr) {
        args.floats[at + i] = floats[i];
      } else {
        args.bfloat16[at + i] = narrow[i];
      }
    }
  }
};

template <class Kernel>
constexpr StemWinogradKernel stem_winograd(const char* name) {
  return {name, Kernel::kPanel, Kernel::kTiles, Kernel::load_u8, Kernel::load_f32, Kernel::transform, Kernel::run};
}

}  // namespace
}  // namespace faceattr::cpu
