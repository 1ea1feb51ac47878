// The forms of kernels/winograd by their matrices, in double, from their points: what the kernels' factored transforms
// are compared with.
#pragma once

#include <cmath>
#include <vector>

#include "cpu/kernels/stem_winograd/stem_winograd.h"
#include "cpu/kernels/winograd/winograd.h"
#include "plan/phase.h"

namespace faceattr::test {

using Matrix = std::vector<std::vector<double>>;

// Along one axis: outputs = at * ((g * taps) ∘ (bt * inputs)), a row of bt and g and a column of at per point.
struct WinogradMatrices {
  Matrix bt, g, at;
};

// Lagrange's interpolation, transposed, infinity being the last point. All factors but those of g are exact: points are
// small multiples of powers of two.
inline WinogradMatrices interpolation(const std::vector<double>& points, int outputs, int taps) {
  const int count = static_cast<int>(points.size()) + 1;
  WinogradMatrices m = {Matrix(count), Matrix(count, std::vector<double>(taps, 0.0)),
                        Matrix(outputs, std::vector<double>(count, 0.0))};
  for (int p = 0; p < count; ++p) {
    const bool finite = p + 1 < count;
    std::vector<double> polynomial = {1};  // lowest power first
    double scale = 1;
    for (int q = 0; q + 1 < count; ++q) {
      if (q == p) continue;
      polynomial.insert(polynomial.begin(), 0.0);
      for (std::size_t i = 0; i + 1 < polynomial.size(); ++i) polynomial[i] -= points[q] * polynomial[i + 1];
      if (finite) scale *= points[p] - points[q];
    }
    polynomial.resize(count, 0.0);
    m.bt[p] = polynomial;
    for (int t = 0; finite && t < taps; ++t) m.g[p][t] = std::pow(points[p], t) / scale;
    for (int o = 0; finite && o < outputs; ++o) m.at[o][p] = std::pow(points[p], o);
  }
  m.g.back().back() = m.at.back().back() = 1;
  return m;
}

// F(4, 2) of the odd inputs and the outer taps; then the even inputs with the middle tap, as they are.
inline WinogradMatrices polyphase() {
  const WinogradMatrices odd = interpolation({7 / 16., -7 / 16., 5 / 4., -5 / 4.}, 4, 2);
  WinogradMatrices m = {Matrix(9, std::vector<double>(9, 0.0)), Matrix(6, std::vector<double>(3, 0.0)), odd.at};
  for (int p = 0; p < 5; ++p) {
    for (int i = 0; i < 5; ++i) m.bt[p][2 * i] = odd.bt[p][i];
    m.g[p][0] = odd.g[p][0];
    m.g[p][2] = odd.g[p][1];
  }
  m.g[5][1] = 1;
  for (int o = 0; o < 4; ++o) {
    m.bt[5 + o][2 * o + 1] = 1;
    m.at[o].resize(9, 0.0);
    m.at[o][5 + o] = 1;
  }
  return m;
}

inline WinogradMatrices winograd_matrices(int stride, int tile) {
  if (stride == 2) return polyphase();
  if (tile == 2) return interpolation({0, 1, -1}, 2, 3);
  if (tile == 4) return interpolation({0, 11 / 16., -11 / 16., 3 / 2., -3 / 2.}, 4, 3);
  return interpolation({1 / 4., -1 / 4., 7 / 8., -7 / 8., 7 / 4., -7 / 4.}, 5, 3);
}

// left * middle * right^T, row-major.
inline std::vector<double> sandwich(const Matrix& left, const std::vector<double>& middle, const Matrix& right) {
  const std::size_t rows = left.size(), columns = right.size(), height = left[0].size(), width = right[0].size();
  std::vector<double> half(rows * width, 0.0), result(rows * columns, 0.0);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t a = 0; a < height; ++a) {
      for (std::size_t b = 0; b < width; ++b) half[i * width + b] += left[i][a] * middle[a * width + b];
    }
  }
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      for (std::size_t b = 0; b < width; ++b) result[i * columns + j] += half[i * width + b] * right[j][b];
    }
  }
  return result;
}

inline std::vector<double> sandwich(const Matrix& left, const std::vector<double>& middle) {
  return sandwich(left, middle, left);
}

inline Matrix magnitudes(Matrix matrix) {
  for (auto& row : matrix) {
    for (double& value : row) value = std::abs(value);
  }
  return matrix;
}

// [oc][k][3][3] → [filters][oc][k].
inline std::vector<float> transform_weights(const std::vector<float>& weight, int oc, int k, int stride, int tile) {
  const int filters = winograd_filters(stride, tile);
  const Matrix g = winograd_matrices(stride, tile).g;
  std::vector<float> result(static_cast<std::size_t>(filters) * oc * k);
  for (int f = 0; f < oc * k; ++f) {
    const std::vector<double> taps(weight.begin() + f * 9, weight.begin() + f * 9 + 9);
    const std::vector<double> points = sandwich(g, taps);
    for (int p = 0; p < filters; ++p) result[static_cast<std::size_t>(p) * oc * k + f] = static_cast<float>(points[p]);
  }
  return result;
}

// Of the stem's tiles, F(4, 4) of the even inputs and taps and F(4, 3) of the odd ones: by whether they are odd, bt and
// g; the second has no point at infinity, and the rows that it lacks. `at` is that of both.
inline const WinogradMatrices& stem_matrices(bool odd) {
  static const WinogradMatrices kEven = interpolation({1 / 4., -1 / 4., 7 / 8., -7 / 8., 7 / 4., -7 / 4.}, 4, 4);
  static const WinogradMatrices kOdd = [] {
    WinogradMatrices m = interpolation({1 / 4., -1 / 4., 7 / 8., -7 / 8., 7 / 4., -7 / 4.}, 4, 3);
    m.bt.pop_back();
    for (auto& row : m.bt) row.pop_back();
    m.g.pop_back();
    return m;
  }();
  return odd ? kOdd : kEven;
}

// Visits (point's row, its column, odd row?, odd column?, channel) of a tile's products, in order.
template <class Visit>
void for_each_stem_product(const Visit& visit) {
  for (int y = 0; y < cpu::kStemTilePoints; ++y) {
    for (int x = 0; x < cpu::kStemTilePoints; ++x) {
      for (int odd = 0; odd < 4; ++odd) {
        if ((odd / 2 == 1 && y == 6) || (odd % 2 == 1 && x == 6)) continue;
        for (int c = 0; c < cpu::kRgb; ++c) visit(y, x, odd / 2 == 1, odd % 2 == 1, c);
      }
    }
  }
}

// [oc][7][7][3] → [oc][507].
inline std::vector<float> transform_stem(const std::vector<float>& weight, int oc) {
  constexpr int kTaps = cpu::kStemTaps, kRgb = cpu::kRgb;
  std::vector<float> result;
  for (int o = 0; o < oc; ++o) {
    for_each_stem_product([&](int y, int x, bool odd_row, bool odd_column, int c) {
      const Matrix &rows = stem_matrices(odd_row).g, &columns = stem_matrices(odd_column).g;
      double sum = 0;
      for (std::size_t ky = 0; ky < rows[0].size(); ++ky) {
        for (std::size_t kx = 0; kx < columns[0].size(); ++kx) {
          const std::size_t tap = (2 * ky + odd_row) * kTaps + 2 * kx + odd_column;
          sum += rows[y][ky] * columns[x][kx] * weight[(o * kTaps * kTaps + tap) * kRgb + c];
        }
      }
      result.push_back(static_cast<float>(sum));
    });
  }
  return result;
}

// Visits (point, its place in the square of the matrices).
template <class Visit>
void for_each_point(const cpu::WinogradForm& form, const Visit& visit) {
  for (int y = 0; y < form.side; ++y) {
    for (int x = 0; x < form.side; ++x) {
      if (form.has_point(y, x)) visit(form.point(y, x), y * form.side + x);
    }
  }
}

}  // namespace faceattr::test
