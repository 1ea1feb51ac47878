// A vector of N floats in the compiler's own vector type, GCC's and Clang's: any target. Intrinsics for one thing
// alone, the fused multiply-add of aarch64, which this type cannot express.
#pragma once

#include <cstdint>

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy (see docs/adding_a_kernel.md)

template <int N>
struct Floats {
  typedef float Native __attribute__((vector_size(N * sizeof(float))));
  typedef float Unaligned __attribute__((vector_size(N * sizeof(float)), aligned(4)));
  typedef std::uint32_t Bits __attribute__((vector_size(N * sizeof(float))));
  typedef std::uint16_t Half __attribute__((vector_size(N * sizeof(std::uint16_t)), aligned(2)));
};

template <int N>
struct PortableF32 {
  static constexpr int kWidth = N;
  using Native = typename Floats<N>::Native;
  using Unaligned = typename Floats<N>::Unaligned;
  Native v;

  static PortableF32 zero() { return {Native{}}; }
  static PortableF32 load(const float* p) { return {*reinterpret_cast<const Unaligned*>(p)}; }
  // Bits of finite float16 numbers. Exponent and fraction move to their places in a float32, whose exponents are 112
  // higher: a multiplication by 2^112, exact, makes up for that, for subnormal numbers too.
  static PortableF32 load_half(const std::uint16_t* p) {
    using Bits = typename Floats<N>::Bits;
    const Bits half = __builtin_convertvector(*reinterpret_cast<const typename Floats<N>::Half*>(p), Bits);
    const Native magnitude = reinterpret_cast<Native>((half & 0x7fffu) << 13) * 0x1p112f;
    return {reinterpret_cast<Native>(reinterpret_cast<Bits>(magnitude) | (half & 0x8000u) << 16)};
  }
  // x - 0 is x, -0 included, so nothing is computed; x + 0 would be.
  static PortableF32 broadcast(const float* p) { return {*p - Native{}}; }
  void store(float* p) const { *reinterpret_cast<Unaligned*>(p) = v; }
  // a * b + *this: rounded once on aarch64, where every CPU can, twice elsewhere; which is decided here and not by the
  // compiler (the build forbids contraction), so tiles of all sizes agree.
  void add_product(PortableF32 a, PortableF32 b) {
#if defined(__aarch64__)
    if constexpr (N == 4) {
      v = vfmaq_f32(v, a.v, b.v);
    } else {
      for (int i = 0; i < N; ++i) v[i] = __builtin_fmaf(a.v[i], b.v[i], v[i]);
    }
#else
    v += a.v * b.v;
#endif
  }
#if defined(__aarch64__)
  // The same with a's value of one lane throughout. N = 4.
  template <int kLane>
  void add_product_lane(PortableF32 a, PortableF32 b) {
    v = vfmaq_laneq_f32(v, b.v, a.v, kLane);
  }
#endif
  PortableF32 operator+(PortableF32 o) const { return {v + o.v}; }
  PortableF32 operator-(PortableF32 o) const { return {v - o.v}; }
  PortableF32 operator*(PortableF32 o) const { return {v * o.v}; }
  PortableF32 max(PortableF32 o) const { return {v > o.v ? v : o.v}; }
  // Of two vectors one after the other, the values of even and of odd number.
  static void deal(PortableF32 a, PortableF32 b, PortableF32& even, PortableF32& odd) {
    float values[2 * N], evens[N], odds[N];
    a.store(values);
    b.store(values + N);
    for (int i = 0; i < N; ++i) {
      evens[i] = values[2 * i];
      odds[i] = values[2 * i + 1];
    }
    even = load(evens);
    odd = load(odds);
  }
};

}  // namespace
}  // namespace faceattr::cpu
