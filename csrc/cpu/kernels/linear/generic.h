// The algorithm of linear.h over any vector type: panels of two vectors.
#pragma once

#include "cpu/kernels/linear/linear.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

template <class Vec, int kImages = 1>
struct Linear {
  static constexpr int kVectors = 2;
  static constexpr int kPanel = kVectors * Vec::kWidth;
  static constexpr int kChains = 4;  // x 2 vectors = 8 independent sums: 4 cycles of latency at 2 multiply-adds a cycle

  static void run(const LinearArgs& args, int panel) { all_images(args, args.weights, panel); }
  static void run_half(const LinearArgs& args, int panel) { all_images(args, args.half_weights, panel); }

 private:
  static Vec load(const float* weights) { return Vec::load(weights); }
  static Vec load(const std::uint16_t* weights) { return Vec::load_half(weights); }

  template <class Weight>
  static void all_images(const LinearArgs& args, const Weight* weights, int panel) {
    weights += args.k * kPanel * panel;
    int image = 0;
    for (; image + kImages <= args.images; image += kImages) some_images<kImages>(args, weights, image, panel);
    for (; image < args.images; ++image) some_images<1>(args, weights, image, panel);
  }

  template <int kCount, class Weight>
  static void some_images(const LinearArgs& args, const Weight* weights, int image, int panel) {
    Vec total[kCount][kVectors];
    for (int n = 0; n < kCount; ++n) {
      for (int j = 0; j < kVectors; ++j) total[n][j] = Vec::zero();
    }
    for (int p = 0; p < args.part_count; ++p) {
      const float* src = args.base + image * args.image_pitch + args.parts[p].offset;
      const std::int64_t count = args.parts[p].count;
      for (std::int64_t begin = 0; begin < count; begin += kLinearBlock) {
        const std::int64_t end = count - begin < kLinearBlock ? count : begin + kLinearBlock;
        block(src, args.image_pitch, weights, begin, end, total);
      }
      weights += count * kPanel;
    }
    for (int n = 0; n < kCount; ++n) store<Weight>(args, args.dst + (image + n) * args.image_pitch, panel, total[n]);
  }

  template <class Weight>
  static void store(const LinearArgs& args, float* dst, int panel, const Vec (&total)[kVectors]) {
    const int first = panel * kPanel;
    float values[kPanel];
    for (int j = 0; j < kVectors; ++j) {
      Vec value = total[j];
      if constexpr (sizeof(Weight) == 2) value = value * Vec::load(args.scale + first + j * Vec::kWidth);
      (value + Vec::load(args.bias + first + j * Vec::kWidth)).store(values + j * Vec::kWidth);
    }
    for (int c = 0; c < kPanel && first + c < args.out_channels; ++c) dst[first + c] = values[c];
  }

  template <int kCount, class Weight>
  static void block(const float* src, std::int64_t pitch, const Weight* weights, std::int64_t begin, std::int64_t end,
                    Vec (&total)[kCount][kVectors]) {
    Vec acc[kChains][kCount][kVectors];
#pragma GCC unroll 4
    for (int u = 0; u < kChains; ++u) {
#pragma GCC unroll 4
      for (int n = 0; n < kCount; ++n) {
        for (int j = 0; j < kVectors; ++j) acc[u][n][j] = Vec::zero();
      }
    }
    std::int64_t i = begin;
    for (; i + kChains <= end; i += kChains) {
#pragma GCC unroll 4
      for (int u = 0; u < kChains; ++u) add(src, pitch, weights, i + u, acc[u]);
    }
    for (; i < end; ++i) add(src, pitch, weights, i, acc[0]);
#pragma GCC unroll 4
    for (int n = 0; n < kCount; ++n) {
      for (int j = 0; j < kVectors; ++j) {
        total[n][j] = total[n][j] + ((acc[0][n][j] + acc[1][n][j]) + (acc[2][n][j] + acc[3][n][j]));
      }
    }
  }

  template <int kCount, class Weight>
  [[gnu::always_inline]] static inline void add(const float* src, std::int64_t pitch, const Weight* weights,
                                                std::int64_t i, Vec (&acc)[kCount][kVectors]) {
    Vec w[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) w[j] = load(weights + i * kPanel + j * Vec::kWidth);
#pragma GCC unroll 4
    for (int n = 0; n < kCount; ++n) {
      const Vec x = Vec::broadcast(src + n * pitch + i);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) acc[n][j].add_product(x, w[j]);
    }
  }
};

}  // namespace
}  // namespace faceattr::cpu
