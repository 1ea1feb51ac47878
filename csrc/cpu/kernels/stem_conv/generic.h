// The algorithm of stem_conv.h over any vector: a tile of 4 * kPooled outputs by kVectors vectors of channels is
// accumulated in registers. Offsets within a row are constants: two addresses serve a tile of any size.
#pragma once

#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/kernels/segmented_conv/positions.h"
#include "cpu/kernels/stem_conv/stem_conv.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// Sums of floats with the interface of the narrow formats' vectors.
template <class Vec>
struct FloatSums {
  static constexpr int kWidth = Vec::kWidth;
  static constexpr bool kStoresBytes = false;
  using Float = Vec;
  using Single = FloatSums<PortableF32<1>>;
  Vec v;

  static FloatSums zero() { return {Vec::zero()}; }
  static FloatSums load(const void* p) { return {Vec::load(static_cast<const float*>(p))}; }
  void store(std::int32_t* p) const { v.store(reinterpret_cast<float*>(p)); }
  template <int kVectors>
  [[gnu::always_inline]] static inline void add_products(FloatSums (&sums)[kVectors], const float* value,
                                                         const FloatSums (&w)[kVectors]) {
    const Vec x = Vec::broadcast(value);
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) sums[j].v.add_product(x, w[j].v);
  }
  FloatSums max(FloatSums o) const { return {v.max(o.v)}; }
  using Scale = Vec;  // the bias
  template <class Store>
  static Scale scale(const Store& to, int channel) {
    return Vec::load(reinterpret_cast<const float*>(to.bias + channel));
  }
  Float value(Scale bias) const { return v + bias; }
  static void store_narrow(std::int16_t*, Float, float, float) {}  // never of floats
};

template <class Vec, int kPooled, int kVectors, int kGroup>
struct StemConv {
  using Value = typename Group<kGroup>::Value;
  using Weight = typename Group<kGroup>::Weight;
  static constexpr int kPanel = kVectors * Vec::kWidth;
  static constexpr bool kBytes = kGroup == 4;
  static constexpr int kRun = (kStemRow + (kBytes ? 0 : kGroup - 1)) / kGroup * kGroup;
  static constexpr int kLast = kBytes ? 8 : 0;  // the last values of all rows, in fours
  static constexpr int kStep = 2 * kRgb;        // from one output to the next

  static void run(const StemConvArgs& args, int panel) {
    if constexpr (kBytes) {
      if (args.biases[0][0] != nullptr) return run_tiles<true>(args, panel);
    }
    run_tiles<false>(args, panel);
  }

 private:
  template <bool kBiases>
  static void run_tiles(const StemConvArgs& args, int panel) {
    int x = args.begin;
    for (; x + kPooled <= args.end; x += kPooled) tile<kPooled, kBiases>(args, x, panel);
    if (x < args.end && args.end - args.begin >= kPooled) {
      tile<kPooled, kBiases>(args, args.end - kPooled, panel);  // some of it once more, to the same bits
    } else {
      for (; x < args.end; ++x) tile<1, kBiases>(args, x, panel);
    }
  }

  template <int kSize, bool kBiases>
  [[gnu::noinline]] static void tile(const StemConvArgs& args, int x, int panel) {
    constexpr int kColumns = 2 * kSize;
    Vec acc[2][kColumns][kVectors];
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {
#pragma GCC unroll 16
      for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; ++j) acc[r][c][j] = Vec::zero();
      }
    }
    const Weight* weights =
        static_cast<const Weight*>(args.weights) + (std::int64_t{kStemTaps} * kRun + kLast) * kPanel * panel;
    const Value* upper = static_cast<const Value*>(args.src) + 2 * kStep * x;
#pragma GCC unroll 1
    for (int ky = 0; ky < kStemTaps; ++ky, upper += args.pitch) {
      const Value* lower = upper + 2 * args.pitch;
#pragma GCC unroll 1
      for (int i = 0; i < kRun; i += kGroup, weights += kGroup * kPanel) {
        step<kStep>(acc, upper + i, lower + i, weights);
      }
    }
    if constexpr (kBytes) {
      const Value* last = args.last + 2 * kStemLastPitch * x;
#pragma GCC unroll 1
      for (int i = 0; i < kLast; i += kGroup, weights += kGroup * kPanel) {
        step<kStemLastPitch>(acc, last + i, last + i + 2, weights);
      }
    }
    Vec pooled[kSize][kVectors];
#pragma GCC unroll 16
    for (int p = 0; p < kSize; ++p) {
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; ++j) {
        if constexpr (kBiases) {
          for (int r = 0; r < 2; ++r) {
            for (int c = 0; c < 2; ++c) {
              const Vec bias = Vec::load(args.biases[r][c] + panel * kPanel + j * Vec::kWidth);
              acc[r][2 * p + c][j] = acc[r][2 * p + c][j] + acc[r][2 * p + c][j] + bias;
            }
          }
        }
        pooled[p][j] = acc[0][2 * p][j].max(acc[0][2 * p + 1][j]).max(acc[1][2 * p][j].max(acc[1][2 * p + 1][j]));
        if constexpr (kBytes && !kBiases) pooled[p][j] = pooled[p][j] + pooled[p][j];
      }
    }
    store_panel(args.store, pooled, kSize, args.out_channels, InRow(x, args.end), panel);
  }

  // A group of values of each output, `kBetween` from one column's to the next.
  template <int kBetween, int kColumns>
  [[gnu::always_inline]] static inline void step(Vec (&acc)[2][kColumns][kVectors], const Value* upper,
                                                 const Value* lower, const Weight* weights) {
    Vec w[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) w[j] = Vec::load(weights + kGroup * j * Vec::kWidth);
#pragma GCC unroll 16
    for (int c = 0; c < kColumns; ++c) {
      Vec::add_products(acc[0][c], upper + kBetween * c, w);
      Vec::add_products(acc[1][c], lower + kBetween * c, w);
    }
  }
};

}  // namespace
}  // namespace faceattr::cpu
