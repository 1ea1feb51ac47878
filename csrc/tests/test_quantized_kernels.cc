// Every kernel on integers that this machine can run, and the AVX-512 tiles over portable vectors, against plain sums
// in 64 bits: the same integers and the same bits of floats, whatever the instruction set.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/dispatch.h"
#include "cpu/kernels/narrow_conv/generic.h"
#include "cpu/pack.h"
#include "cpu/simd/integers_portable.h"
#include "kernels.h"
#include "plans.h"

using namespace faceattr;
using namespace faceattr::cpu;
using namespace faceattr::test;

namespace {

enum class Target { kUnsigned, kSigned, kFloats, kFloatsAndIntegers };

struct ConvCase {
  int oc, ic, height, width, kernel, stride;
  Target target;
  bool relu, residual, slice, narrow;  // narrow: small weights, so that sums end between two integers
};

// Which of the ways to end the cases have met.
struct Seen {
  int ties = 0, low = 0, high = 0, inside = 0, relu = 0;
};

// What the kernel reads: positions of `pitch` integers, of which [start, start + count) have weights. The others hold
// anything, as the arena does.
struct Source {
  int pitch, start, count, row, low;
  std::vector<std::int16_t> values;

  Source(int height, int width, int border, int pitch_, int start_, int count_, int low_, std::uint32_t seed)
      : pitch(pitch_), start(start_), count(count_), row((width + 2 * border) * pitch_), low(low_) {
    const int rows = height + 2 * border;
    values = integers<std::int16_t>(static_cast<std::size_t>(rows) * row, seed, -32768, 32767);
    const auto valid = integers<std::int16_t>(values.size(), seed + 1, low, low + 255);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const int c = static_cast<int>(i) % pitch;
      if (c >= start && c < start + count) values[i] = valid[i];
    }
  }
};

// Sources and weights as a kernel wants them.
struct Operands {
  std::vector<std::int16_t> pairs, pair_weights;
  std::vector<std::uint8_t> bytes;
  std::vector<std::int8_t> byte_weights;

  Operands(const NarrowConvKernel& kernel, const std::vector<Source>& sources, const std::vector<std::int16_t>& weight,
           int oc, int k) {
    if (kernel.value_bytes == 1) {
      for (const Source& source : sources) {
        for (std::int16_t value : source.values) bytes.push_back(static_cast<std::uint8_t>(value - source.low));
      }
      byte_weights = pack_groups<std::int8_t>(weight, oc, k, kernel.panel, 4);
    } else {
      for (const Source& source : sources) pairs.insert(pairs.end(), source.values.begin(), source.values.end());
      pair_weights = pack_pairs(weight, oc, k, kernel.panel);
    }
  }

  void bind(NarrowConvArgs& args) const {
    args.base = bytes.empty() ? static_cast<const void*>(pairs.data()) : bytes.data();
    args.weights = bytes.empty() ? static_cast<const void*>(pair_weights.data()) : byte_weights.data();
  }
};

void check_conv(const QuantizedConvKernel& kernel, const ConvCase& c, Seen& seen) {
  // Two segments: a convolution of a bordered source, all channels or a slice of them, and a 1x1 of another source.
  const int pad = c.kernel / 2, start = c.slice ? 3 : 0, ic2 = 5;
  const int in_h = (c.height - 1) * c.stride + 1, in_w = (c.width - 1) * c.stride + 1;
  const int read = (start + c.ic + 3) / 4 * 4;  // channels of a run: whole groups of four, as the engine has them
  const Source src1(in_h, in_w, pad, c.slice ? read + 4 : read, start, c.ic, 0, 1);
  const Source src2(in_h, in_w, 0, 8, 0, ic2, -128, 3);

  const int taps = c.kernel * c.kernel, k1 = taps * read, k = k1 + 8;
  const int limit = c.narrow ? 1 : 127;
  std::vector<std::int16_t> weight = integers<std::int16_t>(static_cast<std::size_t>(c.oc) * k, 5, -limit, limit);
  for (int o = 0; o < c.oc; ++o) {
    for (int i = 0; i < k; ++i) {
      const int channel = i < k1 ? i % read - start : i - k1;
      if (channel < 0 || channel >= (i < k1 ? c.ic : ic2)) weight[static_cast<std::size_t>(o) * k + i] = 0;
    }
  }
  const auto bias = padded(integers<std::int32_t>(c.oc, 6, -3 * limit * limit, 3 * limit * limit), kernel.panel);
  std::vector<float> multiplier, inverse;
  for (int o = 0; o < c.oc; ++o) {
    const float typical = 128.0f * static_cast<float>(limit) * std::sqrt(static_cast<float>(taps * c.ic + ic2));
    multiplier.push_back(c.narrow ? 0.5f : (60.0f + static_cast<float>(o % 7)) / typical);
    inverse.push_back(c.narrow ? 0.5f : 0.4f + 0.03f * static_cast<float>(o % 5));
  }
  multiplier = padded(multiplier, kernel.panel);
  inverse = padded(inverse, kernel.panel);

  std::vector<std::int64_t> runs1;
  const int columns = c.slice ? c.kernel : 1;
  for (int ky = 0; ky < c.kernel; ++ky) {
    for (int kx = 0; kx < columns; ++kx) runs1.push_back(ky * src1.row + kx * src1.pitch);
  }
  const std::int64_t runs2[] = {0};
  ConvSegment segments[2];
  segments[0] = {0,
                 static_cast<std::int64_t>(c.stride) * src1.row,
                 static_cast<std::int64_t>(c.stride) * src1.pitch,
                 runs1.data(),
                 static_cast<int>(runs1.size()),
                 c.slice ? read : c.kernel * read};
  segments[1] = {static_cast<std::int64_t>(src1.values.size()),
                 static_cast<std::int64_t>(c.stride) * src2.row,
                 static_cast<std::int64_t>(c.stride) * src2.pitch,
                 runs2,
                 1,
                 8};
  const Operands operands(kernel, {src1, src2}, weight, c.oc, k);
  NarrowConvArgs args;
  operands.bind(args);
  args.segments = segments;
  args.segment_count = 2;
  args.k = k;
  args.out_channels = c.oc;
  args.out_width = c.width;

  const bool floats = c.target == Target::kFloats || c.target == Target::kFloatsAndIntegers;
  const bool whole = c.target != Target::kFloats;
  const float low = c.target == Target::kUnsigned ? 0.0f : -128.0f;
  const int pitch = c.oc + 1, row = c.width * pitch + 3, shift = 2;
  const bool in_place = c.residual && c.width % 2 == 1;  // a block's output takes the place of its input
  const auto at = [&](int y, int x, int o) { return static_cast<std::size_t>(shift + y * row + x * pitch + o); };
  std::vector<float> residual(static_cast<std::size_t>(shift + c.height * row), kCanary);
  const std::vector<float> added = random_values(residual.size(), 7, c.narrow ? 1.0f : 50.0f);
  for (int y = 0; y < c.height; ++y) {
    for (int x = 0; x < c.width; ++x) {
      for (int o = 0; o < c.oc; ++o)
        residual[at(y, x, o)] = c.narrow ? std::round(3 * added[at(y, x, o)]) : added[at(y, x, o)];
    }
  }
  auto stored_bias = bias;  // which makes up for distances from the second source's low
  for (int o = 0; kernel.value_bytes == 1 && o < c.oc; ++o) {
    for (int i = k1; i < k; ++i) stored_bias[o] += src2.low * weight[static_cast<std::size_t>(o) * k + i];
  }
  NarrowStore& to = args.store;
  to.bias = stored_bias.data();
  to.multiplier = multiplier.data();
  to.relu = c.relu;
  to.floats_row_pitch = to.residual_row_pitch = to.narrow_row_pitch = row;
  to.floats_pixel_pitch = to.residual_pixel_pitch = to.narrow_pixel_pitch = pitch;
  to.low = low;
  if (c.target == Target::kFloatsAndIntegers) to.inverse = inverse.data();

  struct Result {
    std::vector<float> floats;
    std::vector<std::int16_t> integers;
    std::vector<std::uint8_t> bytes;
  };
  const int pixels = c.height * c.width, panels = panel_count(c.oc, kernel.panel);
  const auto run = [&](int step) {
    Result result = {in_place ? residual : std::vector<float>(residual.size(), kCanary),
                     std::vector<std::int16_t>(residual.size(), kIntegerCanary),
                     std::vector<std::uint8_t>(residual.size(), kByteCanary)};
    if (floats) to.floats = result.floats.data() + shift;
    if (c.residual) to.residual = (in_place ? result.floats : residual).data() + shift;
    if (whole && kernel.value_bytes == 1) to.bytes = result.bytes.data() + shift;
    if (whole && kernel.value_bytes == 2) to.narrow = result.integers.data() + shift;
    for (int p = panels - 1; p >= 0; --p) {
      for (int begin = 0; begin < pixels; begin += step) kernel.run(args, begin, std::min(begin + step, pixels), p);
    }
    return result;
  };
  const Result got = run(pixels), cut = run(5);
  FA_CHECK_MESSAGE(std::memcmp(got.floats.data(), cut.floats.data(), got.floats.size() * sizeof(float)) == 0,
                   kernel.name);
  FA_CHECK_MESSAGE(got.integers == cut.integers && got.bytes == cut.bytes, kernel.name);

  std::vector<float> expected_floats = in_place ? residual : std::vector<float>(residual.size(), kCanary);
  std::vector<std::int16_t> expected_integers(residual.size(), kIntegerCanary);
  std::vector<std::uint8_t> expected_bytes(residual.size(), kByteCanary);
  for (int y = 0; y < c.height; ++y) {
    for (int x = 0; x < c.width; ++x) {
      for (int o = 0; o < c.oc; ++o) {
        std::int64_t sum = bias[o];
        const std::int16_t* w = weight.data() + static_cast<std::size_t>(o) * k;
        for (int tap = 0; tap < taps; ++tap) {
          const int position =
              (y * c.stride + tap / c.kernel) * src1.row + (x * c.stride + tap % c.kernel) * src1.pitch;
          for (int i = start; i < start + c.ic; ++i) sum += std::int64_t{src1.values[position + i]} * w[tap * read + i];
        }
        for (int i = 0; i < ic2; ++i) {
          sum += std::int64_t{src2.values[y * c.stride * src2.row + x * c.stride * src2.pitch + i]} * w[k1 + i];
        }
        // Each step is stored, and so rounded, before the next.
        volatile float value = static_cast<float>(sum);
        value = value * multiplier[o];
        if (c.residual) value = value + residual[at(y, x, o)];
        seen.relu += c.relu && value < 0.0f;
        if (c.relu && !(value > 0.0f)) value = 0.0f;
        if (floats) expected_floats[at(y, x, o)] = value;
        if (!whole) continue;
        if (c.target == Target::kFloatsAndIntegers) value = value * inverse[o];
        const float rounded = std::nearbyint(value);  // to nearest, ties to even
        seen.ties += std::abs(value - rounded) == 0.5f;
        seen.low += rounded < low;
        seen.high += rounded > low + 255;
        seen.inside += rounded > low && rounded < low + 255;
        const float clamped = std::min(std::max(rounded, low), low + 255);
        if (kernel.value_bytes == 1) {
          expected_bytes[at(y, x, o)] = static_cast<std::uint8_t>(clamped - low);
        } else {
          expected_integers[at(y, x, o)] = static_cast<std::int16_t>(clamped);
        }
      }
    }
  }
  // Canaries between and around the outputs are compared with them.
  FA_CHECK_MESSAGE(std::equal(got.floats.begin(), got.floats.end(), expected_floats.begin(), same_bits), kernel.name);
  FA_CHECK_MESSAGE(got.integers == expected_integers, kernel.name);
  FA_CHECK_MESSAGE(got.bytes == expected_bytes, kernel.name);
}

std::vector<const NarrowConvKernel*> conv_kernels() {
  static const NarrowConvKernel wide[] = {
      {"quantized_conv_s16_14x32_portable", 32, NarrowConv<PortableIntegers<16>, 14, 2>::run},
      {"quantized_conv_u8_14x32_portable", 32, NarrowConv<PortableIntegers<16>, 14, 2, 4>::run, 1}};
  std::vector<const NarrowConvKernel*> kernels = runnable(kernel_lists().QuantizedConv);
  for (const PairConvKernel* kernel : runnable(kernel_lists().PairConv)) kernels.push_back(kernel);
  for (const NarrowConvKernel& kernel : wide) kernels.push_back(&kernel);
  return kernels;
}

}  // namespace

FA_TEST(quantized_conv) {
  for (const NarrowConvKernel* kernel : conv_kernels()) {
    Seen seen;
    for (int oc : {1, kernel->panel - 1, kernel->panel, kernel->panel + 1, 2 * kernel->panel}) {
      for (int width : {1, 2, 5, 6, 7, 13, 15}) {  // three rows of it: around tiles of 4, 6 and 14 positions
        for (int size : {1, 3}) {
          for (int stride : {1, 2, 4}) {
            for (Target target : {Target::kUnsigned, Target::kSigned, Target::kFloats, Target::kFloatsAndIntegers}) {
              const bool floats = target == Target::kFloats || target == Target::kFloatsAndIntegers;
              const bool odd = (oc + width + stride) % 2 != 0, third = (width + stride + size) % 3 == 0;
              const ConvCase c = {oc,  7 + width % 3,    3,           width, size, stride, target,
                                  odd, floats && !third, stride == 2, false};
              check_conv(*kernel, c, seen);
              ConvCase narrow = c;
              narrow.narrow = true;
              narrow.ic = 2;  // sums of a few hundred
              check_conv(*kernel, narrow, seen);
            }
          }
        }
      }
    }
    for (int count : {seen.ties, seen.low, seen.high, seen.inside, seen.relu}) {
      FA_CHECK_MESSAGE(count > 1000, std::string(kernel->name) + ": a way to end was hardly met");
    }
  }
}

// As many products as a plan may have, all at the ends of their ranges, and the largest bias.
FA_TEST(the_largest_sums_fit) {
  const int k = 1 << 15, oc = 3;
  for (const NarrowConvKernel* kernel : conv_kernels()) {
    std::vector<std::int16_t> weight(static_cast<std::size_t>(oc) * k, 127);
    std::fill(weight.begin() + k, weight.end(), std::int16_t{-127});
    for (const int value : {255, 127, -128}) {
      Source src(1, 1, 0, k, 0, k, value == 255 ? 0 : -128, 1);
      std::fill(src.values.begin(), src.values.end(), static_cast<std::int16_t>(value));
      const Operands operands(*kernel, {src}, weight, oc, k);
      const auto bias = padded(std::vector<std::int32_t>{1 << 29, -(1 << 29), 0}, kernel->panel);
      auto stored_bias = bias;
      for (int o = 0; kernel->value_bytes == 1 && o < oc; ++o) stored_bias[o] += src.low * k * (o == 0 ? 127 : -127);
      const auto multiplier = padded(std::vector<float>(oc, 1.0f), kernel->panel);
      const std::int64_t run = 0;
      const ConvSegment segment = {0, 0, 0, &run, 1, k};
      std::vector<float> dst(oc + 1, kCanary);
      NarrowConvArgs args;
      operands.bind(args);
      args.segments = &segment;
      args.segment_count = 1;
      args.k = k;
      args.out_channels = oc;
      args.out_width = 1;
      args.store.bias = stored_bias.data();
      args.store.multiplier = multiplier.data();
      args.store.floats = dst.data();
      kernel->run(args, 0, 1, 0);
      for (int o = 0; o < oc; ++o) {
        const std::int64_t sum = std::int64_t{k} * value * (o == 0 ? 127 : -127) + bias[o];
        FA_CHECK(std::abs(sum) < std::int64_t{1} << 31);
        FA_CHECK_MESSAGE(dst[o] == static_cast<float>(sum), kernel->name);
      }
      FA_CHECK(dst.back() == kCanary);
    }
  }
}

// Sums of both kinds meet in one array (narrow_winograd_runner.cc).
FA_TEST(kernels_of_a_level_have_one_panel) {
  for (const IsaLevel& level : isa_levels()) {
    const QuantizedConvKernel& maps = best(kernel_lists().QuantizedConv, level.features);
    const PairConvKernel& pairs = best(kernel_lists().PairConv, level.features);
    FA_CHECK(maps.panel == pairs.panel && pairs.value_bytes == 2);
#if defined(__x86_64__)
    const bool fours = level.name == std::string("scalar") || level.name == std::string("avx512vnni");
#else
    const bool fours = true;  // there are no kernels but the portable ones
#endif
    FA_CHECK(maps.value_bytes == (fours ? 1 : 2));
  }
}
