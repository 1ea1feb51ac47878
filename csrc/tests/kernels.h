// What tests of kernels share.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpu/cpu_features.h"
#include "cpu/dispatch.h"
#include "cpu/pack.h"
#include "plans.h"

namespace faceattr::test {

constexpr float kCanary = 12345.0f;
constexpr std::int16_t kIntegerCanary = 12345;

// Those of a list that this machine can run.
template <class Kernel>
std::vector<const Kernel*> runnable(const std::vector<cpu::Candidate<Kernel>>& candidates) {
  std::vector<const Kernel*> kernels;
  for (const auto& candidate : candidates) {
    if ((candidate.features & ~cpu::detected_features()) == 0) kernels.push_back(candidate.kernel);
  }
  return kernels;
}

// Of `low` … `high`, the ends often.
template <class Value>
std::vector<Value> integers(std::size_t count, std::uint32_t seed, int low, int high) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> uniform(low, high);
  std::vector<Value> values(count);
  for (Value& value : values) {
    value = static_cast<Value>(uniform(generator));
    if (generator() % 8 == 0) value = static_cast<Value>(generator() % 2 == 0 ? low : high);
  }
  return values;
}

// [oc][K] → [panel][K / 2][width][2], zero-padded channels.
inline std::vector<std::int16_t> pack_pairs(const std::vector<std::int16_t>& weight, int oc, int k, int width) {
  std::vector<std::int16_t> packed(static_cast<std::size_t>(cpu::panel_count(oc, width)) * width * k, 0);
  for (int o = 0; o < oc; ++o) {
    for (int i = 0; i < k; ++i) {
      const std::size_t pairs = static_cast<std::size_t>(o / width) * k / 2 + i / 2;
      packed[(pairs * width + o % width) * 2 + i % 2] = weight[static_cast<std::size_t>(o) * k + i];
    }
  }
  return packed;
}

template <class Value>
std::vector<Value> padded(std::vector<Value> values, int panel) {
  values.resize(static_cast<std::size_t>(cpu::panel_count(static_cast<int>(values.size()), panel)) * panel);
  return values;
}

// |computed - exact| of a chain of n multiply-adds: at most n roundings of at most the sum of magnitudes.
inline double bound(double n, double magnitudes) {
  return 1.01 * (n + 2) * std::numeric_limits<float>::epsilon() / 2 * magnitudes;
}

inline bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// In -1 ... 1, or integers from -4 to 4.
inline std::vector<float> values(std::size_t count, std::uint32_t seed, bool integers) {
  std::vector<float> result = random_values(count, seed);
  if (integers) {
    for (float& v : result) v = std::round(4 * v);
  }
  return result;
}

// |computed - exact| of a chain of n multiply-adds: at most n roundings of at most the sum of magnitudes.
inline double bound(double n, double magnitudes) {
  return 1.01 * (n + 2) * std::numeric_limits<float>::epsilon() / 2 * magnitudes;
}

}  // namespace faceattr::test
