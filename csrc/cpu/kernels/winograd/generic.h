// The transforms of winograd.h over any vector type: each is its form along one axis, on the columns, then on the rows.
// An axis gives the input's rows in parts that share sums, part p from row input_begin(p) on.
// Channels that do not fill a vector run one by one, over a vector type of one. Where values come from and go to is the
// caller's: kernels/narrow_winograd has the same transforms on bfloat16.
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
Vec constant(float value) {
  return Vec::broadcast(&value);
}

// a + factor * b.
template <class Vec>
Vec plus(Vec a, float factor, Vec b) {
  a.add_product(constant<Vec>(factor), b);
  return a;
}

template <class Vec>
struct Winograd2x2Axis {
  static constexpr WinogradForm kForm = kWinograd2x2;
  static constexpr int kInputParts = 2;
  static constexpr int input_begin(int part) { return 2 * part; }

  // Bᵀ: rows (-1 0 1 0), (0 1 1 0), (0 -1 1 0), (0 -1 0 1).
  template <int kPart>
  [[gnu::always_inline]] static inline void input(const Vec (&d)[4], Vec (&o)[4]) {
    if constexpr (kPart == 0) {
      o[0] = d[2] - d[0];
      o[1] = d[2] + d[1];
    } else {
      o[2] = d[2] - d[1];
      o[3] = d[3] - d[1];
    }
  }

  // Aᵀ: rows (1 1 1 0), (0 1 -1 1).
  [[gnu::always_inline]] static inline void output(const Vec (&m)[4], Vec (&o)[2]) {
    o[0] = (m[0] + m[1]) + m[2];
    o[1] = (m[1] - m[2]) + m[3];
  }
};

template <class Vec>
struct Winograd4x4Axis {
  static constexpr WinogradForm kForm = kWinograd4x4;
  static constexpr int kInputParts = 4;
  static constexpr int input_begin(int part) { return part == 0 ? 0 : part < 4 ? 2 * part - 1 : 6; }
  static constexpr float kP = 11 / 16.0f, kQ = 3 / 2.0f;
  static constexpr float kP2 = kP * kP, kQ2 = kQ * kQ;

  // Bᵀ: rows (p²q² 0 -(p² + q²) 0 1 0), (0 ∓pq² -q² ±p 1 0), (0 ∓qp² -p² ±q 1 0), (0 p²q² 0 -(p² + q²) 0 1).
  template <int kPart>
  [[gnu::always_inline]] static inline void input(const Vec (&d)[6], Vec (&o)[6]) {
    if constexpr (kPart == 0) {
      o[0] = plus(plus(d[4], -(kP2 + kQ2), d[2]), kP2 * kQ2, d[0]);
    } else if constexpr (kPart == 1) {
      const Vec even = plus(d[4], -kQ2, d[2]), odd = plus(d[3], -kQ2, d[1]);
      o[1] = plus(even, kP, odd);
      o[2] = plus(even, -kP, odd);
    } else if constexpr (kPart == 2) {
      const Vec even = plus(d[4], -kP2, d[2]), odd = plus(d[3], -kP2, d[1]);
      o[3] = plus(even, kQ, odd);
      o[4] = plus(even, -kQ, odd);
    } else {
      o[5] = plus(plus(d[5], -(kP2 + kQ2), d[3]), kP2 * kQ2, d[1]);
    }
  }

  // Aᵀ: row i has the i-th powers of the points, and a 1 for infinity in the last.
  [[gnu::always_inline]] static inline void output(const Vec (&m)[6], Vec (&o)[4]) {
    const Vec sum1 = m[1] + m[2], difference1 = m[1] - m[2], sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    o[0] = (m[0] + sum1) + sum2;
    o[1] = plus(constant<Vec>(kP) * difference1, kQ, difference2);
    o[2] = plus(constant<Vec>(kP2) * sum1, kQ2, sum2);
    o[3] = plus(plus(m[5], kP * kP2, difference1), kQ * kQ2, difference2);
  }
};

template <class Vec>
struct Winograd5x5Axis {
  static constexpr WinogradForm kForm = kWinograd5x5;
  static constexpr int kInputParts = 4;
  static constexpr int input_begin(int part) { return part < 4 ? 2 * part : 7; }
  static constexpr float kP = 1 / 4.0f, kQ = 7 / 8.0f, kR = 7 / 4.0f;
  static constexpr float kP2 = kP * kP, kQ2 = kQ * kQ, kR2 = kR * kR;

  // Bᵀ: the rows of the points ±x are the odd inputs' part plus and minus x times the even ones', which has the factors
  // of (t - a²)(t - b²), a and b being the others: (a²b² 0 -(a² + b²) 0 1). Infinity's row has those of all three.
  template <int kPart>
  [[gnu::always_inline]] static inline void input(const Vec (&d)[7], Vec (&o)[7]) {
    if constexpr (kPart == 0) {
      pair(d, kP, -(kQ2 + kR2), kQ2 * kR2, o[0], o[1]);
    } else if constexpr (kPart == 1) {
      pair(d, kQ, -(kP2 + kR2), kP2 * kR2, o[2], o[3]);
    } else if constexpr (kPart == 2) {
      pair(d, kR, -(kP2 + kQ2), kP2 * kQ2, o[4], o[5]);
    } else {
      o[6] = plus(d[6], -(kP2 + kQ2 + kR2), d[4]);
      o[6] = plus(o[6], kP2 * kQ2 + kP2 * kR2 + kQ2 * kR2, d[2]);
      o[6] = plus(o[6], -(kP2 * kQ2 * kR2), d[0]);
    }
  }

  // Aᵀ: row i has the i-th powers of the points, and a 1 for infinity in the last.
  [[gnu::always_inline]] static inline void output(const Vec (&m)[7], Vec (&o)[5]) {
    const Vec sum1 = m[0] + m[1], sum2 = m[2] + m[3], sum3 = m[4] + m[5];
    const Vec difference1 = m[0] - m[1], difference2 = m[2] - m[3], difference3 = m[4] - m[5];
    o[0] = (sum1 + sum2) + sum3;
    o[1] = plus(plus(constant<Vec>(kP) * difference1, kQ, difference2), kR, difference3);
    o[2] = plus(plus(constant<Vec>(kP2) * sum1, kQ2, sum2), kR2, sum3);
    o[3] = plus(plus(constant<Vec>(kP * kP2) * difference1, kQ * kQ2, difference2), kR * kR2, difference3);
    o[4] = plus(plus(plus(m[6], kP2 * kP2, sum1), kQ2 * kQ2, sum2), kR2 * kR2, sum3);
  }

 private:
  [[gnu::always_inline]] static inline void pair(const Vec (&d)[7], float x, float middle, float last, Vec& positive,
                                                 Vec& negative) {
    const Vec even = plus(plus(d[4], middle, d[2]), last, d[0]), odd = plus(plus(d[5], middle, d[3]), last, d[1]);
    positive = plus(odd, x, even);
    negative = plus(odd, -x, even);
  }
};

template <class Vec>
struct Polyphase4x4Axis {
  static constexpr WinogradForm kForm = kPolyphase4x4;
  static constexpr int kInputParts = 7;
  static constexpr int input_begin(int part) { return part < 2 ? 2 * part : part + 2; }
  static constexpr float kP = 7 / 16.0f, kQ = 5 / 4.0f;
  static constexpr float kP2 = kP * kP, kQ2 = kQ * kQ;

  // Bᵀ on inputs 0, 2, 4, 6, 8: rows (∓pq² -q² ±p 1 0), (∓qp² -p² ±q 1 0), (p²q² 0 -(p² + q²) 0 1); then inputs 1, 3,
  // 5, 7.
  template <int kPart>
  [[gnu::always_inline]] static inline void input(const Vec (&d)[9], Vec (&o)[9]) {
    if constexpr (kPart == 0) {
      const Vec even = plus(d[4], -kQ2, d[0]), odd = plus(d[6], -kQ2, d[2]);
      o[0] = plus(odd, kP, even);
      o[1] = plus(odd, -kP, even);
    } else if constexpr (kPart == 1) {
      const Vec even = plus(d[4], -kP2, d[0]), odd = plus(d[6], -kP2, d[2]);
      o[2] = plus(odd, kQ, even);
      o[3] = plus(odd, -kQ, even);
    } else if constexpr (kPart == 2) {
      o[4] = plus(plus(d[8], -(kP2 + kQ2), d[4]), kP2 * kQ2, d[0]);
    } else {
      o[kPart + 2] = d[2 * kPart - 5];
    }
  }

  // Aᵀ: row i has the i-th powers of the points, a 1 for infinity in the last, and one for the product of its even
  // input.
  [[gnu::always_inline]] static inline void output(const Vec (&m)[9], Vec (&o)[4]) {
    const Vec sum1 = m[0] + m[1], difference1 = m[0] - m[1], sum2 = m[2] + m[3], difference2 = m[2] - m[3];
    o[0] = (sum1 + sum2) + m[5];
    o[1] = plus(plus(m[6], kP, difference1), kQ, difference2);
    o[2] = plus(plus(m[7], kP2, sum1), kQ2, sum2);
    o[3] = plus(plus(m[4] + m[8], kP * kP2, difference1), kQ * kQ2, difference2);
  }
};

template <class Vec, template <class> class Axis>
struct WinogradTile {
  static constexpr WinogradForm kForm = Axis<Vec>::kForm;
  static constexpr int kSide = kForm.side, kOut = kForm.output;

  // `load`(row, column) of an input that exists, the first `rows` by `columns`; `store`(value) of each point in order.
  template <class Load, class Store>
  [[gnu::always_inline]] static inline void input(int rows, int columns, const Load& load, const Store& store) {
    if constexpr (Vec::kWidth > 1) {  // single channels are rare: they do without a copy of the code for whole inputs
      if (rows >= kSide && columns >= kSide) return input_parts<0>(load, store);
    }
    input_parts<0>([&](int y, int x) { return y < rows && x < columns ? load(y, x) : Vec::zero(); }, store);
  }

  // `load`(point); `store`(row, column, value) of each output that exists, the first `rows` by `columns`.
  template <class Load, class Store>
  [[gnu::always_inline]] static inline void output(int rows, int columns, const Load& load, const Store& store) {
    Vec t[kOut][kSide];  // Aᵀ m, [row][column]
#pragma GCC unroll 1
    for (int x = 0; x < kSide; ++x) {
      Vec m[kSide];
#pragma GCC unroll 16
      for (int y = 0; y < kSide; ++y) {
        m[y] = kForm.has_point(y, x) ? load(kForm.point(y, x)) : Vec::zero();
      }
      Vec o[kOut];
      Axis<Vec>::output(m, o);
#pragma GCC unroll 16
      for (int y = 0; y < kOut; ++y) t[y][x] = o[y];
    }
#pragma GCC unroll 1
    for (int y = 0; y < rows; ++y) {
      Vec o[kOut];
      Axis<Vec>::output(t[y], o);
#pragma GCC unroll 16
      for (int x = 0; x < kOut; ++x) {
        if (x >= columns) break;
        store(y, x, o[x]);
      }
    }
  }

 private:
  // The rows of one part stay in registers between the two axes: what they are made of is loaded again for the next
  // part, which takes less than storing and loading all rows. A rolled loop over columns would index registers.
  template <int kPart, class Load, class Store>
  [[gnu::always_inline]] static inline void input_parts(const Load& load, const Store& store) {
    if constexpr (kPart < Axis<Vec>::kInputParts) {
      constexpr int kBegin = Axis<Vec>::input_begin(kPart), kEnd = Axis<Vec>::input_begin(kPart + 1);
      Vec t[kEnd - kBegin][kSide];  // of Bᵀ d, [row][column]
#pragma GCC unroll 16
      for (int x = 0; x < kSide; ++x) {
        Vec d[kSide], o[kSide];
#pragma GCC unroll 16
        for (int y = 0; y < kSide; ++y) d[y] = load(y, x);
        Axis<Vec>::template input<kPart>(d, o);
#pragma GCC unroll 16
        for (int y = kBegin; y < kEnd; ++y) t[y - kBegin][x] = o[y];
      }
#pragma GCC unroll 16
      for (int y = kBegin; y < kEnd; ++y) {
        Vec o[kSide];
        whole_axis<0>(t[y - kBegin], o);
#pragma GCC unroll 16
        for (int x = 0; x < kSide; ++x) {
          if (kForm.has_point(y, x)) store(o[x]);
        }
      }
      input_parts<kPart + 1>(load, store);
    }
  }

  template <int kPart>
  [[gnu::always_inline]] static inline void whole_axis(const Vec (&d)[kSide], Vec (&o)[kSide]) {
    if constexpr (kPart < Axis<Vec>::kInputParts) {
      Axis<Vec>::template input<kPart>(d, o);
      whole_axis<kPart + 1>(d, o);
    }
  }
};

template <class Vec, template <class> class Axis>
struct Winograd {
  static void input(const WinogradInputArgs& args) {
    int c = 0;
    for (; c + Vec::kWidth <= args.channels; c += Vec::kWidth) input_tile<Vec>(args, c);
    for (; c < args.channels; ++c) input_tile<SingleF32>(args, c);
  }

  static void output(const WinogradOutputArgs& args) {
    int c = 0;
    for (; c + Vec::kWidth <= args.channels; c += Vec::kWidth) output_tile<Vec>(args, c);
    for (; c < args.channels; ++c) output_tile<SingleF32>(args, c);
  }

 private:
  template <class V>
  static void input_tile(const WinogradInputArgs& args, int c) {
    const float* src = args.src + c;
    float* dst = args.dst + c;
    WinogradTile<V, Axis>::input(
        args.rows, args.columns, [&](int y, int x) { return V::load(src + y * args.row_pitch + x * args.pixel_pitch); },
        [&](V point) {
          point.store(dst);
          dst += args.point_pitch;
        });
  }

  template <class V>
  static void output_tile(const WinogradOutputArgs& all, int c) {
    const WinogradOutputArgs args = all;  // by value: what is stored through its pointers cannot change it
    const V bias = V::load(args.bias + c);
    WinogradTile<V, Axis>::output(
        args.rows, args.columns, [&](int point) { return V::load(args.src + point * args.point_pitch + c); },
        [&](int y, int x, V value) {
          value = value + bias;
          if (args.residual != nullptr) {
            value = value + V::load(args.residual + y * args.residual_row_pitch + x * args.residual_pixel_pitch + c);
          }
          if (args.relu) value = value.max(V::zero());
          value.store(args.dst + y * args.dst_row_pitch + x * args.dst_pixel_pitch + c);
        });
  }
};

template <class Vec, template <class> class Axis>
constexpr WinogradTransforms winograd_transforms(const char* name) {
  return {name, Axis<Vec>::kForm, Winograd<Vec, Axis>::input, Winograd<Vec, Axis>::output};
}

}  // namespace
}  // namespace faceattr::cpu
