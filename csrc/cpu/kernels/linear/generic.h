// The algorithm of linear.h over any vector type: panels of two vectors.
#pragma once

#include "cpu/kernels/linear/linear.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

template <class Vec>
struct Linear {
  static constexpr int kVectors = 2;
  static constexpr int kPanel = kVectors * Vec::kWidth;
  static constexpr int kChains = 4;  // x 2 vectors = 8 independent sums: 4 cycles of latency at 2 multiply-adds a cycle

  static void run(const LinearArgs& args, int panel) {
    Vec total[kVectors];
    sum(args, args.weights + args.k * kPanel * panel, total);
    store(args, panel, total);
  }

  static void run_half(const LinearArgs& args, int panel) {
    Vec total[kVectors];
    sum(args, args.half_weights + args.k * kPanel * panel, total);
    for (int j = 0; j < kVectors; ++j) total[j] = total[j] * Vec::load(args.scale + panel * kPanel + j * Vec::kWidth);
    store(args, panel, total);
  }

 private:
  static Vec load(const float* weights) { return Vec::load(weights); }
  static Vec load(const std::uint16_t* weights) { return Vec::load_half(weights); }

  template <class Weight>
  static void sum(const LinearArgs& args, const Weight* weights, Vec (&total)[kVectors]) {
    for (int j = 0; j < kVectors; ++j) total[j] = Vec::zero();
    for (int p = 0; p < args.part_count; ++p) {
      const float* src = args.base + args.parts[p].offset;
      const std::int64_t count = args.parts[p].count;
      for (std::int64_t begin = 0; begin < count; begin += kLinearBlock) {
        const std::int64_t end = count - begin < kLinearBlock ? count : begin + kLinearBlock;
        block(src, weights, begin, end, total);
      }
      weights += count * kPanel;
    }
  }

  static void store(const LinearArgs& args, int panel, const Vec (&total)[kVectors]) {
    const int first = panel * kPanel;
    float values[kPanel];
    for (int j = 0; j < kVectors; ++j) {
      (total[j] + Vec::load(args.bias + first + j * Vec::kWidth)).store(values + j * Vec::kWidth);
    }
    for (int c = 0; c < kPanel && first + c < args.out_channels; ++c) args.dst[first + c] = values[c];
  }

  template <class Weight>
  static void block(const float* src, const Weight* weights, std::int64_t begin, std::int64_t end,
                    Vec (&total)[kVectors]) {
    Vec acc[kChains][kVectors];
    for (int u = 0; u < kChains; ++u) {
      for (int j = 0; j < kVectors; ++j) acc[u][j] = Vec::zero();
    }
    std::int64_t i = begin;
    for (; i + kChains <= end; i += kChains) {
#pragma GCC unroll 4
      for (int u = 0; u < kChains; ++u) add(src, weights, i + u, acc[u]);
    }
    for (; i < end; ++i) add(src, weights, i, acc[0]);
    for (int j = 0; j < kVectors; ++j) total[j] = total[j] + ((acc[0][j] + acc[1][j]) + (acc[2][j] + acc[3][j]));
  }

  template <class Weight>
  [[gnu::always_inline]] static inline void add(const float* src, const Weight* weights, std::int64_t i,
                                                Vec (&acc)[kVectors]) {
    const Vec x = Vec::broadcast(src + i);
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) acc[j].add_product(x, load(weights + i * kPanel + j * Vec::kWidth));
  }
};

}  // namespace
}  // namespace faceattr::cpu
