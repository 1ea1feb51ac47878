// Every kernel of the list that this machine can run, and the AVX-512 tile over portable vectors, against plain sums in
// double: bit for bit on small integers, where every partial sum is exact, and within a derived bound on random values.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/dispatch.h"
#include "cpu/kernels/segmented_conv/generic.h"
#include "cpu/pack.h"
#include "cpu/simd/portable.h"
#include "kernels.h"
#include "plans.h"

using namespace faceattr;
using namespace faceattr::cpu;
using faceattr::test::bound;
using faceattr::test::kCanary;
using faceattr::test::runnable;
using faceattr::test::values;

namespace {

struct ConvCase {
  int oc, ic, height, width, kernel, stride;
  bool relu, residual, slice;
};

void check_conv(const SegmentedConvKernel& kernel, const ConvCase& c, bool integers) {
  // Two segments: a convolution of a bordered source, all channels or a slice of them, and a 1x1 of another source.
  const int total = c.slice ? c.ic + 3 : c.ic, start = c.slice ? 2 : 0, ic2 = 5;
  const int pad = c.kernel / 2;
  const int in_h = (c.height - 1) * c.stride + 1, in_w = (c.width - 1) * c.stride + 1;
  const int row1 = (in_w + 2 * pad) * total, row2 = in_w * ic2;
  const std::vector<float> src1 = values(static_cast<std::size_t>(in_h + 2 * pad) * row1, 1, integers);
  const std::vector<float> src2 = values(static_cast<std::size_t>(in_h) * row2, 2, integers);
  std::vector<float> arena = src1;
  arena.insert(arena.end(), src2.begin(), src2.end());
  const int k1 = c.kernel * c.kernel * c.ic, k = k1 + ic2;
  const std::vector<float> weight = values(static_cast<std::size_t>(c.oc) * k, 3, integers);
  const std::vector<float> bias = values(c.oc, 4, integers);
  const std::vector<float> residual = values(static_cast<std::size_t>(c.height) * c.width * c.oc, 5, integers);

  std::vector<std::int64_t> runs1;
  const int columns = c.slice ? c.kernel : 1;
  for (int ky = 0; ky < c.kernel; ++ky) {
    for (int kx = 0; kx < columns; ++kx) runs1.push_back(ky * row1 + kx * total);
  }
  const std::int64_t runs2[] = {0};
  ConvSegment segments[2];
  segments[0] = {start,
                 static_cast<std::int64_t>(c.stride) * row1,
                 static_cast<std::int64_t>(c.stride) * total,
                 runs1.data(),
                 static_cast<int>(runs1.size()),
                 c.slice ? c.ic : c.kernel * c.ic};
  segments[1] = {static_cast<std::int64_t>(src1.size()),
                 static_cast<std::int64_t>(c.stride) * row2,
                 static_cast<std::int64_t>(c.stride) * ic2,
                 runs2,
                 1,
                 ic2};
  const AlignedBuffer packed = pack_panels(weight, c.oc, k, kernel.panel), packed_bias = pack_bias(bias, kernel.panel);
  SegmentedConvArgs args;
  args.base = arena.data();
  args.segments = segments;
  args.segment_count = 2;
  args.weights = packed.data();
  args.bias = packed_bias.data();
  args.k = k;
  args.out_channels = c.oc;
  args.out_width = c.width;
  args.relu = c.relu;
  args.dst_pixel_pitch = c.oc + 1;
  args.dst_row_pitch = static_cast<std::int64_t>(c.width) * args.dst_pixel_pitch + 3;
  args.residual = c.residual ? residual.data() : nullptr;
  args.residual_pixel_pitch = c.oc;
  args.residual_row_pitch = static_cast<std::int64_t>(c.width) * c.oc;

  const int pixels = c.height * c.width, panels = panel_count(c.oc, kernel.panel);
  std::vector<float> dst(c.height * args.dst_row_pitch, kCanary), cut(dst);
  args.dst = dst.data();
  for (int p = 0; p < panels; ++p) FA_CHECK_MESSAGE(kernel.run(args, 0, pixels, p) == 0, kernel.name);
  args.dst = cut.data();  // the same in pieces of another size: the same bits
  for (int p = panels - 1; p >= 0; --p) {
    for (int begin = 0; begin < pixels; begin += 5) kernel.run(args, begin, std::min(begin + 5, pixels), p);
  }
  FA_CHECK_MESSAGE(dst == cut, kernel.name);
  std::fill(cut.begin(), cut.end(), kCanary);
  args.ahead = reinterpret_cast<const char*>(arena.data());  // what is fetched meanwhile changes nothing
  for (int p = 0; p < panels; ++p) {
    const std::int64_t lines = kernel.run(args, 0, pixels, p) / 64;  // one per step of K in all tiles but two
    FA_CHECK_MESSAGE(lines % k == 0 && lines < pixels * static_cast<std::int64_t>(k), kernel.name);
    FA_CHECK_MESSAGE(lines > 0 || pixels <= 16, kernel.name);  // tiles have up to eight positions
  }
  FA_CHECK_MESSAGE(dst == cut, kernel.name);
  if (c.oc % kernel.panel == 0) {  // without a bias bare sums are written; with one, it comes last
    std::vector<float> bare(dst.size(), kCanary), biased(bare);
    args.residual = nullptr;
    args.relu = false;
    args.dst = biased.data();
    for (int p = 0; p < panels; ++p) kernel.run(args, 0, pixels, p);
    args.bias = nullptr;
    args.dst = bare.data();
    for (int p = 0; p < panels; ++p) kernel.run(args, 0, pixels, p);
    for (int p = 0; p < pixels; ++p) {
      float* sums = bare.data() + p / c.width * args.dst_row_pitch + p % c.width * args.dst_pixel_pitch;
      for (int o = 0; o < c.oc; ++o) sums[o] += bias[o];
    }
    FA_CHECK_MESSAGE(bare == biased, kernel.name);
  }

  int written = 0, zeros = 0;
  for (int y = 0; y < c.height; ++y) {
    for (int x = 0; x < c.width; ++x) {
      for (int o = 0; o < c.oc; ++o) {
        double sum = bias[o], magnitude = std::abs(bias[o]);
        const float* w = weight.data() + static_cast<std::size_t>(o) * k;
        const auto add = [&](double v) {
          sum += v;
          magnitude += std::abs(v);
        };
        for (int ky = 0; ky < c.kernel; ++ky) {
          for (int kx = 0; kx < c.kernel; ++kx) {
            for (int i = 0; i < c.ic; ++i) {
              add(static_cast<double>(*w++) *
                  src1[(y * c.stride + ky) * row1 + (x * c.stride + kx) * total + start + i]);
            }
          }
        }
        for (int i = 0; i < ic2; ++i)
          add(static_cast<double>(*w++) * src2[y * c.stride * row2 + x * c.stride * ic2 + i]);
        if (c.residual) add(residual[(y * c.width + x) * c.oc + o]);
        if (c.relu) sum = std::max(sum, 0.0);
        const float got = dst[y * args.dst_row_pitch + x * args.dst_pixel_pitch + o];
        if (integers) {
          FA_CHECK_MESSAGE(got == sum, std::string(kernel.name) + " on integers");
        } else {
          FA_CHECK_MESSAGE(std::abs(got - sum) <= bound(k, magnitude), kernel.name);
        }
        ++written;
        zeros += got == 0.0f;
      }
    }
  }
  if (written >= 100) FA_CHECK_MESSAGE(zeros * 4 < written * 3, "too many zeros to trust the test");
  FA_CHECK(std::count(dst.begin(), dst.end(), kCanary) == static_cast<std::ptrdiff_t>(dst.size()) - written);
}

}  // namespace

FA_TEST(segmented_conv) {
  static const SegmentedConvKernel wide = {"segmented_conv_f32_6x64_portable", 64,
                                           SegmentedConv<PortableF32<16>, 6, 4>::run};
  std::vector<const SegmentedConvKernel*> kernels = runnable(kernel_lists().SegmentedConv);
  kernels.push_back(&wide);
  for (const SegmentedConvKernel* kernel : kernels) {
    for (int oc : {1, kernel->panel - 1, kernel->panel, kernel->panel + 1, 2 * kernel->panel}) {
      for (int width : {1, 2, 4, 5, 6, 7, 13}) {  // three rows of them, around tiles of six and of eight positions
        for (int kernel_size : {1, 3}) {
          for (int stride : {1, 2, 4}) {
            const bool odd = (oc + width + stride) % 2 != 0;
            const ConvCase c = {oc, 7 + width % 3, 3, width, kernel_size, stride, odd, width % 2 == 0, stride == 2};
            check_conv(*kernel, c, true);
            check_conv(*kernel, c, false);
          }
        }
      }
    }
  }
}

// (1 + e)² − (1 + 2e) is e² rounded once and 0 rounded twice: one answer for vectors of all widths, lanes included.
FA_TEST(portable_products_are_fused_where_every_cpu_can) {
  const float e = 1.0f / 4096, sum = -(1 + 2 * e);
  const std::vector<float> factors(16, 1 + e);
  const float* factor = factors.data();
  float narrow[4], wide[16];
  auto v4 = PortableF32<4>::broadcast(&sum);
  v4.add_product(PortableF32<4>::broadcast(factor), PortableF32<4>::load(factor));
  v4.store(narrow);
  auto v16 = PortableF32<16>::broadcast(&sum);
  v16.add_product(PortableF32<16>::broadcast(factor), PortableF32<16>::load(factor));
  v16.store(wide);
#if defined(__aarch64__)
  const float expected = e * e;
  const float lanes[4] = {0, 0, 1 + e, 0};
  auto by_lane = PortableF32<4>::broadcast(&sum);
  by_lane.add_product_lane<2>(PortableF32<4>::load(lanes), PortableF32<4>::load(factor));
  float lane_result[4];
  by_lane.store(lane_result);
  for (const float value : lane_result) FA_CHECK(value == expected);
#else
  const float expected = 0;
#endif
  for (const float value : narrow) FA_CHECK(value == expected);
  for (const float value : wide) FA_CHECK(value == expected);
}

FA_TEST(shifted_means) {
  for (const ShiftedMeansKernel* kernel : runnable(kernel_lists().ShiftedMeans)) {
    for (int size : {1, 2, 5, 7}) {
      for (int taps : {1, 3}) {
        for (int stride : {1, 2, 3}) {
          for (int count : {1, 8, 19, 35}) {
            const int channels = count + 2, out = strided(size, stride), pad = taps / 2;
            const std::vector<float> src = values(static_cast<std::size_t>(size) * size * channels, 7, true);
            std::vector<float> dst(static_cast<std::size_t>(taps) * taps * count + 1, kCanary);
            ShiftedMeansArgs args;
            args.src = src.data() + 1;
            args.pixel_pitch = channels;
            args.row_pitch = static_cast<std::int64_t>(size) * channels;
            args.height = args.width = size;
            args.out_height = args.out_width = out;
            args.kernel = taps;
            args.stride = stride;
            args.count = count;
            args.dst = dst.data();
            for (int tap = 0; tap < taps * taps; ++tap) kernel->run(args, tap, 0, count);
            for (int tap = 0; tap < taps * taps; ++tap) {
              for (int c = 0; c < count; ++c) {
                float sum = 0;
                for (int oy = 0; oy < out; ++oy) {
                  for (int ox = 0; ox < out; ++ox) {
                    const int y = oy * stride + tap / taps - pad, x = ox * stride + tap % taps - pad;
                    if (y >= 0 && y < size && x >= 0 && x < size) sum += src[(y * size + x) * channels + 1 + c];
                  }
                }
                FA_CHECK_MESSAGE(dst[tap * count + c] == sum * (1.0f / static_cast<float>(out * out)), kernel->name);
              }
            }
            FA_CHECK(dst.back() == kCanary);
          }
        }
      }
    }
  }
}

FA_TEST(pixels_as_floats) {
  for (const StemKernel* kernel : runnable(kernel_lists().Stem)) {
    for (int width : {4, 20, 33}) {
      std::vector<std::uint8_t> row(3 * width);
      std::vector<float> mean(3 * width), inverse(3 * width), dst(3 * width + 1, kCanary);
      for (int i = 0; i < 3 * width; ++i) {
        row[i] = static_cast<std::uint8_t>(37 * i);
        mean[i] = 100.0f + i % 3;
        inverse[i] = 1.0f / (50.0f + i % 3);
      }
      const LoadRowArgs args = {width, mean.data(), inverse.data(), dst.data()};
      kernel->load_u8(args, row.data());
      for (int i = 0; i < 3 * width; ++i) FA_CHECK(dst[i] == (static_cast<float>(row[i]) - mean[i]) * inverse[i]);
      FA_CHECK(dst.back() == kCanary);

      std::vector<float> planes = values(3 * width, 21, false);
      const auto load = [&] {
        return kernel->load_f32(args, planes.data(), planes.data() + width, planes.data() + 2 * width);
      };
      FA_CHECK(load());
      for (int i = 0; i < 3 * width; ++i) FA_CHECK(dst[i] == planes[i % 3 * width + i / 3]);
      planes[0] = std::numeric_limits<float>::max();
      FA_CHECK(load());
      for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::quiet_NaN()}) {
        for (int at : {0, width, 3 * width - 1}) {
          const float before = planes[at];
          planes[at] = bad;
          FA_CHECK(!load());
          planes[at] = before;
        }
      }
    }
  }
}

FA_TEST(every_family_has_a_kernel_for_every_machine) {
  FA_CHECK(kernel_lists().SegmentedConv.back().features == 0);
  FA_CHECK(kernel_lists().QuantizedConv.back().features == 0);
  FA_CHECK(kernel_lists().ShiftedMeans.back().features == 0);
  FA_CHECK(kernel_lists().Linear.back().features == 0);
  FA_CHECK(kernel_lists().Stem.back().features == 0);
  FA_CHECK(kernel_lists().Winograd.back().features == 0);
  FA_CHECK(kernel_lists().FloatStem.back().features == 0);
  FA_CHECK(kernel_lists().QuadStem.back().features == 0);
  FA_CHECK(kernel_lists().PairStem.back().features == 0);
  FA_CHECK(kernel_lists().Bfloat16Stem.back().features == 0);
  FA_CHECK(kernel_lists().Bfloat16Winograd.back().features == 0);
  FA_CHECK(&best(kernel_lists().Linear, 0) == kernel_lists().Linear.back().kernel);
}
