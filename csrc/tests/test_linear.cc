// Every kernel of heads that this machine can run, with weights of 32 and of 16 bits, against plain sums in double.
#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/dispatch.h"
#include "cpu/kernels/linear/generic.h"
#include "cpu/pack.h"
#include "cpu/simd/portable.h"
#include "kernels.h"

using namespace faceattr;
using namespace faceattr::cpu;
using faceattr::test::bound;
using faceattr::test::kCanary;
using faceattr::test::runnable;
using faceattr::test::values;

namespace {

// Bits of the float16 number next to `value` towards zero; normal, or zero.
std::uint16_t to_half(float value) {
  if (value == 0) return 0;
  int exponent;
  const double fraction = std::frexp(std::abs(value), &exponent);  // 0.5 ... 1
  const int bits = ((exponent + 14) << 10) | (static_cast<int>(fraction * 2048) & 1023);
  return static_cast<std::uint16_t>((value < 0 ? 0x8000 : 0) | bits);
}

double from_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

std::vector<const LinearKernel*> linear_kernels() {
  static const LinearKernel wide = {"linear_f32_2x32_portable", Linear<PortableF32<16>, 2>::kPanel, 2,
                                    Linear<PortableF32<16>, 2>::run, Linear<PortableF32<16>, 2>::run_half};
  std::vector<const LinearKernel*> kernels = runnable(kernel_lists().Linear);
  kernels.push_back(&wide);
  return kernels;
}

void test_linear(const LinearKernel& kernel, int oc, int k1, bool integers, bool half) {
  // A group of images and one more, each with its results behind its vectors.
  const int k2 = 6, gap = 3, k = k1 + k2, images = kernel.images + 1, pitch = k + gap + oc + 1;
  std::vector<float> rows = values(static_cast<std::size_t>(images) * pitch, 11, integers);
  for (int n = 0; n < images; ++n) std::fill_n(rows.begin() + n * pitch + k + gap, oc + 1, kCanary);
  std::vector<float> weight = values(static_cast<std::size_t>(oc) * k, 12, integers);
  const std::vector<float> bias = values(oc, 13, integers);
  std::vector<std::uint16_t> half_weight;
  std::vector<float> scale;
  if (half) {
    for (int o = 0; o < oc; ++o) scale.push_back(std::ldexp(1.0f, o % 5 - 2));
    for (std::size_t i = 0; i < weight.size(); ++i) {
      half_weight.push_back(to_half(weight[i]));
      weight[i] = static_cast<float>(from_half(half_weight[i])) * scale[i / k];
    }
  }
  const AlignedBuffer packed =
      half ? pack_panels(half_weight, oc, k, kernel.panel) : pack_panels(weight, oc, k, kernel.panel);
  const AlignedBuffer packed_bias = pack_bias(bias, kernel.panel), packed_scale = pack_bias(scale, kernel.panel);
  const LinearPart parts[] = {{0, k1}, {k1 + gap, k2}};
  LinearArgs args;
  args.base = rows.data();
  args.images = images;
  args.image_pitch = pitch;
  args.parts = parts;
  args.part_count = 2;
  args.weights = packed.data();
  args.half_weights = reinterpret_cast<const std::uint16_t*>(packed.data());
  args.bias = packed_bias.data();
  args.scale = packed_scale.data();
  args.k = k;
  args.out_channels = oc;
  args.dst = rows.data() + k + gap;
  for (int p = 0; p < panel_count(oc, kernel.panel); ++p) (half ? kernel.run_half : kernel.run)(args, p);
  const std::string name = std::string(kernel.name) + (half ? " with float16 weights" : "");
  for (int at = 0; at < images * oc; ++at) {
    const int o = at % oc;
    const float* src = rows.data() + at / oc * pitch;
    const float* dst = src + k + gap;
    double sum = bias[o], magnitude = std::abs(bias[o]);
    for (int i = 0; i < k; ++i) {
      const double v = static_cast<double>(weight[static_cast<std::size_t>(o) * k + i]) * src[i < k1 ? i : i + gap];
      sum += v;
      magnitude += std::abs(v);
    }
    // A chain is at most a quarter of a block, then pairs, then blocks; a scale moves no bits.
    const double chain = kLinearBlock / 4 + 2 + k / kLinearBlock + 2;
    if (integers) {
      FA_CHECK_MESSAGE(dst[o] == sum, name + " on integers");
    } else {
      FA_CHECK_MESSAGE(std::abs(dst[o] - sum) <= bound(chain, magnitude), name);
    }
  }
  // By itself, each image comes to the same bits.
  const std::vector<float> together = rows;
  args.images = 1;
  for (int n = 0; n < images; ++n) {
    args.base = rows.data() + n * pitch;
    args.dst = rows.data() + n * pitch + k + gap;
    for (int p = 0; p < panel_count(oc, kernel.panel); ++p) (half ? kernel.run_half : kernel.run)(args, p);
  }
  FA_CHECK_MESSAGE(rows == together, name);
  for (int n = 0; n < images; ++n) FA_CHECK(rows[n * pitch + k + gap + oc] == kCanary);
}

}  // namespace

FA_TEST(linear) {
  for (const LinearKernel* kernel : linear_kernels()) {
    for (int oc : {1, kernel->panel - 1, kernel->panel, kernel->panel + 1}) {
      for (int k1 : {1, 3, 4, kLinearBlock - 1, kLinearBlock, kLinearBlock + 1, 1152}) {
        for (bool integers : {true, false}) {
          for (bool half : {false, true}) test_linear(*kernel, oc, k1, integers, half);
        }
      }
    }
  }
}

// Every finite float16 number, subnormal ones too, as the only weight of its output.
FA_TEST(linear_widens_float16_exactly) {
  std::vector<std::uint16_t> weight;
  for (int bits = 0; bits < 1 << 16; ++bits) {
    if ((bits >> 10 & 31) != 31) weight.push_back(static_cast<std::uint16_t>(bits));
  }
  const int oc = static_cast<int>(weight.size());
  for (const LinearKernel* kernel : linear_kernels()) {
    const AlignedBuffer packed = pack_panels(weight, oc, 1, kernel->panel);
    const AlignedBuffer bias = pack_bias(std::vector<float>(oc, 0.0f), kernel->panel);
    const AlignedBuffer scale = pack_bias(std::vector<float>(oc, 4.0f), kernel->panel);
    const float one = 1;
    const LinearPart part = {0, 1};
    std::vector<float> dst(oc);
    LinearArgs args;
    args.base = &one;
    args.parts = &part;
    args.part_count = 1;
    args.half_weights = reinterpret_cast<const std::uint16_t*>(packed.data());
    args.bias = bias.data();
    args.scale = scale.data();
    args.k = 1;
    args.out_channels = oc;
    args.dst = dst.data();
    for (int p = 0; p < panel_count(oc, kernel->panel); ++p) kernel->run_half(args, p);
    for (int o = 0; o < oc; ++o) FA_CHECK_MESSAGE(dst[o] == 4 * from_half(weight[o]), kernel->name);
  }
}
