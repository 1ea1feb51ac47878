// A vector of N floats in the compiler's own vector type: any target, no intrinsics. GCC and Clang.
#pragma once

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy (see docs/adding_a_kernel.md)

template <int N>
struct PortableF32 {
  static constexpr int kWidth = N;
  typedef float Native __attribute__((vector_size(N * sizeof(float))));
  typedef float Unaligned __attribute__((vector_size(N * sizeof(float)), aligned(4)));
  Native v;

  static PortableF32 zero() { return {Native{}}; }
  static PortableF32 load(const float* p) { return {*reinterpret_cast<const Unaligned*>(p)}; }
  static PortableF32 broadcast(const float* p) { return {Native{} + *p}; }
  void store(float* p) const { *reinterpret_cast<Unaligned*>(p) = v; }
  // a * b + *this, rounded twice: the build forbids contraction, so that all code rounds as it is written.
  void add_product(PortableF32 a, PortableF32 b) { v += a.v * b.v; }
  PortableF32 operator+(PortableF32 o) const { return {v + o.v}; }
  PortableF32 operator-(PortableF32 o) const { return {v - o.v}; }
  PortableF32 operator*(PortableF32 o) const { return {v * o.v}; }
  PortableF32 max(PortableF32 o) const { return {v > o.v ? v : o.v}; }
};

}  // namespace
}  // namespace faceattr::cpu
