// Pairs of bfloat16 and N sums of float32 in the compiler's own vector types: any target, no intrinsics.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/bfloat16.h"
#include "cpu/simd/portable.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy (see docs/adding_a_kernel.md)

template <int N>
struct PortableBfloat16 {
  static constexpr int kWidth = N;
  static constexpr bool kStoresBytes = false;
  using Float = PortableF32<N>;
  using Single = PortableBfloat16<1>;
  typedef std::uint32_t Bits __attribute__((vector_size(N * 4)));
  Bits v;

  static PortableBfloat16 zero() { return {Bits{}}; }
  // N pairs, or N sums.
  static PortableBfloat16 load(const void* p) {
    PortableBfloat16 r;
    std::memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  void store(std::int32_t* p) const { std::memcpy(p, &v, sizeof v); }
  // sums[j] += pair.low * w[j].low, then += pair.high * w[j].high, in float32, lane by lane.
  template <int kVectors>
  [[gnu::always_inline]] static inline void add_products(PortableBfloat16 (&sums)[kVectors], const std::int16_t* pair,
                                                         const PortableBfloat16 (&w)[kVectors]) {
    std::uint32_t bits;
    std::memcpy(&bits, pair, sizeof bits);
    const Bits x = Bits{} + bits;
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      Float sum = of(sums[j].v);
      sum.add_product(of(x << 16), of(w[j].v << 16));
      sum.add_product(of(x & 0xffff0000u), of(w[j].v & 0xffff0000u));
      sums[j].v = reinterpret_cast<Bits>(sum.v);
    }
  }
  PortableBfloat16 max(PortableBfloat16 o) const { return {reinterpret_cast<Bits>(of(v).max(of(o.v)).v)}; }
  using Scale = Float;  // the bias; `to` says where it is
  template <class Store>
  static Scale scale(const Store& to, int channel) {
    return Float::load(reinterpret_cast<const float*>(to.bias + channel));
  }
  Float value(Scale bias) const { return of(v) + bias; }

  static Float widen(const std::int16_t* p) {
    Float value;
    for (int i = 0; i < N; ++i) value.v[i] = from_bfloat16(p[i]);
    return value;
  }
  static void store_narrow(std::int16_t* p, Float value, float, float) {
    for (int i = 0; i < N; ++i) p[i] = to_bfloat16(value.v[i]);
  }

 private:
  static Float of(Bits bits) { return {reinterpret_cast<typename Float::Native>(bits)}; }
};

}  // namespace
}  // namespace faceattr::cpu
