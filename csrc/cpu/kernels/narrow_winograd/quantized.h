// The transforms of narrow_winograd.h on integers: input over kInput values of 16 bits at once, output over any vector
// of sums.
#pragma once

#include <cstring>

#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/kernels/narrow_winograd/narrow_winograd.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

template <class Sums, int kInput>
struct QuantizedWinograd {
  static void input(const NarrowInputArgs& args) {
    args.bytes != nullptr ? transform_inputs(args, args.bytes) : transform_inputs(args, args.src);
  }

  static void output(const NarrowOutputArgs& args) {
    int c = 0;
    for (; c + Sums::kWidth <= args.channels; c += Sums::kWidth) transform_output<Sums>(args, c);
    for (; c < args.channels; ++c) transform_output<typename Sums::Single>(args, c);
  }

 private:
  static constexpr int kSide = kWinograd2x2.side, kOut = kWinograd2x2.output;

  template <class Value>
  [[gnu::always_inline]] static inline void transform_inputs(const NarrowInputArgs& args, const Value* src) {
    int c = 0;
    for (; c + kInput <= args.channels; c += kInput) transform_input<kInput>(args, src, c);
    for (; c < args.channels; c += 4) transform_input<4>(args, src, c);
  }

  // Bᵀ d B, rows first: Bᵀ = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1].
  template <int N, class Value>
  [[gnu::always_inline]] static inline void transform_input(const NarrowInputArgs& args, const Value* src,
                                                            int channel) {
    // Unsigned: channels that only fill a position up hold anything, and may overflow.
    typedef std::uint16_t Vec __attribute__((vector_size(2 * N)));
    typedef Value Stored __attribute__((vector_size(sizeof(Value) * N)));
    const Vec low = Vec{} + static_cast<std::uint16_t>(args.low);
    Vec rows[kSide][kSide];  // [point along y][x]
    for (int x = 0; x < kSide; ++x) {
      Vec d[kSide];
      for (int y = 0; y < kSide; ++y) {
        d[y] = Vec{};
        if (y < args.rows && x < args.columns) {
          Stored stored;
          std::memcpy(&stored, src + y * args.row_pitch + x * args.pixel_pitch + channel, sizeof stored);
          d[y] = __builtin_convertvector(stored, Vec);
          if constexpr (sizeof(Value) == 1) d[y] += low;
        }
      }
      rows[0][x] = d[0] - d[2];
      rows[1][x] = d[1] + d[2];
      rows[2][x] = d[2] - d[1];
      rows[3][x] = d[1] - d[3];
    }
    std::int16_t* dst = args.dst + channel;
    const auto put = [&](Vec point) {
      std::memcpy(dst, &point, sizeof(Vec));
      dst += args.point_pitch;
    };
    for (int y = 0; y < kSide; ++y) {
      put(rows[y][0] - rows[y][2]);
      put(rows[y][1] + rows[y][2]);
      put(rows[y][2] - rows[y][1]);
      put(rows[y][1] - rows[y][3]);
    }
  }

  // Aᵀ m A / 4: Aᵀ = [1 1 1 0; 0 1 -1 -1].
  template <class Vec>
  [[gnu::always_inline]] static inline void transform_output(const NarrowOutputArgs& args, int channel) {
    Vec rows[kOut][kSide];  // [y][point along x]
    for (int x = 0; x < kSide; ++x) {
      const auto m = [&](int y) { return Vec::load(args.src + (y * kSide + x) * args.point_pitch + channel); };
      const Vec sum = m(1) + m(2), difference = m(1) - m(2);
      rows[0][x] = m(0) + sum;
      rows[1][x] = difference - m(3);
    }
    for (int y = 0; y < args.rows; ++y) {
      const Vec sum = rows[y][1] + rows[y][2], difference = rows[y][1] - rows[y][2];
      const Vec outputs[kOut] = {rows[y][0] + sum, difference - rows[y][3]};
      for (int x = 0; x < args.columns; ++x) {
        Vec value = outputs[x].quarter();
        if (args.direct != nullptr) {
          value = value + Vec::load(args.direct + y * args.direct_row_pitch + x * args.direct_pixel_pitch + channel);
        }
        store_sums(args.store, value, Places::at(args.store, args.row + y, args.column + x),
                   args.first_channel + channel);
      }
    }
  }
};

}  // namespace
}  // namespace faceattr::cpu
