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
  static PortableBfloat16 broadcast_pair(const std::int16_t* p) {
    std::uint32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return {Bits{} + pair};
  }
  // *this += a.low * b.low, then += a.high * b.high, in float32, lane by lane.
  void add_products(PortableBfloat16 a, PortableBfloat16 b) {
    Float sum = of(v);
    sum.add_product(of(a.v << 16), of(b.v << 16));
    sum.add_product(of(a.v & 0xffff0000u), of(b.v & 0xffff0000u));
    v = reinterpret_cast<Bits>(sum.v);
  }
  // *this + bias; `to` says where it is.
  template <class Store>
  Float value(const Store& to, int channel) const {
    return of(v) + Float::load(reinterpret_cast<const float*>(to.bias + channel));
  }

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
