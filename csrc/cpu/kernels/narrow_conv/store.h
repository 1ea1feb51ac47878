// From sums to what is stored (NarrowStore): the same steps, each rounded the same way, at any width of vectors and for
// one value or a tile of them.
#pragma once

#include "cpu/kernels/narrow_conv/narrow_conv.h"
#include "cpu/kernels/segmented_conv/positions.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// Where a position's values go, from position (0, 0), in channels.
struct Places {
  std::int64_t residual, floats, narrow;

  template <class Positions>
  [[gnu::always_inline]] static Places of(const NarrowStore& to, const Positions& positions, int r) {
    return {positions.offset(r, to.residual_row_pitch, to.residual_pixel_pitch),
            positions.offset(r, to.floats_row_pitch, to.floats_pixel_pitch),
            positions.offset(r, to.narrow_row_pitch, to.narrow_pixel_pitch)};
  }
  [[gnu::always_inline]] static Places at(const NarrowStore& to, std::int64_t row, std::int64_t column) {
    return {row * to.residual_row_pitch + column * to.residual_pixel_pitch,
            row * to.floats_row_pitch + column * to.floats_pixel_pitch,
            row * to.narrow_row_pitch + column * to.narrow_pixel_pitch};
  }
};

// A value, sum and bias, of `Sums::Float`'s width. `inverse`: what the narrow copy is multiplied by, or null.
template <class Sums, bool kResidual, bool kFloats, bool kNarrow>
[[gnu::always_inline]] inline void store_as(const NarrowStore& to, typename Sums::Float value, const Places& places,
                                            int channel, const typename Sums::Float* inverse) {
  using Float = typename Sums::Float;
  if constexpr (kResidual) {
    value = value + Float::load(to.residual + places.residual + channel);
  }
  if (to.relu) value = value.max(Float::zero());
  if constexpr (kFloats) {
    value.store(to.floats + places.floats + channel);
  }
  if constexpr (kNarrow) {
    if (inverse != nullptr) value = value * *inverse;
    const std::int64_t at = places.narrow + channel;
    if constexpr (Sums::kStoresBytes) {
      if (to.bytes != nullptr) return Sums::store_bytes(to.bytes + at, value, to.low);
    }
    Sums::store_narrow(to.narrow + at, value, to.low, to.low + 255.0f);
  }
}

template <bool kValue>
struct Constant {
  static constexpr bool value = kValue;
};

// Calls run(true or false, …) as constants for: has a residual, writes floats, writes narrow values. Where there is a
// residual, floats are written.
template <class Run>
[[gnu::always_inline]] inline void with_kind(const NarrowStore& to, const Run& run) {
  constexpr Constant<true> kYes;
  constexpr Constant<false> kNo;
  const bool narrow = to.narrow != nullptr || to.bytes != nullptr;
  if (to.residual != nullptr) return narrow ? run(kYes, kYes, kYes) : run(kYes, kYes, kNo);
  if (to.floats == nullptr) return run(kNo, kNo, kYes);
  narrow ? run(kNo, kYes, kYes) : run(kNo, kYes, kNo);
}

template <class Sums>
[[gnu::always_inline]] inline void store_value(const NarrowStore& to, typename Sums::Float value, const Places& places,
                                               int channel) {
  using Float = typename Sums::Float;
  Float inverse = Float::zero();
  if (to.inverse != nullptr) inverse = Float::load(to.inverse + channel);
  with_kind(to, [&](auto residual, auto floats, auto narrow) {
    store_as<Sums, residual.value, floats.value, narrow.value>(to, value, places, channel,
                                                               to.inverse != nullptr ? &inverse : nullptr);
  });
}

template <class Sums>
[[gnu::always_inline]] inline void store_sums(const NarrowStore& to, Sums sum, const Places& places, int channel) {
  store_value<Sums>(to, sum.value(Sums::scale(to, channel)), places, channel);
}

// `to` by value: what is stored through its pointers cannot change it.
template <class Vec, int kVectors, class Positions, bool kResidual, bool kFloats, bool kNarrow>
[[gnu::noinline]] void store_whole_panel(NarrowStore to, const Vec (*sums)[kVectors], int count,
                                         const Positions& positions, int first) {
  using Float = typename Vec::Float;
  typename Vec::Scale scale[kVectors];
  Float inverse[kVectors];
  for (int j = 0; j < kVectors; ++j) {
    scale[j] = Vec::scale(to, first + j * Vec::kWidth);
    inverse[j] = kNarrow && to.inverse != nullptr ? Float::load(to.inverse + first + j * Vec::kWidth) : Float::zero();
  }
  for (int r = 0; r < count; ++r) {
    const Places places = Places::of(to, positions, r);
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; ++j) {
      store_as<Vec, kResidual, kFloats, kNarrow>(to, sums[r][j].value(scale[j]), places, first + j * Vec::kWidth,
                                                 to.inverse != nullptr ? &inverse[j] : nullptr);
    }
  }
}

// Sums of a panel at `count` positions.
template <class Vec, int kVectors, class Positions>
void store_panel(const NarrowStore& to, const Vec (*sums)[kVectors], int count, int out_channels,
                 const Positions& positions, int panel) {
  constexpr int kPanel = kVectors * Vec::kWidth;
  const int first = panel * kPanel;
  if (out_channels - first >= kPanel) {
    return with_kind(to, [&](auto residual, auto floats, auto narrow) {
      store_whole_panel<Vec, kVectors, Positions, residual.value, floats.value, narrow.value>(to, sums, count,
                                                                                              positions, first);
    });
  }
  using Single = typename Vec::Single;  // the last panel of an unusual width
  for (int r = 0; r < count; ++r) {
    const Places places = Places::of(to, positions, r);
    std::int32_t stored[kPanel];
    for (int j = 0; j < kVectors; ++j) sums[r][j].store(stored + j * Vec::kWidth);
    for (int c = 0; c < out_channels - first; ++c) {
      store_sums(to, Single::load(stored + c), places, first + c);
    }
  }
}

}  // namespace
}  // namespace faceattr::cpu
