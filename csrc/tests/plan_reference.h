// A plan of floats in float64, by plain loops over the plan's own weights: what kernels of any device are compared
// with.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "plan/phase.h"

namespace faceattr::test {

// Tensors of one image, NHWC.
inline std::vector<std::vector<double>> reference(const Plan& plan, const std::vector<double>& normalised) {
  std::vector<std::vector<double>> tensors(plan.tensors.size());
  const auto at = [&](int t, int y, int x, int c) -> double {
    const TensorShape& s = plan.tensors[t];
    if (y < 0 || y >= s.height || x < 0 || x >= s.width) return 0.0;
    return tensors[t][(static_cast<std::size_t>(y) * s.width + x) * s.channels + c];
  };
  const int size = plan.pixels;
  for (const Phase& any : plan.phases) {
    if (const auto* stem = std::get_if<StemPhase>(&any)) {
      const TensorShape& d = plan.tensors[stem->dst];
      std::vector<double> out(static_cast<std::size_t>(d.height) * d.width * d.channels, 0.0);
      for (int y = 0; y < 2 * d.height; ++y) {
        for (int x = 0; x < 2 * d.width; ++x) {
          for (int o = 0; o < d.channels; ++o) {
            double sum = stem->bias[o];
            for (int k = 0; k < 147; ++k) {
              const int sy = 2 * y + k / 21 - 3, sx = 2 * x + k / 3 % 7 - 3;
              if (sy < 0 || sy >= size || sx < 0 || sx >= size) continue;
              sum += normalised[(static_cast<std::size_t>(sy) * size + sx) * 3 + k % 3] * stem->weight[o * 147 + k];
            }
            double& to = out[(static_cast<std::size_t>(y / 2) * d.width + x / 2) * d.channels + o];
            to = std::max(to, sum);
          }
        }
      }
      tensors[stem->dst] = std::move(out);
    } else if (const auto* conv = std::get_if<SegmentedConvPhase>(&any)) {
      const TensorShape& d = plan.tensors[conv->dst];
      std::vector<double> out;
      for (int y = 0; y < d.height; ++y) {
        for (int x = 0; x < d.width; ++x) {
          for (int o = 0; o < d.channels; ++o) {
            double sum = conv->bias[o];
            const float* w = conv->weight.data() + conv->weight.size() / d.channels * o;
            for (const Segment& s : conv->segments) {
              for (int tap = 0; tap < s.kernel * s.kernel; ++tap) {
                const int sy = y * s.stride + tap / s.kernel - s.kernel / 2;
                const int sx = x * s.stride + tap % s.kernel - s.kernel / 2;
                for (int c = 0; c < s.count; ++c) sum += *w++ * at(s.src, sy, sx, s.start + c);
              }
            }
            if (conv->residual >= 0) sum += at(conv->residual, y, x, o);
            out.push_back(conv->relu ? std::max(sum, 0.0) : sum);
          }
        }
      }
      if (conv->copy >= 0) tensors[conv->copy] = out;
      tensors[conv->dst] = std::move(out);
    } else if (const auto* means = std::get_if<ShiftedMeansPhase>(&any)) {
      const TensorShape& s = plan.tensors[means->src];
      const int height = strided(s.height, means->stride), width = strided(s.width, means->stride);
      std::vector<double> out;
      for (int tap = 0; tap < means->kernel * means->kernel; ++tap) {
        for (int c = 0; c < means->count; ++c) {
          double sum = 0;
          for (int y = 0; y < height; ++y) {
            for (int x = 0; x < width; ++x) {
              sum += at(means->src, y * means->stride + tap / means->kernel - means->kernel / 2,
                        x * means->stride + tap % means->kernel - means->kernel / 2, means->start + c);
            }
          }
          out.push_back(sum / (height * width));
        }
      }
      tensors[means->dst] = std::move(out);
    } else if (const auto* linear = std::get_if<LinearHeadPhase>(&any)) {
      std::vector<double> out;
      const float* w = linear->weight.data();
      for (std::size_t o = 0; o < linear->bias.size(); ++o) {
        double sum = linear->bias[o];
        for (const LinearInput& input : linear->inputs) {
          for (int k = 0; k < input.count; ++k) sum += *w++ * tensors[input.src][k];
        }
        out.push_back(sum);
      }
      tensors[linear->dst] = std::move(out);
    }
  }
  return tensors;
}

}  // namespace faceattr::test
