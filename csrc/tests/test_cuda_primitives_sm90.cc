// Hopper's device primitives, on the emulator, against their definitions.
#include <cmath>
#include <cstring>
#include <random>

#include "base/bfloat16.h"
#include "check.h"
#include "cuda_kernels_sm90.h"

namespace cuda = faceattr::cuda;
using cuda::emulator::GlobalArray;
using namespace cuda::test;

namespace {

template <class Kernel>
void launch_at_seeds(const cuda::LaunchConfig& config, const typename Kernel::Params& params,
                     const std::function<void()>& check) {
  for (const uint32_t seed : {0u, 1u, 2u}) {
    cuda::emulator::options() = {seed, seed % 2 == 0 ? 1 : 2};
    cuda::launch<Kernel>(config, params);
    check();
  }
}

// Values by the formats' definitions; random bits make neither infinities nor NaNs.
template <class T>
struct Naive;
template <>
struct Naive<cuda::Float16> {
  static constexpr int kBytes = 2;
  static double value(const uint8_t* at) {
    const int bits = at[0] | at[1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double value = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
    return bits >> 15 ? -value : value;
  }
  static void limit(uint8_t* at) { at[1] &= 0xbf; }
};
template <>
struct Naive<cuda::Bfloat16> {
  static constexpr int kBytes = 2;
  static double value(const uint8_t* at) {
    int16_t bits;
    std::memcpy(&bits, at, 2);
    return faceattr::from_bfloat16(bits);
  }
  static void limit(uint8_t* at) { at[1] &= 0xbf; }
};
template <>
struct Naive<cuda::Float8E4m3> {
  static constexpr int kBytes = 1;
  static double value(const uint8_t* at) {
    const int exponent = *at >> 3 & 15, mantissa = *at & 7;
    const double value = exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
    return *at >> 7 ? -value : value;
  }
  static void limit(uint8_t* at) {
    if ((*at & 0x7f) == 0x7f) *at ^= 1;
  }
};
template <>
struct Naive<int8_t> {
  static constexpr int kBytes = 1;
  static double value(const uint8_t* at) { return static_cast<int8_t>(*at); }
  static void limit(uint8_t*) {}
};
template <>
struct Naive<uint8_t> {
  static constexpr int kBytes = 1;
  static double value(const uint8_t* at) { return *at; }
  static void limit(uint8_t*) {}
};

// b has rows 16 bytes apart, and its second half of K `k_stride` bytes after the first: at 16 they overlap.
template <class T, int N>
void check_wgmma(uint32_t k_stride, uint32_t shift) {
  using B = std::conditional_t<Wgmma<T, N>::kIntegers, int8_t, T>;
  constexpr int kBytes = Naive<T>::kBytes, kDepth = 32 / kBytes;
  std::mt19937 generator(N + k_stride + shift);
  const uint32_t b_bytes = k_stride + N * 16 + shift;
  std::vector<uint8_t> a(2048), b(b_bytes);
  for (uint8_t& byte : a) byte = static_cast<uint8_t>(generator());
  for (uint8_t& byte : b) byte = static_cast<uint8_t>(generator());
  for (size_t i = 0; i < a.size(); i += kBytes) Naive<T>::limit(&a[i]);
  for (size_t i = 0; i < b.size(); i += kBytes) Naive<B>::limit(&b[i]);
  GlobalArray<cuda::Vec16> a_array(a.size() / 16), b_array(b.size() / 16);
  std::memcpy(static_cast<void*>(a_array.data()), a.data(), a.size());
  std::memcpy(static_cast<void*>(b_array.data()), b.data(), b.size());
  GlobalArray<typename Wgmma<T, N>::Acc> dst(128 * N / 2);
  cuda::LaunchConfig config;
  config.threads = 128;
  config.shared_bytes = 16 + 2048 + b_bytes;
  launch_at_seeds<Wgmma<T, N>>(config, {a_array.data(), b_array.data(), dst.data(), b_bytes, k_stride, shift}, [&] {
    for (int m = 0; m < 64; ++m) {
      for (int n = 0; n < N; ++n) {
        double sum = 0, magnitude = 0;
        for (const uint32_t start : {0u, shift}) {
          for (int k = 0; k < kDepth; ++k) {
            const uint32_t chunk = static_cast<uint32_t>(k * kBytes / 16),
                           byte = static_cast<uint32_t>(k * kBytes % 16);
            const double product = Naive<T>::value(&a[chunk * 1024 + static_cast<uint32_t>(m) * 16 + byte]) *
                                   Naive<B>::value(&b[start + chunk * k_stride + static_cast<uint32_t>(n) * 16 + byte]);
            sum += product;
            magnitude += std::fabs(product);
          }
        }
        const int lane = m % 8 * 4 + n % 8 / 2, i = n / 8 * 4 + m % 16 / 8 * 2 + n % 2;
        const double got = static_cast<double>(dst[static_cast<size_t>((m / 16 * 32 + lane) * (N / 2) + i)]);
        // Of floats, at most 2 * 32 roundings.
        FA_CHECK(std::fabs(got - sum) <= (Wgmma<T, N>::kIntegers ? 0 : 64 * 0x1p-24 * magnitude));
      }
    }
  });
}

FA_TEST(wgmma_multiplies_through_descriptors) {
  check_wgmma<cuda::Float16, 200>(200 * 16, 0);
  check_wgmma<cuda::Float16, 200>(232 * 16, 15 * 16);
  check_wgmma<cuda::Float16, 64>(16, 32);  // windows that overlap
  check_wgmma<cuda::Float16, 256>(256 * 16, 16);
  check_wgmma<cuda::Bfloat16, 112>(112 * 16, 48);
  check_wgmma<cuda::Float8E4m3, 120>(128 * 16, 16);
  check_wgmma<int8_t, 208>(208 * 16, 16);
  check_wgmma<uint8_t, 64>(64 * 16, 0);
}

FA_TEST(store_matrix_is_the_inverse_of_load_matrix) {
  std::mt19937 generator(1);
  GlobalArray<uint32_t> src(128);
  for (size_t i = 0; i < 128; ++i) src[i] = generator();
  GlobalArray<cuda::Vec16> dst(2 * 7 * 8);
  cuda::LaunchConfig config;
  config.shared_bytes = 2 * 7 * 128;
  launch_at_seeds<StoreMatrix>(config, {src.data(), dst.data()}, [&] {
    for (const auto& [at, count] : {std::pair{0, 1}, {1, 2}, {3, 4}}) {
      for (int i = 0; i < count; ++i) {
        uint16_t plain[64], transposed[64];
        std::memcpy(plain, &dst[static_cast<size_t>((at + i) * 8)], 128);
        std::memcpy(transposed, &dst[static_cast<size_t>((7 + at + i) * 8)], 128);
        for (int lane = 0; lane < 32; ++lane) {
          const uint32_t pair = src[static_cast<size_t>(i * 32 + lane)];
          const int g = lane / 4, t = 2 * (lane % 4);
          FA_CHECK(plain[8 * g + t] == static_cast<uint16_t>(pair) && plain[8 * g + t + 1] == pair >> 16);
          FA_CHECK(transposed[8 * t + g] == static_cast<uint16_t>(pair) && transposed[8 * t + 8 + g] == pair >> 16);
        }
      }
    }
  });
}

FA_TEST(clusters_reach_each_other) {
  GlobalArray<uint32_t> dst(8 * 64);
  cuda::LaunchConfig config;
  config.grid = {8, 1, 1};
  config.cluster = 4;
  config.shared_bytes = 256;
  launch_at_seeds<Cluster>(config, {dst.data()}, [&] {
    for (uint32_t block = 0; block < 8; ++block) {
      for (uint32_t lane = 0; lane < 32; ++lane) {
        FA_CHECK(dst[block * 64 + lane] == (block + 1) % 4 * 1000 + lane + 100);
        FA_CHECK(dst[block * 64 + 32 + lane] == (block + 2) % 4);
      }
    }
  });
}

FA_TEST(pipelines_multicast_and_multiply) {
  constexpr int kSteps = 7;
  std::mt19937 generator(2);
  std::vector<float> sums(128, 0);
  GlobalArray<uint8_t> weights(kSteps * Pipeline<Fault::kNone>::kSlotBytes);
  for (int step = 0; step < kSteps; ++step) {
    for (int k = 0; k < 16; ++k) {
      for (int row = 0; row < 128; ++row) {
        const int value = static_cast<int>(generator() % 17) - 8;  // every sum is exact
        sums[static_cast<size_t>(row)] += static_cast<float>(value);
        const uint16_t bits = cuda::to_bits<cuda::Float16>(static_cast<float>(value));
        std::memcpy(&weights[static_cast<size_t>(((step * 2 + k / 8) * 128 + row) * 16 + k % 8 * 2)], &bits, 2);
      }
    }
  }
  GlobalArray<float> dst(4 * 128 * 32);
  cuda::LaunchConfig config;
  config.grid = {4, 1, 1};
  config.threads = 384;
  config.cluster = 2;
  config.shared_bytes = Pipeline<Fault::kNone>::kSharedBytes;
  launch_at_seeds<Pipeline<Fault::kNone>>(config, {weights.data(), dst.data(), kSteps}, [&] {
    for (size_t i = 0; i < dst.size(); ++i) {
      FA_CHECK(dst[i] == sums[i / 32 % 128] * static_cast<float>(1 + i / (128 * 32)));
    }
  });
}

}  // namespace
