// The algorithm of narrow_conv.h over any vector of pairs: a tile of kPixels positions by kVectors vectors of channels
// is accumulated in registers over all of K, two values at a time.
#pragma once

#include "cpu/kernels/narrow_conv/narrow_conv.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// The same steps, each rounded the same way, at any width of `Sums`. `value`: sum and bias.
template <class Sums>
[[gnu::always_inline]] inline void store_value(const NarrowStore& to, typename Sums::Float value, std::int64_t row,
                                               std::int64_t column, int channel) {
  using Float = typename Sums::Float;
  if (to.residual != nullptr) {
    value = value + Float::load(to.residual + row * to.residual_row_pitch + column * to.residual_pixel_pitch + channel);
  }
  if (to.relu) value = value.max(Float::zero());
  if (to.floats != nullptr) {
    value.store(to.floats + row * to.floats_row_pitch + column * to.floats_pixel_pitch + channel);
  }
  if (to.narrow != nullptr) {
    if (to.inverse != nullptr) value = value * Float::load(to.inverse + channel);
    std::int16_t* p = to.narrow + row * to.narrow_row_pitch + column * to.narrow_pixel_pitch + channel;
    Sums::store_narrow(p, value, to.low, to.low + 255.0f);
  }
}

template <class Sums>
[[gnu::always_inline]] inline void store_sums(const NarrowStore& to, Sums sum, std::int64_t row, std::int64_t column,
                                              int channel) {
  store_value<Sums>(to, sum.value(to, channel), row, column, channel);
}

template <class Vec, int kPixels, int kVectors>
struct NarrowConv {
  static constexpr int kPanel = kVectors * Vec::kWidth;

  static void run(const NarrowConvArgs& args, int pixel_begin, int pixel_end, int panel) {
    const int pixels = pixel_end - pixel_begin;
    const int tiles = (pixels + kPixels - 1) / kPixels;  // of nearly equal size, as in segmented_conv
    for (int t = 0; t < tiles; ++t) {
      const int begin = pixel_begin + static_cast<int>(static_cast<std::int64_t>(pixels) * t / tiles);
      const int end = pixel_begin + static_cast<int>(static_cast<std::int64_t>(pixels) * (t + 1) / tiles);
      dispatch<kPixels>(args, begin, end - begin, panel);
    }
  }

 private:
  template <int kSize>
  static void dispatch(const NarrowConvArgs& args, int pixel, int size, int panel) {
    if constexpr (kSize > 1) {
      if (size < kSize) return dispatch<kSize - 1>(args, pixel, size, panel);
    }
    tile<kSize>(args, pixel, panel);
  }

  template <int kSize>
  [[gnu::noinline]] static void tile(const NarrowConvArgs& args, int pixel, int panel) {
    std::int64_t rows[kSize], columns[kSize];
    rows[0] = pixel / args.out_width;
    columns[0] = pixel % args.out_width;
    for (int r = 1; r < kSize; ++r) {
      const bool wraps = columns[r - 1] + 1 == args.out_width;
      rows[r] = rows[r - 1] + (wraps ? 1 : 0);
      columns[r] = wraps ? 0 : columns[r - 1] + 1;
    }

    Vec acc[kSize][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) acc[r][j] = Vec::zero();
    }
    const std::int16_t* weights = args.weights + args.k * kPanel * panel;
    for (int s = 0; s < args.segment_count; ++s) {
      const ConvSegment& segment = args.segments[s];
      const std::int16_t* src[kSize];
      for (int r = 0; r < kSize; ++r) {
        src[r] = args.base + segment.offset + rows[r] * segment.row_step + columns[r] * segment.column_step;
      }
      for (int t = 0; t < segment.run_count; ++t) {
        accumulate<kSize>(acc, src, segment.runs[t], segment.run_length, weights);
        weights += static_cast<std::int64_t>(segment.run_length) * kPanel;
      }
    }
    for (int r = 0; r < kSize; ++r) finish(args, acc[r], rows[r], columns[r], panel);
  }

  // The hot loop: kVectors loads and kSize broadcasts feed 2 * kSize * kVectors * kWidth multiply-adds.
  template <int kSize>
  [[gnu::always_inline]] static inline void accumulate(Vec (&acc)[kSize][kVectors],
                                                       const std::int16_t* const (&src)[kSize], std::int64_t run,
                                                       int length, const std::int16_t* weights) {
    const std::int16_t* p[kSize];
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) p[r] = src[r] + run;
#pragma GCC unroll 1
    for (std::int64_t i = 0; i < length; i += 2) {
      Vec w[kVectors];
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) w[j] = Vec::load(weights + i * kPanel + 2 * j * Vec::kWidth);
#pragma GCC unroll 16
      for (int r = 0; r < kSize; ++r) {
        const Vec x = Vec::broadcast_pair(p[r] + i);
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) acc[r][j].add_products(x, w[j]);
      }
    }
  }

  [[gnu::always_inline]] static inline void finish(const NarrowConvArgs& args, const Vec (&acc)[kVectors],
                                                   std::int64_t row, std::int64_t column, int panel) {
    const int first = panel * kPanel;
    if (args.sums != nullptr) {
      std::int32_t* sums = args.sums + row * args.sums_row_pitch + column * args.sums_pixel_pitch + first;
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) acc[j].store(sums + j * Vec::kWidth);
      return;
    }
    const int channels = args.out_channels - first < kPanel ? args.out_channels - first : kPanel;
    if (channels == kPanel) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) store_sums(args.store, acc[j], row, column, first + j * Vec::kWidth);
    } else {  // the last panel of an unusual width
      using Single = typename Vec::Single;
      std::int32_t sums[kPanel];
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) acc[j].store(sums + j * Vec::kWidth);
      for (int c = 0; c < channels; ++c) store_sums(args.store, Single::load(sums + c), row, column, first + c);
    }
  }
};

}  // namespace
}  // namespace faceattr::cpu
