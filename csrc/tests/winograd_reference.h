// F(4x4, 3x3) and its polyphase form by their matrices, in double: what the kernels' factored transforms are compared
// with.
#pragma once

#include <vector>

#include "plan/phase.h"

namespace faceattr::test {

inline constexpr double kBt[6][6] = {{4, 0, -5, 0, 1, 0},  {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
                                     {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
inline constexpr double kAt[4][6] = {
    {1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
inline constexpr double kG[6][3] = {{1 / 4., 0, 0},
                                    {-1 / 6., -1 / 6., -1 / 6.},
                                    {-1 / 6., 1 / 6., -1 / 6.},
                                    {1 / 24., 1 / 12., 1 / 6.},
                                    {1 / 24., -1 / 12., 1 / 6.},
                                    {0, 0, 1}};

inline constexpr double kPolyphaseBt[9][9] = {
    {2, 0, -1, 0, -2, 0, 1, 0, 0}, {0, 0, -2, 0, -1, 0, 1, 0, 0}, {0, 0, 2, 0, -3, 0, 1, 0, 0},
    {0, 0, -1, 0, 0, 0, 1, 0, 0},  {0, 0, 2, 0, -1, 0, -2, 0, 1}, {0, 1, 0, 0, 0, 0, 0, 0, 0},
    {0, 0, 0, 1, 0, 0, 0, 0, 0},   {0, 0, 0, 0, 0, 1, 0, 0, 0},   {0, 0, 0, 0, 0, 0, 0, 1, 0}};
inline constexpr double kPolyphaseAt[4][9] = {{1, 1, 1, 1, 0, 1, 0, 0, 0},
                                              {0, 1, -1, 2, 0, 0, 1, 0, 0},
                                              {0, 1, 1, 4, 0, 0, 0, 1, 0},
                                              {0, 1, -1, 8, 1, 0, 0, 0, 1}};
inline constexpr double kPolyphaseG[6][3] = {
    {1 / 2., 0, 0}, {-1 / 2., 0, -1 / 2.}, {-1 / 6., 0, 1 / 6.}, {1 / 6., 0, 1 / 3.}, {0, 0, 1}, {0, 1, 0}};

// left * middle * left^T, row-major.
template <int kOut, int kIn>
std::vector<double> sandwich(const double (&left)[kOut][kIn], const std::vector<double>& middle) {
  std::vector<double> result(kOut * kOut, 0.0);
  for (int i = 0; i < kOut; ++i) {
    for (int j = 0; j < kOut; ++j) {
      for (int a = 0; a < kIn; ++a) {
        for (int b = 0; b < kIn; ++b) result[i * kOut + j] += left[i][a] * middle[a * kIn + b] * left[j][b];
      }
    }
  }
  return result;
}

// [oc][k][3][3] → [filters][oc][k].
inline std::vector<float> transform_weights(const std::vector<float>& weight, int oc, int k, int stride) {
  const int filters = winograd_filters(stride);
  std::vector<float> result(static_cast<std::size_t>(filters) * oc * k);
  for (int f = 0; f < oc * k; ++f) {
    const std::vector<double> taps(weight.begin() + f * 9, weight.begin() + f * 9 + 9);
    const std::vector<double> points = stride == 1 ? sandwich(kG, taps) : sandwich(kPolyphaseG, taps);
    for (int p = 0; p < filters; ++p) result[static_cast<std::size_t>(p) * oc * k + f] = static_cast<float>(points[p]);
  }
  return result;
}

}  // namespace faceattr::test
