// The transforms of every Winograd kernel that this machine can run against their matrices in double: bit for bit on
// impulses, where each value is one product of factors, and on small integers where factors are integers; within a
// derived bound on random values.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/dispatch.h"
#include "kernels.h"
#include "plans.h"
#include "winograd_reference.h"

using namespace faceattr;
using namespace faceattr::cpu;
using faceattr::test::bound;
using faceattr::test::for_each_point;
using faceattr::test::kCanary;
using faceattr::test::Matrix;
using faceattr::test::runnable;

namespace {

enum class Data { kIntegers, kImpulses, kRandom };

// [position][channel], `pitch` from one position to the next. Impulses: one position per channel is not zero.
std::vector<float> values(Data data, int positions, int channels, int pitch, std::uint32_t seed) {
  const std::size_t size = static_cast<std::size_t>(positions) * pitch;
  if (data == Data::kIntegers) return test::integers<float>(size, seed, -4, 4);
  if (data == Data::kRandom) return test::random_values(size, seed);
  std::vector<float> result(size, 0.0f);
  for (int c = 0; c < channels; ++c) result[c % positions * pitch + c] = c % 2 == 0 ? 1.0f : -2.0f;
  return result;
}

struct Case {
  const WinogradTransforms& kernel;
  Data data;
  int channels, pitch;  // floats from one position of a map or one point to the next

  const WinogradForm& form() const { return kernel.form; }
  test::WinogradMatrices matrices() const { return test::winograd_matrices(form().stride, form().output); }
  // `terms`: sums along both axes, magnitudes of all that is added.
  void check(float got, double expected, int terms, double magnitude) const {
    const double allowed = data == Data::kRandom ? bound(terms, magnitude) : 0.0;
    FA_CHECK_MESSAGE(std::abs(got - expected) <= allowed, kernel.name);
  }
};

void check_input(const Case& c, int rows, int columns) {
  const int side = c.form().side, points = c.form().points();
  const std::vector<float> src = values(c.data, side * side, c.channels, c.pitch, 31);
  const Matrix bt = c.matrices().bt, absolute = test::magnitudes(bt);
  std::vector<float> dst(static_cast<std::size_t>(points) * c.pitch, kCanary);
  WinogradInputArgs args;
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
        tile[y * side + x] = src[(y * side + x) * c.pitch + i];
        sizes[y * side + x] = std::abs(tile[y * side + x]);
      }
    }
    const std::vector<double> expected = test::sandwich(bt, tile), magnitude = test::sandwich(absolute, sizes);
    for_each_point(c.form(),
                   [&](int p, int at) { c.check(dst[p * c.pitch + i], expected[at], 2 * side, magnitude[at]); });
  }
  FA_CHECK(std::count(dst.begin(), dst.end(), kCanary) == points * (c.pitch - c.channels));
}

void check_output(const Case& c, int rows, int columns, bool residual, bool relu) {
  const int side = c.form().side, points = c.form().points(), out = c.form().output;
  const Data rest = c.data == Data::kRandom ? Data::kRandom : Data::kIntegers;
  const std::vector<float> products = values(c.data, points, c.channels, c.pitch, 32);
  const std::vector<float> added = values(rest, out * out, c.channels, c.channels, 34);
  std::vector<float> bias = values(rest, 1, c.channels, c.channels, 33);
  if (c.data == Data::kImpulses) bias.assign(c.channels, 0.0f);  // an integer and 4^-8 are no float32 number
  const Matrix at = c.matrices().at, absolute = test::magnitudes(at);
  std::vector<float> dst(static_cast<std::size_t>(out) * out * c.pitch, kCanary);
  WinogradOutputArgs args;
  args.src = products.data();
  args.point_pitch = c.pitch;
  args.channels = c.channels;
  args.bias = bias.data();
  args.residual = residual ? added.data() : nullptr;
  args.residual_pixel_pitch = c.channels;
  args.residual_row_pitch = static_cast<std::int64_t>(out) * c.channels;
  args.relu = relu;
  args.dst = dst.data();
  args.dst_pixel_pitch = c.pitch;
  args.dst_row_pitch = static_cast<std::int64_t>(out) * c.pitch;
  args.rows = rows;
  args.columns = columns;
  c.kernel.output(args);
  for (int i = 0; i < c.channels; ++i) {
    std::vector<double> tile(side * side, 0.0), sizes(tile);
    for_each_point(c.form(), [&](int p, int at) {
      tile[at] = products[p * c.pitch + i];
      sizes[at] = std::abs(tile[at]);
    });
    const std::vector<double> expected = test::sandwich(at, tile), magnitude = test::sandwich(absolute, sizes);
    for (int y = 0; y < rows; ++y) {
      for (int x = 0; x < columns; ++x) {
        const double shortcut = residual ? added[(y * out + x) * c.channels + i] : 0.0;
        double value = expected[y * out + x] + bias[i] + shortcut;
        if (relu) value = std::max(value, 0.0);
        c.check(dst[(y * out + x) * c.pitch + i], value, 2 * side + 2,
                magnitude[y * out + x] + std::abs(bias[i]) + std::abs(shortcut));
      }
    }
  }
  FA_CHECK(std::count(dst.begin(), dst.end(), kCanary) == out * out * c.pitch - rows * columns * c.channels);
}

template <class Check>
void for_each_case(const Check& check) {
  for (const WinogradKernel* kernel : runnable(kernel_lists().Winograd)) {
    for (const WinogradTransforms& transforms : kernel->transforms) {
      const WinogradForm& form = transforms.form;
      const bool whole = form.output == 2;  // the others have factors with many bits
      const int positions = form.side * form.side;
      check(Case{transforms, Data::kImpulses, positions, positions + 5});
      check(Case{transforms, Data::kImpulses, positions + 18, positions + 20});
      for (int channels : {1, 7, 8, 16, 21}) {
        if (whole) check(Case{transforms, Data::kIntegers, channels, channels + 5});
        check(Case{transforms, Data::kRandom, channels, channels + 5});
      }
    }
  }
}

}  // namespace

FA_TEST(input_transforms) {
  for_each_case([](const Case& c) {
    const int side = c.form().side;
    for (const auto& [rows, columns] :
         {std::pair{side, side}, {side, 3}, {side - 2, side}, {3, 3}, {side - 1, side - 1}}) {
      check_input(c, std::min(rows, side), std::min(columns, side));
    }
  });
}

FA_TEST(output_transforms) {
  for_each_case([](const Case& c) {
    const int out = c.form().output;
    for (const auto& [rows, columns] : {std::pair{out, out}, {out, 1}, {1, out}, {out - 1, out - 1}}) {
      for (int mode = 0; mode < 4; ++mode) {
        const bool residual = (mode & 1) != 0 && c.data != Data::kImpulses;
        check_output(c, rows, columns, residual, (mode & 2) != 0);
      }
    }
  });
}

FA_TEST(points_of_a_form_share_filters_along_untransformed_axes) {
  for (const WinogradForm& form : kWinogradForms) {
    std::vector<int> points, uses(form.filters(), 0);
    for (int y = 0; y < form.side; ++y) {
      for (int x = 0; x < form.side; ++x) {
        if (!form.has_point(y, x)) continue;
        points.push_back(form.point(y, x));
        ++uses[form.filter(y, x)];
      }
    }
    for (int p = 0; p < form.points(); ++p) FA_CHECK(points[p] == p);  // row-major, without gaps
    FA_CHECK(static_cast<int>(points.size()) == form.points());
    for (int f = 0; f < form.filters(); ++f) {  // 5x5 filters are used once, 5 per axis for the four inputs as they are
      const bool untransformed = form.stride == 2 && (f % 6 == 5 || f >= 30);
      FA_CHECK(uses[f] == (untransformed ? 4 : 1));
    }
  }
}

FA_TEST(forms_are_those_of_the_plan) {
  for (int stride : {1, 2, 3}) {
    for (int tile = 1; tile <= 8; ++tile) {
      const int form = winograd_form(stride, tile);
      FA_CHECK(winograd_filters(stride, tile) == (form < 0 ? 0 : kWinogradForms[form].filters()));
    }
  }
  for (const auto& candidate : kernel_lists().Winograd) {
    for (int i = 0; i < kWinogradFormCount; ++i) {
      const WinogradForm &form = candidate.kernel->transforms[i].form, &wanted = kWinogradForms[i];
      FA_CHECK(form.stride == wanted.stride && form.output == wanted.output);
    }
  }
}

FA_TEST(points_reach_the_outputs_that_their_column_says) {
  for (const WinogradForm& form : kWinogradForms) {
    const Matrix at = test::winograd_matrices(form.stride, form.output).at;
    for (int point = 0; point < form.side; ++point) {
      bool reaches = false;
      for (int outputs = 1; outputs <= form.output; ++outputs) {
        reaches |= at[outputs - 1][point] != 0;
        FA_CHECK(form.reaches(point, outputs) == reaches);
      }
    }
  }
}
