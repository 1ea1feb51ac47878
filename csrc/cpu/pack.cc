#include "cpu/pack.h"

#include <algorithm>

namespace faceattr::cpu {

AlignedBuffer pack_panels(const std::vector<float>& weight, int out_channels, std::int64_t k, int width) {
  const int panels = panel_count(out_channels, width);
  AlignedBuffer packed(static_cast<std::size_t>(panels) * k * width);
  std::fill_n(packed.data(), packed.size(), 0.0f);
  for (int o = 0; o < out_channels; ++o) {
    const float* src = weight.data() + o * k;
    float* dst = packed.data() + (o / width) * k * width + o % width;
    for (std::int64_t i = 0; i < k; ++i) dst[i * width] = src[i];
  }
  return packed;
}

AlignedBuffer pack_bias(const std::vector<float>& bias, int width) {
  AlignedBuffer packed(static_cast<std::size_t>(panel_count(static_cast<int>(bias.size()), width)) * width);
  std::fill_n(packed.data(), packed.size(), 0.0f);
  std::copy(bias.begin(), bias.end(), packed.data());
  return packed;
}

}  // namespace faceattr::cpu
