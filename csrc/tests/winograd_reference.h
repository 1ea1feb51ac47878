// The forms of kernels/winograd by their matrices, in double, from their points: what the kernels' factored transforms
// are compared with.
#pragma once

#include <cmath>
#include <vector>

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

// left * middle * left^T, row-major.
inline std::vector<double> sandwich(const Matrix& left, const std::vector<double>& middle) {
  const std::size_t out = left.size(), in = left[0].size();
  std::vector<double> half(out * in, 0.0), result(out * out, 0.0);
  for (std::size_t i = 0; i < out; ++i) {
    for (std::size_t a = 0; a < in; ++a) {
      for (std::size_t b = 0; b < in; ++b) half[i * in + b] += left[i][a] * middle[a * in + b];
    }
  }
  for (std::size_t i = 0; i < out; ++i) {
    for (std::size_t j = 0; j < out; ++j) {
      for (std::size_t b = 0; b < in; ++b) result[i * out + j] += half[i * in + b] * left[j][b];
    }
  }
  return result;
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
