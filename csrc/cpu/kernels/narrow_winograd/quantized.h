// The transforms of narrow_winograd.h on integers: input over kInput values of 16 bits at once, output over any vector
// of sums.
#pragma once

#include <cstring>

#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/kernels/narrow_winograd/narrow_winograd.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// F(2x2) along an axis: Bᵀ = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1], Aᵀ = [1 1 1 0; 0 1 -1 -1], G =
// [2 0 0; 1 1 1; 1 -1 1; 0 0 2], twice the textbook's.
struct Quantized2x2Axis {
  static constexpr WinogradForm kForm = kWinograd2x2;

  template <class Vec>
  [[gnu::always_inline]] static inline void input(const Vec (&d)[4], Vec (&o)[4]) {
    o[0] = d[0] - d[2];
    o[1] = d[1] + d[2];
    o[2] = d[2] - d[1];
    o[3] = d[1] - d[3];
  }
  template <class Sums>
  [[gnu::always_inline]] static inline void output(const Sums (&m)[4], Sums (&o)[2]) {
    const Sums sum = m[1] + m[2], difference = m[1] - m[2];
    o[0] = m[0] + sum;
    o[1] = difference - m[3];
  }
  template <class Sums>
  [[gnu::always_inline]] static inline Sums result(Sums value) {
    return value.quarter();
  }
};

// F(4x4): rows of Bᵀ (4 0 -5 0 1 0), (0 -4 -4 1 1 0), (0 4 -4 -1 1 0), (0 -2 -1 2 1 0), (0 2 -1 -2 1 0),
// (0 4 0 -5 0 1); of Aᵀ the powers 0 to 3 of 0, 1, -1, 2, -2, and of infinity (0 0 0 2). G, 24 times the textbook's but
// for the last row, which 16 bits allow 12 times: (6 0 0), (-4 -4 -4), (-4 4 -4), (1 2 4), (1 -2 4), (0 0 12).
struct Quantized4x4Axis {
  static constexpr WinogradForm kForm = kWinograd4x4;

  template <class Vec>
  [[gnu::always_inline]] static inline void input(const Vec (&d)[6], Vec (&o)[6]) {
    const Vec even = d[4] - (d[2] << 2), odd = d[3] - (d[1] << 2);
    const Vec middle = d[4] - d[2], side = (d[3] - d[1]) << 1;
    o[0] = middle + ((d[0] - d[2]) << 2);
    o[1] = even + odd;
    o[2] = even - odd;
    o[3] = middle + side;
    o[4] = middle - side;
    o[5] = (d[5] - d[3]) - ((d[3] - d[1]) << 2);
  }
  template <class Sums>
  [[gnu::always_inline]] static inline void output(const Sums (&m)[6], Sums (&o)[4]) {
    const Sums sum1 = m[1] + m[2], difference1 = m[1] - m[2], sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    o[0] = m[0] + sum1 + sum2;
    o[1] = difference1 + difference2.template times_power<1>();
    o[2] = sum1 + sum2.template times_power<2>();
    o[3] = difference1 + difference2.template times_power<3>() + m[5].template times_power<1>();
  }
  template <class Sums>
  [[gnu::always_inline]] static inline Sums result(Sums value) {
    return value.over_576();
  }
};

template <class Sums, class Axis, int kInput>
struct QuantizedWinograd {
  static void input(const NarrowInputArgs& args) {
    args.bytes != nullptr ? transform_inputs(args, args.bytes) : transform_inputs(args, args.src);
  }

  static void output(const NarrowOutputArgs& all) {
    const NarrowOutputArgs args = all;  // by value: what is stored through its pointers cannot change it
    int c = 0;
    for (; c + Sums::kWidth <= args.channels; c += Sums::kWidth) transform_output<Sums>(args, c);
    for (; c < args.channels; ++c) transform_output<typename Sums::Single>(args, c);
  }

 private:
  static constexpr int kSide = Axis::kForm.side, kOut = Axis::kForm.output;

  template <class Value>
  [[gnu::always_inline]] static inline void transform_inputs(const NarrowInputArgs& args, const Value* src) {
    int c = 0;
    for (; c + kInput <= args.channels; c += kInput) transform_input<kInput>(args, src, c);
    for (; c < args.channels; c += 4) transform_input<4>(args, src, c);
  }

  // Bᵀ d B, rows first.
  template <int N, class Value>
  [[gnu::always_inline]] static inline void transform_input(const NarrowInputArgs& args, const Value* src,
                                                            int channel) {
    // Unsigned: channels that only fill a position up hold anything, and may overflow.
    typedef std::uint16_t Vec __attribute__((vector_size(2 * N)));
    typedef Value Stored __attribute__((vector_size(sizeof(Value) * N)));
    const Vec low = Vec{} + static_cast<std::uint16_t>(args.low);
    Vec rows[kSide][kSide];  // [point along y][x]
    for (int x = 0; x < kSide; ++x) {
      Vec d[kSide], o[kSide];
      for (int y = 0; y < kSide; ++y) {
        d[y] = Vec{};
        if (y < args.rows && x < args.columns) {
          Stored stored;
          std::memcpy(&stored, src + y * args.row_pitch + x * args.pixel_pitch + channel, sizeof stored);
          d[y] = __builtin_convertvector(stored, Vec);
          if constexpr (sizeof(Value) == 1) d[y] += low;
        }
      }
      Axis::input(d, o);
      for (int y = 0; y < kSide; ++y) rows[y][x] = o[y];
    }
    std::int16_t* dst = args.dst + channel;
    for (int y = 0; y < kSide; ++y) {
      Vec o[kSide];
      Axis::input(rows[y], o);
      for (int x = 0; x < kSide; ++x, dst += args.point_pitch) std::memcpy(dst, &o[x], sizeof(Vec));
    }
  }

  // Aᵀ m A, and what it is a multiple of. What is stored is decided once per tile.
  template <class Vec>
  [[gnu::always_inline]] static inline void transform_output(const NarrowOutputArgs& args, int channel) {
    Vec rows[kOut][kSide];  // [y][point along x]
#pragma GCC unroll 8
    for (int x = 0; x < kSide; ++x) {
      Vec m[kSide], o[kOut];
#pragma GCC unroll 8
      for (int y = 0; y < kSide; ++y) m[y] = Vec::load(args.src + (y * kSide + x) * args.point_pitch + channel);
      Axis::output(m, o);
#pragma GCC unroll 8
      for (int y = 0; y < kOut; ++y) rows[y][x] = o[y];
    }
    using Float = typename Vec::Float;
    const int stored = args.first_channel + channel;
    const auto scale = Vec::scale(args.store, stored);
    const Float inverse = args.store.inverse != nullptr ? Float::load(args.store.inverse + stored) : Float::zero();
    with_kind(args.store, [&](auto residual, auto floats, auto narrow) {
#pragma GCC unroll 1
      for (int y = 0; y < args.rows; ++y) {
        Vec outputs[kOut];
        Axis::output(rows[y], outputs);
#pragma GCC unroll 8
        for (int x = 0; x < kOut; ++x) {
          if (x >= args.columns) break;
          Vec value = Axis::result(outputs[x]);
          if (args.direct != nullptr) {
            value = value + Vec::load(args.direct + y * args.direct_row_pitch + x * args.direct_pixel_pitch + channel);
          }
          store_as<Vec, residual.value, floats.value, narrow.value>(
              args.store, value.value(scale), Places::at(args.store, args.row + y, args.column + x), stored,
              args.store.inverse != nullptr ? &inverse : nullptr);
        }
      }
    });
  }
};

template <class Sums, int kInput>
constexpr QuantizedWinogradKernel quantized_winograd(const char* name2x2, const char* name4x4) {
  using Two = QuantizedWinograd<Sums, Quantized2x2Axis, kInput>;
  using Four = QuantizedWinograd<Sums, Quantized4x4Axis, kInput>;
  return {{{name2x2, kWinograd2x2, Two::input, Two::output}, {name4x4, kWinograd4x4, Four::input, Four::output}}};
}

}  // namespace
}  // namespace faceattr::cpu
