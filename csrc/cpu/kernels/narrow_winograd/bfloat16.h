// The transforms of narrow_winograd.h on bfloat16, over any vector of pairs: those of winograd/generic.h in float32.
#pragma once

#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/kernels/narrow_winograd/narrow_winograd.h"
#include "cpu/kernels/winograd/generic.h"
#include "cpu/simd/bfloat16_portable.h"

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

template <class Pairs, template <class> class Axis>
struct Bfloat16Winograd {
  static void input(const NarrowInputArgs& args) {
    int c = 0;
    for (; c + Pairs::kWidth <= args.channels; c += Pairs::kWidth) input_tile<Pairs>(args, c);
    for (; c < args.channels; c += 4) input_tile<PortableBfloat16<4>>(args, c);
  }

  static void output(const NarrowOutputArgs& args) {
    int c = 0;
    for (; c + Pairs::kWidth <= args.channels; c += Pairs::kWidth) output_tile<Pairs>(args, c);
    for (; c < args.channels; ++c) output_tile<typename Pairs::Single>(args, c);
  }

 private:
  template <class Narrow>
  static void input_tile(const NarrowInputArgs& args, int c) {
    using Vec = typename Narrow::Float;
    const std::int16_t* src = args.src + c;
    std::int16_t* dst = args.dst + c;
    WinogradTile<Vec, Axis>::input(
        args.rows, args.columns,
        [&](int y, int x) { return Narrow::widen(src + y * args.row_pitch + x * args.pixel_pitch); },
        [&](Vec point) {
          Narrow::store_narrow(dst, point, 0, 0);
          dst += args.point_pitch;
        });
  }

  template <class Narrow>
  static void output_tile(const NarrowOutputArgs& all, int c) {
    const NarrowOutputArgs args = all;  // by value: what is stored through its pointers cannot change it
    using Vec = typename Narrow::Float;
    const int channel = args.first_channel + c;
    const auto load = [](const std::int32_t* bits) { return Vec::load(reinterpret_cast<const float*>(bits)); };
    const Vec bias = load(args.store.bias + channel);
    WinogradTile<Vec, Axis>::output(
        args.rows, args.columns, [&](int point) { return load(args.src + point * args.point_pitch + c); },
        [&](int y, int x, Vec value) {
          if (args.direct != nullptr) {
            value = value + load(args.direct + y * args.direct_row_pitch + x * args.direct_pixel_pitch + c);
          }
          const Places places = Places::at(args.store, args.row + y, args.column + x);
          store_value<Narrow>(args.store, value + bias, places, channel);
        });
  }
};

template <class Pairs, template <class> class Axis>
constexpr NarrowWinogradTransforms bfloat16_transforms(const char* name) {
  return {name, Axis<typename Pairs::Float>::kForm, Bfloat16Winograd<Pairs, Axis>::input,
          Bfloat16Winograd<Pairs, Axis>::output};
}

}  // namespace
}  // namespace faceattr::cpu
