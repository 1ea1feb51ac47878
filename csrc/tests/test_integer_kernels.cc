// What lies around the convolutions of integer maps, on every instruction set that this machine can run: pixels as
// integers, means. Exact, against plain integers.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "cpu/dispatch.h"
#include "kernels.h"
#include "plans.h"

using namespace faceattr;
using namespace faceattr::cpu;
using namespace faceattr::test;

FA_TEST(shifted_means_of_integers) {
  for (const IsaLevel& level : runnable_levels()) {
    const ShiftedMeansKernel* kernel = &best(kernel_lists().ShiftedMeans, level.features);
    for (int size : {1, 2, 5, 7}) {
      for (int taps : {1, 3}) {
        for (int stride : {1, 2, 3}) {
          for (int count : {1, 8, 19, kShiftedMeansChannels, kShiftedMeansChannels + 7}) {
            const int pitch = count + 3, out = strided(size, stride), pad = taps / 2, low = count % 2 == 0 ? 0 : -128;
            const auto src = integers<std::int16_t>(static_cast<std::size_t>(size) * size * pitch, 7, low, low + 255);
            const std::vector<float> scale = random_values(count, 8);
            std::vector<std::uint8_t> bytes;
            for (std::int16_t value : src) bytes.push_back(static_cast<std::uint8_t>(value - low));
            std::vector<float> dst(static_cast<std::size_t>(taps) * taps * count + 1, kCanary);
            ShiftedMeansArgs args;
            if (stores_bytes(level)) {
              args.bytes = bytes.data() + 1;
            } else {
              args.narrow = src.data() + 1;
            }
            args.low = low;
            args.scale = scale.data();
            args.pixel_pitch = pitch;
            args.row_pitch = static_cast<std::int64_t>(size) * pitch;
            args.height = args.width = size;
            args.out_height = args.out_width = out;
            args.kernel = taps;
            args.stride = stride;
            args.count = count;
            args.dst = dst.data();
            for (int tap = 0; tap < taps * taps; ++tap) {
              for (int c = 0; c < count; c += kShiftedMeansChannels) {
                kernel->run_integers(args, tap, c, std::min(c + kShiftedMeansChannels, count));
              }
            }
            const float share = 1.0f / static_cast<float>(out * out);
            for (int tap = 0; tap < taps * taps; ++tap) {
              for (int c = 0; c < count; ++c) {
                std::int64_t sum = 0;
                for (int oy = 0; oy < out; ++oy) {
                  for (int ox = 0; ox < out; ++ox) {
                    const int y = oy * stride + tap / taps - pad, x = ox * stride + tap % taps - pad;
                    if (y >= 0 && y < size && x >= 0 && x < size) sum += src[(y * size + x) * pitch + 1 + c];
                  }
                }
                volatile float factor = scale[c] * share;
                volatile float mean = static_cast<float>(sum) * factor;
                FA_CHECK_MESSAGE(same_bits(dst[tap * count + c], mean), kernel->name);
              }
            }
            FA_CHECK(dst.back() == kCanary);
          }
        }
      }
    }
  }
}

FA_TEST(uint8_pixels_as_integers) {
  for (const StemKernel* kernel : runnable(kernel_lists().Stem)) {
    for (const float mean : {127.5f, 0.0f, 100.0f, 100.25f, 3.3f, -40000.0f, 40000.0f}) {
      const int width = 259;  // every value of a pixel, thrice, and an odd end
      std::vector<std::uint8_t> row(3 * width);
      std::vector<float> means(3 * width), scales(3 * width, 1.0f);
      std::vector<std::int16_t> dst(3 * width + 1, kIntegerCanary);
      for (int i = 0; i < 3 * width; ++i) {
        row[i] = static_cast<std::uint8_t>(i / 3 + i);
        means[i] = mean + static_cast<float>(i % 3);
      }
      kernel->load_u8_integers({width, means.data(), scales.data(), dst.data()}, row.data());
      for (int i = 0; i < 3 * width; ++i) {
        const float difference = static_cast<float>(row[i]) - means[i];
        const float expected = std::min(std::max(std::nearbyint(2.0f * difference), -32767.0f), 32767.0f);
        FA_CHECK_MESSAGE(static_cast<float>(dst[i]) == expected, kernel->name);
        if (mean == 127.5f) FA_CHECK(dst[i] == 2 * row[i] - 255 - 2 * (i % 3));  // exact: nothing was rounded
      }
      FA_CHECK(dst.back() == kIntegerCanary);
    }
  }
}

FA_TEST(float_pixels_as_integers) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const StemKernel* kernel : runnable(kernel_lists().Stem)) {
    for (int width : {4, 16, 20, 33, 85}) {
      const float factors[] = {0.5f, 0.25f, 255.0f};
      std::vector<float> planes(3 * width), means(3 * width, 0.0f), scales(3 * width);
      for (int i = 0; i < 3 * width; ++i) {
        planes[i] = i < 2 * width ? static_cast<float>(i % width - width / 2) : 0.01f * static_cast<float>(i % width);
        scales[i] = factors[i % 3];
      }
      std::vector<std::int16_t> dst(3 * width + 1, kIntegerCanary);
      const auto load = [&] {
        const LoadIntegersArgs args = {width, means.data(), scales.data(), dst.data()};
        return kernel->load_f32_integers(args, planes.data(), planes.data() + width, planes.data() + 2 * width);
      };
      const auto check = [&] {
        for (int i = 0; i < 3 * width; ++i) {
          const float scaled = planes[i % 3 * width + i / 3] * factors[i % 3];
          const float expected = std::min(std::max(std::nearbyint(scaled), -32767.0f), 32767.0f);
          FA_CHECK_MESSAGE(static_cast<float>(dst[i]) == expected, kernel->name);
        }
        FA_CHECK(dst.back() == kIntegerCanary);
      };
      FA_CHECK(load());  // halves, which go to the even neighbour, among them
      check();
      planes[0] = 1e30f;
      planes[1] = -1e30f;
      planes[2 * width] = std::numeric_limits<float>::max();  // finite, but not once it is scaled
      FA_CHECK(load());
      check();
      for (const float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
        for (int at : {0, width, 3 * width - 1}) {
          const float before = planes[at];
          planes[at] = bad;
          FA_CHECK_MESSAGE(!load(), kernel->name);
          planes[at] = before;
        }
      }
    }
  }
}

FA_TEST(float_pixels_as_bytes) {
  for (const StemKernel* kernel : runnable(kernel_lists().Stem)) {
    for (int width : {4, 20, 64, 85}) {
      std::vector<std::uint8_t> expected(3 * width), dst(3 * width + 1);
      std::vector<std::int32_t> means(3 * width);
      std::vector<float> planes(3 * width), scales(3 * width);
      for (int i = 0; i < 3 * width; ++i) {
        expected[i] = static_cast<std::uint8_t>(i % 2 == 0 ? 37 * i : 255 - i % 3);
        means[i] = 255 - 2 * (i % 3);
        scales[i] = static_cast<float>(100 + i % 3);
        planes[i % 3 * width + i / 3] = static_cast<float>(2 * expected[i] - means[i]) / scales[i];
      }
      dst.back() = kByteCanary;
      const auto load = [&] {
        const LoadBytesArgs args = {width, means.data(), scales.data(), dst.data()};
        return kernel->load_f32_bytes(args, planes.data(), planes.data() + width, planes.data() + 2 * width);
      };
      FA_CHECK_MESSAGE(load(), kernel->name);
      FA_CHECK_MESSAGE(std::equal(expected.begin(), expected.end(), dst.begin()), kernel->name);
      FA_CHECK(dst.back() == kByteCanary);
      const auto refuses = [&](int at, float value) {
        const float before = planes[at];
        planes[at] = value;
        FA_CHECK_MESSAGE(!load(), kernel->name);
        planes[at] = before;
      };
      for (int at : {0, width, 3 * width - 1}) {
        const float scale = scales[at / width];  // of plane 0, 1 or 2
        const auto mean = static_cast<float>(means[at / width]);
        refuses(at, (7 - mean) / scale);  // between two bytes
        refuses(at, (-2 - mean) / scale);
        refuses(at, (512 - mean) / scale);
        refuses(at, std::numeric_limits<float>::max());
        refuses(at, std::numeric_limits<float>::infinity());
        refuses(at, std::numeric_limits<float>::quiet_NaN());
      }
      FA_CHECK_MESSAGE(load(), kernel->name);
    }
  }
}
