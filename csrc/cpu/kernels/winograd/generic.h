// The transforms of winograd.h over any vector type: each is its 1-d form on the columns, then on the rows. Channels
// that do not fill a vector run one by one, over a vector type of one.
#pragma once

#include "cpu/kernels/winograd/winograd.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// One float with the interface of a vector.
struct SingleF32 {
  static constexpr int kWidth = 1;
  float v;

  static SingleF32 zero() { return {0.0f}; }
  static SingleF32 load(const float* p) { return {*p}; }
  static SingleF32 broadcast(const float* p) { return {*p}; }
  void store(float* p) const { *p = v; }
  void add_product(SingleF32 a, SingleF32 b) { v += a.v * b.v; }
  SingleF32 operator+(SingleF32 o) const { return {v + o.v}; }
  SingleF32 operator-(SingleF32 o) const { return {v - o.v}; }
  SingleF32 operator*(SingleF32 o) const { return {v * o.v}; }
  SingleF32 max(SingleF32 o) const { return {v > o.v ? v : o.v}; }
};

template <class Vec>
struct WinogradTransforms {
  static constexpr int kIn = kWinogradInput, kOut = kWinogradOutput;

  static void input(const WinogradInputArgs& args, int c) {
    Vec t[kIn][kIn];  // Bᵀ d, [row][column]
#pragma GCC unroll 1
    for (int x = 0; x < kIn; ++x) {
      Vec d[kIn];
#pragma GCC unroll 8
      for (int y = 0; y < kIn; ++y) {
        const bool exists = y < args.rows && x < args.columns;
        d[y] = exists ? Vec::load(args.src + y * args.row_pitch + x * args.pixel_pitch + c) : Vec::zero();
      }
      Vec o[kIn];
      input_1d(d, o);
#pragma GCC unroll 8
      for (int y = 0; y < kIn; ++y) t[y][x] = o[y];
    }
#pragma GCC unroll 1
    for (int y = 0; y < kIn; ++y) {
      Vec o[kIn];
      input_1d(t[y], o);
#pragma GCC unroll 8
      for (int x = 0; x < kIn; ++x) o[x].store(args.dst + (y * kIn + x) * args.point_pitch + c);
    }
  }

  static void output(const WinogradOutputArgs& args, int c) {
    Vec t[kOut][kIn];  // Aᵀ m, [row][column]
#pragma GCC unroll 1
    for (int x = 0; x < kIn; ++x) {
      Vec m[kIn];
#pragma GCC unroll 8
      for (int y = 0; y < kIn; ++y) m[y] = Vec::load(args.src + (y * kIn + x) * args.point_pitch + c);
      Vec o[kOut];
      output_1d(m, o);
#pragma GCC unroll 8
      for (int y = 0; y < kOut; ++y) t[y][x] = o[y];
    }
    const Vec bias = Vec::load(args.bias + c);
#pragma GCC unroll 1
    for (int y = 0; y < args.rows; ++y) {
      Vec o[kOut];
      output_1d(t[y], o);
#pragma GCC unroll 8
      for (int x = 0; x < kOut; ++x) {
        if (x >= args.columns) break;
        Vec value = o[x] + bias;
        if (args.residual != nullptr) {
          value = value + Vec::load(args.residual + y * args.residual_row_pitch + x * args.residual_pixel_pitch + c);
        }
        if (args.relu) value = value.max(Vec::zero());
        value.store(args.dst + y * args.dst_row_pitch + x * args.dst_pixel_pitch + c);
      }
    }
  }

 private:
  static Vec constant(float value) { return Vec::broadcast(&value); }
  // a + factor * b.
  static Vec plus(Vec a, float factor, Vec b) {
    a.add_product(constant(factor), b);
    return a;
  }

  // Bᵀ: rows (4 0 -5 0 1 0), (0 -4 -4 1 1 0), (0 4 -4 -1 1 0), (0 -2 -1 2 1 0), (0 2 -1 -2 1 0), (0 4 0 -5 0 1).
  [[gnu::always_inline]] static inline void input_1d(const Vec (&d)[kIn], Vec (&o)[kIn]) {
    const Vec even4 = plus(d[4], -4, d[2]), odd4 = plus(d[3], -4, d[1]);
    const Vec even1 = d[4] - d[2], odd2 = constant(2) * (d[3] - d[1]);
    o[0] = plus(plus(d[4], -5, d[2]), 4, d[0]);
    o[1] = even4 + odd4;
    o[2] = even4 - odd4;
    o[3] = even1 + odd2;
    o[4] = even1 - odd2;
    o[5] = plus(plus(d[5], -5, d[3]), 4, d[1]);
  }

  // Aᵀ: rows (1 1 1 1 1 0), (0 1 -1 2 -2 0), (0 1 1 4 4 0), (0 1 -1 8 -8 1).
  [[gnu::always_inline]] static inline void output_1d(const Vec (&m)[kIn], Vec (&o)[kOut]) {
    const Vec sum1 = m[1] + m[2], difference1 = m[1] - m[2], sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    o[0] = (m[0] + sum1) + sum2;
    o[1] = plus(difference1, 2, difference2);
    o[2] = plus(sum1, 4, sum2);
    o[3] = plus(difference1, 8, difference2) + m[5];
  }
};

template <class Vec>
struct Winograd {
  static void input(const WinogradInputArgs& args) {
    int c = 0;
    for (; c + Vec::kWidth <= args.channels; c += Vec::kWidth) WinogradTransforms<Vec>::input(args, c);
    for (; c < args.channels; ++c) WinogradTransforms<SingleF32>::input(args, c);
  }

  static void output(const WinogradOutputArgs& args) {
    int c = 0;
    for (; c + Vec::kWidth <= args.channels; c += Vec::kWidth) WinogradTransforms<Vec>::output(args, c);
    for (; c < args.channels; ++c) WinogradTransforms<SingleF32>::output(args, c);
  }
};

}  // namespace
}  // namespace faceattr::cpu
