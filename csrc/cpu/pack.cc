#include "cpu/pack.h"

#include <algorithm>

namespace faceattr::cpu {

namespace {

template <class Value>
AlignedBuffer pack(const std::vector<Value>& weight, int out_channels, std::int64_t k, int width) {
  const int panels = panel_count(out_channels, width);
  AlignedBuffer packed(static_cast<std::size_t>(panels) * k * width * sizeof(Value) / sizeof(float));
  std::fill_n(packed.data(), packed.size(), 0.0f);
  for (int o = 0; o < out_channels; ++o) {
    const Value* src = weight.data() + o * k;
    Value* dst = reinterpret_cast<Value*>(packed.data()) + (o / width) * k * width + o % width;
    for (std::int64_t i = 0; i < k; ++i) dst[i * width] = src[i];
  }
  return packed;
}

}  // namespace

AlignedBuffer pack_panels(const std::vector<float>& weight, int out_channels, std::int64_t k, int width) {
  return pack(weight, out_channels, k, width);
}

AlignedBuffer pack_panels(const std::vector<std::uint16_t>& weight, int out_channels, std::int64_t k, int width) {
  return pack(weight, out_channels, k, width);
}

AlignedBuffer pack_bias(const std::vector<float>& bias, int width) {
  AlignedBuffer packed(static_cast<std::size_t>(panel_count(static_cast<int>(bias.size()), width)) * width);
  std::fill_n(packed.data(), packed.size(), 0.0f);
  std::copy(bias.begin(), bias.end(), packed.data());
  return packed;
}

}  // namespace faceattr::cpu
