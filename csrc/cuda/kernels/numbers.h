// The formats that tensor cores multiply, and what becomes of sums: four neighbouring channels of a position at a time,
// because that is what a thread holds (layout.h, weight_column).
#pragma once

#include <limits>

#include "cuda/kernels/params.h"
#include "cuda/primitives.h"

namespace faceattr::cuda {

struct Integer8 {};  // activations 0 … 255 or -128 … 127, weights -127 … 127

struct alignas(16) Float4 {
  float v[4];
};
struct alignas(16) Int4 {
  int32_t v[4];
};
struct alignas(8) Pairs2 {
  uint32_t x, y;
};

template <class T>
struct Numbers {  // Float16, Bfloat16
  using Sum = float;
  static constexpr int kGroup = 8;

  static FA_DEVICE Float4 value(const ConvStore& to, const float (&sums)[4], int channel) {
    const Float4 bias = load_global_constant(static_cast<const Float4*>(to.bias) + channel / 4);
    Float4 result;
    FA_UNROLL
    for (int i = 0; i < 4; ++i) result.v[i] = add(sums[i], bias.v[i]);
    return result;
  }
  // A NaN stays one: that a number has left the format's range must show.
  static FA_DEVICE float relu(float value) { return value < 0.0f ? 0.0f : value; }
  static FA_DEVICE Float4 load_narrow(const uint8_t* map, int64_t group, int channel) {
    const Pairs2 pairs = load_global(reinterpret_cast<const Pairs2*>(map + group * kGroupBytes + channel % kGroup * 2));
    const Float2 low = unpack2<T>(pairs.x), high = unpack2<T>(pairs.y);
    return {{low.x, low.y, high.x, high.y}};
  }
  static FA_DEVICE void store_narrow(const ConvStore& to, int64_t group, int channel, const Float4& value) {
    const Pairs2 pairs = {pack2<T>(value.v[0], value.v[1]), pack2<T>(value.v[2], value.v[3])};
    store_global(reinterpret_cast<Pairs2*>(to.narrow + group * kGroupBytes + channel % kGroup * 2), pairs);
  }
};

// clamp(rint(value)): a NaN becomes `low`. The steps of the CPU's store_narrow.
FA_DEVICE int32_t clamped_integer(float value, float low) {
  const float high = add(low, 255.0f);
  const float raised = value > low ? value : low;
  return round_to_int(raised < high ? raised : high);
}

template <>
struct Numbers<Integer8> {
  using Sum = int32_t;
  static constexpr int kGroup = 16;

  // (sum + bias) * multiplier, rounded to float32 twice, as on the CPU. plan/phase.cc keeps the sum below 2^31.
  static FA_DEVICE Float4 value(const ConvStore& to, const int32_t (&sums)[4], int channel) {
    const Int4 bias = load_global_constant(static_cast<const Int4*>(to.bias) + channel / 4);
    const Float4 multiplier = load_global_constant(reinterpret_cast<const Float4*>(to.multiplier) + channel / 4);
    Float4 result;
    FA_UNROLL
    for (int i = 0; i < 4; ++i) {
      result.v[i] = multiply(static_cast<float>(sums[i] + bias.v[i]), multiplier.v[i]);
    }
    return result;
  }
  // The CPU's: +0 for -0.
  static FA_DEVICE float relu(float value) { return value > 0.0f ? value : 0.0f; }
  static FA_DEVICE Float4 load_narrow(const uint8_t*, int64_t, int) { return {}; }  // integers are never added
  static FA_DEVICE void store_narrow(const ConvStore& to, int64_t group, int channel, const Float4& value) {
    Float4 scaled = value;
    if (to.inverse != nullptr) {
      const Float4 inverse = load_global_constant(reinterpret_cast<const Float4*>(to.inverse) + channel / 4);
      FA_UNROLL
      for (int i = 0; i < 4; ++i) scaled.v[i] = multiply(value.v[i], inverse.v[i]);
    }
    uint32_t bytes = 0;
    FA_UNROLL
    for (int i = 0; i < 4; ++i) {
      bytes |= static_cast<uint32_t>(clamped_integer(scaled.v[i], to.low) & 0xff) << (8 * i);
    }
    store_global(reinterpret_cast<uint32_t*>(to.narrow + group * kGroupBytes + channel % kGroup), bytes);
  }
};

// Float32 has no tensor core: a thread of float_conv.h adds its products itself.
struct Float32 {};

template <>
struct Numbers<Float32> : Numbers<Float16> {
  static constexpr int kGroup = 4;
  static FA_DEVICE Float4 load_narrow(const uint8_t*, int64_t, int) { return {}; }
  static FA_DEVICE void store_narrow(const ConvStore&, int64_t, int, const Float4&) {}
};

// From `kLimit` on a number is infinite in a format: half a unit of the last place above the largest.
template <class T>
struct FormatRange {};
template <>
struct FormatRange<Float16> {
  static constexpr float kLimit = 65520.0f;
};
template <>
struct FormatRange<Bfloat16> {
  static constexpr float kLimit = 3.3961775e38f;
};
template <>
struct FormatRange<Float32> {
  static constexpr float kLimit = std::numeric_limits<float>::infinity();
};

// Residual, ReLU and stores of four values, each step rounded to float32. `channel` is a multiple of 4; what lies
// beyond a map's last group is not written.
template <class T>
FA_DEVICE void store_values(const ConvStore& to, Float4 value, int image, int position, int channel) {
  using N = Numbers<T>;
  const bool in_floats = to.floats != nullptr && channel < 4 * to.floats_groups;
  const bool in_narrow = to.narrow != nullptr && channel < N::kGroup * to.narrow_groups;
  const int64_t floats = map_index(image, channel / 4, position, to.floats_groups, to.positions);
  const int64_t narrow = map_index(image, channel / N::kGroup, position, to.narrow_groups, to.positions);
  if (in_floats && to.floats_residual != nullptr) {
    const Float4 residual = load_global(reinterpret_cast<const Float4*>(to.floats_residual) + floats);
    FA_UNROLL
    for (int i = 0; i < 4; ++i) value.v[i] = add(value.v[i], residual.v[i]);
  }
  if (in_narrow && to.narrow_residual != nullptr) {
    const Float4 residual = N::load_narrow(to.narrow_residual, narrow, channel);
    FA_UNROLL
    for (int i = 0; i < 4; ++i) value.v[i] = add(value.v[i], residual.v[i]);
  }
  if (to.relu) {
    FA_UNROLL
    for (int i = 0; i < 4; ++i) value.v[i] = N::relu(value.v[i]);
  }
  if (in_floats) store_global(reinterpret_cast<Float4*>(to.floats) + floats, value);
  if (in_narrow) N::store_narrow(to, narrow, channel, value);
}

}  // namespace faceattr::cuda
