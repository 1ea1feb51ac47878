// The transforms of bfloat16 that this machine can run against their matrices in double: bit for bit on impulses and on
// the small integers of F(2x2), within a derived bound on random values.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/bfloat16.h"
#include "check.h"
#include "cpu/dispatch.h"
#include "kernels.h"
#include "plans.h"
#include "winograd_reference.h"

using namespace faceattr;
using namespace faceattr::cpu;
using namespace faceattr::test;

namespace {

enum class Data { kIntegers, kImpulses, kRandom };

struct Case {
  const NarrowWinogradTransforms& kernel;
  Data data;
  int channels, pitch;  // values from one position of a map or one point to the next

  const WinogradForm& form() const { return kernel.form; }
  WinogradMatrices matrices() const { return winograd_matrices(form().stride, form().output); }
  // Of integers of -4 … 4; of one position per channel; of anything.
  std::vector<float> values(int positions, std::uint32_t seed) const {
    const std::size_t size = static_cast<std::size_t>(positions) * pitch;
    if (data == Data::kIntegers) return integers<float>(size, seed, -4, 4);
    if (data == Data::kRandom) return random_values(size, seed);
    std::vector<float> result(size, 0.0f);
    for (int c = 0; c < channels; ++c) result[c % positions * pitch + c] = c % 2 == 0 ? 1.0f : -2.0f;
    return result;
  }
};

std::vector<std::int32_t> bits(const std::vector<float>& values) {
  std::vector<std::int32_t> result(values.size());
  std::memcpy(result.data(), values.data(), values.size() * sizeof(float));
  return result;
}

void check_input(const Case& c, int rows, int columns) {
  const int side = c.form().side, points = c.form().points();
  std::vector<std::int16_t> src;
  for (float value : c.values(side * side, 31)) src.push_back(to_bfloat16(value));
  const Matrix bt = c.matrices().bt, absolute = magnitudes(bt);
  std::vector<std::int16_t> dst(static_cast<std::size_t>(points) * c.pitch, kIntegerCanary);
  NarrowInputArgs args;
  args.src = src.data();
  args.pixel_pitch = c.pitch;
  args.row_pitch = static_cast<std::int64_t>(side) * c.pitch;
  args.rows = rows;
  args.columns = columns;
  args.channels = c.channels;
  args.dst = dst.data();
  args.point_pitch = c.pitch;
  c.kernel.input(args);
  for (int i = 0; i < c.channels; ++i) {
    std::vector<double> tile(side * side, 0.0), sizes(tile);
    for (int y = 0; y < rows; ++y) {
      for (int x = 0; x < columns; ++x) {
        tile[y * side + x] = from_bfloat16(src[(y * side + x) * c.pitch + i]);
        sizes[y * side + x] = std::abs(tile[y * side + x]);
      }
    }
    const std::vector<double> expected = sandwich(bt, tile), magnitude = sandwich(absolute, sizes);
    for_each_point(c.form(), [&](int p, int at) {
      const std::int16_t got = dst[p * c.pitch + i];
      if (c.data == Data::kRandom) {  // in float32, then to 8 bits: half of 2^-7
        const double sum = bound(2 * side, magnitude[at]);
        FA_CHECK_MESSAGE(std::abs(from_bfloat16(got) - expected[at]) <= sum + (std::abs(expected[at]) + sum) / 256,
                         c.kernel.name);
      } else {  // a float32 number, then the nearest
        FA_CHECK_MESSAGE(from_bfloat16(got) == from_bfloat16(to_bfloat16(static_cast<float>(expected[at]))),
                         c.kernel.name);
      }
    });
  }
  FA_CHECK(std::count(dst.begin(), dst.end(), kIntegerCanary) == points * (c.pitch - c.channels));
}

struct Store {
  int rows, columns;
  bool direct, residual, relu, floats, narrow;
};

void check_output(const Case& c, const Store& store) {
  const int side = c.form().side, points = c.form().points(), out = c.form().output;
  const int row = 2, column = 3, first = 4;  // of a larger map
  const int width = column + out, map_pitch = first + c.pitch;
  const auto rest = [&](std::size_t count, std::uint32_t seed) {
    return c.data == Data::kRandom ? random_values(count, seed) : integers<float>(count, seed, -4, 4);
  };
  const std::vector<float> products = c.values(points, 32);
  const std::size_t map_size = static_cast<std::size_t>(row + out) * width * map_pitch;
  const std::vector<float> bias = rest(first + c.channels, 33), added = rest(map_size, 34);
  const std::vector<float> direct = rest(static_cast<std::size_t>(out) * out * c.pitch, 35);
  const std::vector<std::int32_t> product_bits = bits(products), bias_bits = bits(bias), direct_bits = bits(direct);
  const Matrix at = c.matrices().at, absolute = magnitudes(at);
  std::vector<float> floats(map_size, kCanary);
  std::vector<std::int16_t> narrow(map_size, kIntegerCanary);
  NarrowOutputArgs args;
  args.src = product_bits.data();
  args.point_pitch = c.pitch;
  args.direct = store.direct ? direct_bits.data() : nullptr;
  args.direct_pixel_pitch = c.pitch;
  args.direct_row_pitch = static_cast<std::int64_t>(out) * c.pitch;
  args.first_channel = first;
  args.channels = c.channels;
  args.row = row;
  args.column = column;
  args.rows = store.rows;
  args.columns = store.columns;
  NarrowStore& to = args.store;
  to.bias = bias_bits.data();
  to.relu = store.relu;
  to.floats = store.floats ? floats.data() : nullptr;
  to.residual = store.residual ? added.data() : nullptr;
  to.narrow = store.narrow ? narrow.data() : nullptr;
  to.floats_pixel_pitch = to.residual_pixel_pitch = to.narrow_pixel_pitch = map_pitch;
  to.floats_row_pitch = to.residual_row_pitch = to.narrow_row_pitch = std::int64_t{width} * map_pitch;
  c.kernel.output(args);
  int written = 0;
  for (int i = 0; i < c.channels; ++i) {
    std::vector<double> tile(side * side, 0.0), sizes(tile);
    for_each_point(c.form(), [&](int p, int place) {
      tile[place] = products[p * c.pitch + i];
      sizes[place] = std::abs(tile[place]);
    });
    const std::vector<double> expected = sandwich(at, tile), magnitude = sandwich(absolute, sizes);
    for (int y = 0; y < store.rows; ++y) {
      for (int x = 0; x < store.columns; ++x, ++written) {
        const std::size_t place = ((row + y) * width + column + x) * static_cast<std::size_t>(map_pitch) + first + i;
        const double shortcut = store.residual ? added[place] : 0.0;
        const double sums = store.direct ? direct[(y * out + x) * c.pitch + i] : 0.0;
        double value = expected[y * out + x] + sums + bias[first + i] + shortcut;
        if (store.relu) value = std::max(value, 0.0);
        const double terms = magnitude[y * out + x] + std::abs(sums) + std::abs(bias[first + i]) + std::abs(shortcut);
        const double allowed = c.data == Data::kIntegers ? 0.0 : bound(2 * side + 3, terms);
        if (store.floats) FA_CHECK_MESSAGE(std::abs(floats[place] - value) <= allowed, c.kernel.name);
        if (!store.narrow) continue;
        const float got = from_bfloat16(narrow[place]);
        FA_CHECK_MESSAGE(std::abs(got - value) <= allowed + (std::abs(value) + allowed) / 256, c.kernel.name);
        if (store.floats) FA_CHECK_MESSAGE(narrow[place] == to_bfloat16(floats[place]), c.kernel.name);
      }
    }
  }
  const auto left = static_cast<std::int64_t>(map_size) - written;
  FA_CHECK(std::count(floats.begin(), floats.end(), kCanary) == (store.floats ? left : left + written));
  FA_CHECK(std::count(narrow.begin(), narrow.end(), kIntegerCanary) == (store.narrow ? left : left + written));
}

// Input transforms take channels by fours.
template <class Check>
void for_each_case(const std::vector<int>& channel_counts, const Check& check) {
  for (const Bfloat16WinogradKernel* kernel : runnable(kernel_lists().Bfloat16Winograd)) {
    for (const NarrowWinogradTransforms& transforms : kernel->transforms) {
      const int positions = transforms.form.side * transforms.form.side / 4 * 4 + 4;
      check(Case{transforms, Data::kImpulses, positions, positions + 4});
      for (int channels : channel_counts) {
        if (transforms.form.output == 2) check(Case{transforms, Data::kIntegers, channels, channels + 4});
        check(Case{transforms, Data::kRandom, channels, channels + 4});
      }
    }
  }
}

}  // namespace

FA_TEST(input_transforms_of_bfloat16) {
  for_each_case({4, 8, 12, 16, 28, 36}, [](const Case& c) {
    const int side = c.form().side;
    for (const auto& [rows, columns] :
         {std::pair{side, side}, {side, 3}, {side - 2, side}, {3, 3}, {side - 1, side - 1}}) {
      check_input(c, std::min(rows, side), std::min(columns, side));
    }
  });
}

FA_TEST(output_transforms_of_bfloat16) {
  for_each_case({1, 7, 8, 16, 21, 35}, [](const Case& c) {
    const int out = c.form().output;
    for (const auto& [rows, columns] : {std::pair{out, out}, {out, 1}, {1, out}, {out - 1, out - 1}}) {
      for (int mode = 0; mode < 12; ++mode) {
        const bool floats = mode % 3 != 1, narrow = mode % 3 != 0, odd = mode % 2 == 1;
        const bool residual = floats && mode >= 6;
        check_output(c, {rows, columns, odd, residual, mode % 4 >= 2, floats, narrow});
      }
    }
  });
}

FA_TEST(forms_of_bfloat16_are_those_of_the_plan) {
  for (const auto& candidate : kernel_lists().Bfloat16Winograd) {
    for (int i = 0; i < kWinogradFormCount; ++i) {
      const WinogradForm &form = candidate.kernel->transforms[i].form, &wanted = kWinogradForms[i];
      FA_CHECK(form.stride == wanted.stride && form.output == wanted.output);
    }
  }
}
