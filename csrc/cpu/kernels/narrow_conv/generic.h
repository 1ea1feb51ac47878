// The algorithm of narrow_conv.h over any vector of pairs, or of fours: a tile of kPixels positions by kVectors vectors
// of channels is accumulated in registers over all of K, kGroup values at a time.
#pragma once

#include "cpu/kernels/narrow_conv/narrow_conv.h"
#include "cpu/kernels/narrow_conv/store.h"
#include "cpu/kernels/segmented_conv/fetch.h"
#include "cpu/kernels/segmented_conv/positions.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// Values that one step of a sum takes.
template <int kGroup>
struct Group;
template <>
struct Group<1> {
  using Value = float;
  using Weight = float;
};
template <>
struct Group<2> {
  using Value = std::int16_t;
  using Weight = std::int16_t;
};
template <>
struct Group<4> {
  using Value = std::uint8_t;
  using Weight = std::int8_t;
};

template <class Vec, int kPixels, int kVectors, int kGroup = 2>
struct NarrowConv {
  using Value = typename Group<kGroup>::Value;
  using Weight = typename Group<kGroup>::Weight;
  static constexpr int kPanel = kVectors * Vec::kWidth;
  static constexpr int kRowBytes = kGroup * kPanel * sizeof(Weight);

  static void run(const NarrowConvArgs& args, int pixel_begin, int pixel_end, int panel) {
    const int pixels = pixel_end - pixel_begin;
    const int tiles = (pixels + kPixels - 1) / kPixels;  // of nearly equal size, as in segmented_conv
    for (int t = 0; t < tiles; ++t) {
      const int begin = pixel_begin + static_cast<int>(static_cast<std::int64_t>(pixels) * t / tiles);
      const int end = pixel_begin + static_cast<int>(static_cast<std::int64_t>(pixels) * (t + 1) / tiles);
      dispatch<kPixels>(args, begin, end - begin, panel, t, tiles);
    }
  }

 private:
  template <int kSize>
  static void dispatch(const NarrowConvArgs& args, int pixel, int size, int panel, int t, int tiles) {
    if constexpr (kSize > 1) {
      if (size < kSize) return dispatch<kSize - 1>(args, pixel, size, panel, t, tiles);
    }
    if constexpr (kSize == kPixels) {
      if (pixel % args.out_width + kSize <= args.out_width) {
        return fetching<kSize, InRow>(args, pixel, panel, t, tiles);
      }
    }
    fetching<kSize, Scattered<kSize>>(args, pixel, panel, t, tiles);
  }

  template <int kSize, class Positions>
  static void fetching(const NarrowConvArgs& args, int pixel, int panel, int t, int tiles) {
    const std::int64_t next = args.k * kPanel * sizeof(Weight) + fetch_begin<kRowBytes>(t, tiles);
    switch (fetch_of(t, tiles)) {
      case Fetch::kNothing:
      case Fetch::kLine:
        return tile<kSize, Positions, Fetch::kNothing>(args, pixel, panel, next);
      case Fetch::kHalf:
        return tile<kSize, Positions, Fetch::kHalf>(args, pixel, panel, next);
      case Fetch::kAll:
        return tile<kSize, Positions, Fetch::kAll>(args, pixel, panel, next);
    }
  }

  // `next`: bytes from a row of weights to what is fetched meanwhile.
  template <int kSize, class Positions, Fetch kFetch>
  [[gnu::noinline]] static void tile(const NarrowConvArgs& args, int pixel, int panel, std::int64_t next) {
    const Positions positions(pixel, args.out_width);
    Vec acc[kSize][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) acc[r][j] = Vec::zero();
    }
    const Weight* weights = static_cast<const Weight*>(args.weights) + args.k * kPanel * panel;
    for (int s = 0; s < args.segment_count; ++s) {
      const ConvSegment& segment = args.segments[s];
      const Value* src[kSize];
      for (int r = 0; r < kSize; ++r) {
        src[r] = static_cast<const Value*>(args.base) + segment.offset +
                 positions.offset(r, segment.row_step, segment.column_step);
      }
      for (int t = 0; t < segment.run_count; ++t) {
        accumulate<kSize, kFetch>(acc, src, segment.runs[t], segment.run_length, weights, next);
        weights += static_cast<std::int64_t>(segment.run_length) * kPanel;
      }
    }
    if (args.sums != nullptr) {
#pragma GCC unroll 16
      for (int r = 0; r < kSize; ++r) {
        std::int32_t* dst = args.sums + positions.offset(r, args.sums_row_pitch, args.sums_pixel_pitch);
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) acc[r][j].store(dst + panel * kPanel + j * Vec::kWidth);
      }
      return;
    }
    Vec sums[kSize][kVectors];  // in memory, and `acc` in registers alone
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) sums[r][j] = acc[r][j];
    }
    store_panel(args.store, sums, kSize, args.out_channels, positions, panel);
  }

  // The hot loop: kVectors loads and kSize broadcasts feed kGroup * kSize * kVectors * kWidth multiply-adds.
  template <int kSize, Fetch kFetch>
  [[gnu::always_inline]] static inline void accumulate(Vec (&acc)[kSize][kVectors], const Value* const (&src)[kSize],
                                                       std::int64_t run, int length, const Weight* weights,
                                                       std::int64_t next) {
    const Value* p[kSize];
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) p[r] = src[r] + run;
#pragma GCC unroll 1
    for (std::int64_t i = 0; i < length; i += kGroup) {
      fetch_row<kFetch, kRowBytes>(reinterpret_cast<const char*>(weights + i * kPanel) + next);
      Vec w[kVectors];
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) w[j] = Vec::load(weights + i * kPanel + kGroup * j * Vec::kWidth);
#pragma GCC unroll 16
      for (int r = 0; r < kSize; ++r) Vec::add_products(acc[r], p[r] + i, w);
    }
  }
};

}  // namespace
}  // namespace faceattr::cpu
