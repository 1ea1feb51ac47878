// The algorithm of segmented_conv.h over any vector type: a tile of kPixels positions by kVectors vectors of channels
// is accumulated in registers over all of K. With kLanes, one load of a position feeds Vec::kWidth steps of K: for
// targets whose multiply-add takes one lane of a register as its factor.
#pragma once

#include "cpu/kernels/segmented_conv/fetch.h"
#include "cpu/kernels/segmented_conv/positions.h"
#include "cpu/kernels/segmented_conv/segmented_conv.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

template <class Vec, int kPixels, int kVectors, bool kLanes = false>
struct SegmentedConv {
  static constexpr int kPanel = kVectors * Vec::kWidth;
  static constexpr int kRowBytes = kPanel * sizeof(float);
  // From what is fetched in one step of K to the next.
  template <Fetch kFetch>
  static constexpr std::int64_t kStep = kFetch == Fetch::kNothing ? 0
                                        : kFetch == Fetch::kLine  ? kCacheLine
                                                                  : kRowBytes;

  static std::int64_t run(const SegmentedConvArgs& args, int pixel_begin, int pixel_end, int panel) {
    // Tiles of nearly equal size: 49 positions are 4 x 6 + 5 x 5, not 8 x 6 + 1, whose last tile would wait for
    // latency.
    const int pixels = pixel_end - pixel_begin;
    const int tiles = (pixels + kPixels - 1) / kPixels;
    for (int t = 0; t < tiles; ++t) {
      const int begin = pixel_begin + static_cast<int>(static_cast<std::int64_t>(pixels) * t / tiles);
      const int end = pixel_begin + static_cast<int>(static_cast<std::int64_t>(pixels) * (t + 1) / tiles);
      if (args.k <= kShortSum) fetch_destination(args, begin, end, panel);
      dispatch<kPixels>(args, begin, end - begin, panel, t, tiles);
    }
    return args.ahead != nullptr && tiles > 2 ? (tiles - 2) * args.k * kCacheLine : 0;
  }

 private:
  // Stores of a tile are a few lines per position, which the caches send for in turn: 24 lines from the outer cache
  // take longer than the 768 cycles of a sum of 32 products per register on a Zen 4. Fetched before the sum, they come
  // while it is computed; sums that are longer hide what they take.
  static constexpr int kShortSum = 32;

  static void fetch_destination(const SegmentedConvArgs& args, int begin, int end, int panel) {
    for (int pixel = begin; pixel < end; ++pixel) {
      const float* dst = args.dst + pixel / args.out_width * args.dst_row_pitch +
                         pixel % args.out_width * args.dst_pixel_pitch + panel * kPanel;
      for (int i = 0; i < kRowBytes; i += kCacheLine) __builtin_prefetch(reinterpret_cast<const char*>(dst) + i, 1);
    }
  }

  template <int kSize>
  static void dispatch(const SegmentedConvArgs& args, int pixel, int size, int panel, int t, int tiles) {
    if constexpr (kSize > 1) {
      if (size < kSize) return dispatch<kSize - 1>(args, pixel, size, panel, t, tiles);
    }
    const auto* next = reinterpret_cast<const char*>(args.weights + args.k * kPanel * (panel + 1));
    switch (fetch_of(t, tiles)) {
      case Fetch::kNothing:
      case Fetch::kLine:
        if (args.ahead == nullptr) return tile<kSize, Fetch::kNothing>(args, pixel, panel, nullptr);
        return tile<kSize, Fetch::kLine>(args, pixel, panel, args.ahead + t * args.k * kCacheLine);
      case Fetch::kHalf:
        return tile<kSize, Fetch::kHalf>(args, pixel, panel, next + fetch_begin<kRowBytes>(t, tiles));
      case Fetch::kAll:
        return tile<kSize, Fetch::kAll>(args, pixel, panel, next);
    }
  }

  // `ahead`: what is fetched meanwhile.
  template <int kSize, Fetch kFetch>
  [[gnu::noinline]] static void tile(const SegmentedConvArgs& args, int pixel, int panel, const char* ahead) {
    const Scattered<kSize> positions(pixel, args.out_width);
    Vec acc[kSize][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) acc[r][j] = Vec::zero();
    }
    const float* weights = args.weights + args.k * kPanel * panel;
    for (int s = 0; s < args.segment_count; ++s) {
      const ConvSegment& segment = args.segments[s];
      const float* src[kSize];
      for (int r = 0; r < kSize; ++r) {
        src[r] = args.base + segment.offset + positions.offset(r, segment.row_step, segment.column_step);
      }
      for (int t = 0; t < segment.run_count; ++t) {
        accumulate<kSize, kFetch>(acc, src, segment.runs[t], segment.run_length, weights, ahead);
        weights += static_cast<std::int64_t>(segment.run_length) * kPanel;
        if constexpr (kFetch != Fetch::kNothing) ahead += segment.run_length * kStep<kFetch>;
      }
    }
    finish<kSize>(args, acc, positions, panel);
  }

  // The hot loop: kVectors weight loads and kSize broadcasts feed kSize * kVectors multiply-adds.
  template <int kSize, Fetch kFetch>
  [[gnu::always_inline]] static inline void accumulate(Vec (&acc)[kSize][kVectors], const float* const (&src)[kSize],
                                                       std::int64_t run, int length, const float* weights,
                                                       const char* ahead) {
    const float* p[kSize];
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) p[r] = src[r] + run;
    std::int64_t i = 0;
    if constexpr (kLanes) {
#pragma GCC unroll 1
      for (; i + Vec::kWidth <= length; i += Vec::kWidth) {
        Vec x[kSize];
#pragma GCC unroll 16
        for (int r = 0; r < kSize; ++r) x[r] = Vec::load(p[r] + i);
        accumulate_lanes<kSize, kFetch, 0>(acc, x, weights + i * kPanel, ahead + i * kStep<kFetch>);
      }
    }
#pragma GCC unroll 1
    for (; i < length; ++i) {
      Vec w[kVectors];
      load_weights<kFetch>(w, weights + i * kPanel, ahead + i * kStep<kFetch>);
#pragma GCC unroll 16
      for (int r = 0; r < kSize; ++r) {
        const Vec x = Vec::broadcast(p[r] + i);
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) acc[r][j].add_product(x, w[j]);
      }
    }
  }

  // Steps kLane and up of those that one load of each position feeds, in the order of K.
  template <int kSize, Fetch kFetch, int kLane>
  [[gnu::always_inline]] static inline void accumulate_lanes(Vec (&acc)[kSize][kVectors], const Vec (&x)[kSize],
                                                             const float* weights, const char* ahead) {
    Vec w[kVectors];
    load_weights<kFetch>(w, weights, ahead);
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) acc[r][j].template add_product_lane<kLane>(x[r], w[j]);
    }
    if constexpr (kLane + 1 < Vec::kWidth) {
      accumulate_lanes<kSize, kFetch, kLane + 1>(acc, x, weights + kPanel, ahead + kStep<kFetch>);
    }
  }

  template <Fetch kFetch>
  [[gnu::always_inline]] static inline void load_weights(Vec (&w)[kVectors], const float* weights, const char* ahead) {
    fetch_row<kFetch, kRowBytes>(ahead);
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) w[j] = Vec::load(weights + j * Vec::kWidth);
  }

  // Bias and shortcut come last: added first, a large shortcut would cost every partial sum its low bits.
  template <int kSize>
  [[gnu::always_inline]] static inline void finish(const SegmentedConvArgs& args, Vec (&acc)[kSize][kVectors],
                                                   const Scattered<kSize>& positions, int panel) {
    const int first = panel * kPanel;
    if (args.bias == nullptr) {
#pragma GCC unroll 16
      for (int r = 0; r < kSize; ++r) {
        float* dst = args.dst + positions.offset(r, args.dst_row_pitch, args.dst_pixel_pitch) + first;
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) acc[r][j].store(dst + j * Vec::kWidth);
      }
      return;
    }
    const int channels = args.out_channels - first < kPanel ? args.out_channels - first : kPanel;
#pragma GCC unroll 16
    for (int r = 0; r < kSize; ++r) {
      float* dst = args.dst + positions.offset(r, args.dst_row_pitch, args.dst_pixel_pitch) + first;
      const float* residual = args.residual;
      if (residual != nullptr) {
        residual += positions.offset(r, args.residual_row_pitch, args.residual_pixel_pitch) + first;
      }
      if (channels == kPanel) {
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) {
          Vec value = acc[r][j] + Vec::load(args.bias + first + j * Vec::kWidth);
          if (residual != nullptr) value = value + Vec::load(residual + j * Vec::kWidth);
          if (args.relu) value = value.max(Vec::zero());
          value.store(dst + j * Vec::kWidth);
        }
      } else {  // the last panel of an unusual width
        float values[kPanel];
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) {
          (acc[r][j] + Vec::load(args.bias + first + j * Vec::kWidth)).store(values + j * Vec::kWidth);
        }
        for (int c = 0; c < channels; ++c) {
          const float value = values[c] + (residual != nullptr ? residual[c] : 0.0f);
          dst[c] = args.relu && !(value > 0.0f) ? 0.0f : value;
        }
      }
    }
  }
};

}  // namespace
}  // namespace faceattr::cpu
