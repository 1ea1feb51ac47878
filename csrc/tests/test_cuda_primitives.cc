// The portable device primitives, on the emulator, against their definitions: random bits in, every seed the same out.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/bfloat16.h"
#include "check.h"
#include "cuda_kernels.h"

namespace cuda = faceattr::cuda;
using cuda::emulator::GlobalArray;
using namespace cuda::test;

namespace {

constexpr uint32_t kSeeds[] = {0, 1, 2, 3};

template <class T>
std::vector<T> random_bits(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(generator());
  return values;
}

// Runs at every seed, and on one host thread and two.
template <class Kernel>
void launch_at_seeds(const cuda::LaunchConfig& config, const typename Kernel::Params& params,
                     const std::function<void(uint32_t)>& check) {
  for (const uint32_t seed : kSeeds) {
    cuda::emulator::options() = {seed, seed % 2 == 0 ? 1 : 2};
    cuda::launch<Kernel>(config, params);
    check(seed);
  }
}

FA_TEST(load_matrix_gives_each_lane_two_neighbours) {
  const auto bits = random_bits<uint16_t>(4 * 64, 1);
  GlobalArray<cuda::Vec16> src(32);
  std::memcpy(static_cast<void*>(src.data()), bits.data(), 512);
  GlobalArray<uint32_t> dst(2 * 7 * 32);
  cuda::LaunchConfig config;
  config.shared_bytes = 512;
  launch_at_seeds<LoadMatrix>(config, {src.data(), dst.data()}, [&](uint32_t) {
    for (const auto& [at, count] : {std::pair{0, 1}, {1, 2}, {3, 4}}) {
      for (int i = 0; i < count; ++i) {
        for (int lane = 0; lane < 32; ++lane) {
          const int g = lane / 4, t = 2 * (lane % 4);
          const uint16_t* m = bits.data() + 64 * i;
          const uint32_t plain = m[8 * g + t] | static_cast<uint32_t>(m[8 * g + t + 1]) << 16;
          const uint32_t transposed = m[8 * t + g] | static_cast<uint32_t>(m[8 * t + 8 + g]) << 16;
          FA_CHECK(dst[static_cast<size_t>((at + i) * 32 + lane)] == plain);
          FA_CHECK(dst[static_cast<size_t>((7 + at + i) * 32 + lane)] == transposed);
        }
      }
    }
  });
}

template <class T, class Value>
void check_mma(const std::vector<uint8_t>& a_bytes, const std::vector<uint8_t>& b_bytes, Value a_value, Value b_value,
               double bound) {
  using Acc = typename Mma<T>::Acc;
  constexpr int kDepth = Mma<T>::kWide ? 16 : 32;
  GlobalArray<uint32_t> a(16 * 8), b(8 * 8);
  std::memcpy(a.data(), a_bytes.data(), 512);
  std::memcpy(b.data(), b_bytes.data(), 256);
  GlobalArray<Acc> c(16 * 8), dst(16 * 8);
  for (size_t i = 0; i < c.size(); ++i) c[i] = static_cast<Acc>(static_cast<int>(i) - 50);
  launch_at_seeds<Mma<T>>({}, {a.data(), b.data(), c.data(), dst.data()}, [&](uint32_t) {
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 8; ++n) {
        double sum = c[static_cast<size_t>(m * 8 + n)], magnitude = std::fabs(sum);
        for (int k = 0; k < kDepth; ++k) {
          const double product = a_value(a_bytes.data(), m * kDepth + k) * b_value(b_bytes.data(), n * kDepth + k);
          sum += product;
          magnitude += std::fabs(product);
        }
        FA_CHECK(std::fabs(static_cast<double>(dst[static_cast<size_t>(m * 8 + n)]) - sum) <= bound * magnitude);
      }
    }
  });
}

// Random bits, but for exponents that would make infinities: bit 14 is cleared.
std::vector<uint8_t> finite_halves(size_t bytes, uint32_t seed) {
  auto bits = random_bits<uint8_t>(bytes, seed);
  for (size_t i = 1; i < bytes; i += 2) bits[i] &= 0xbf;
  return bits;
}

// Naive decodings, by the formats' definitions.
double float16(const uint8_t* bytes, int i) {
  const int bits = bytes[2 * i] | bytes[2 * i + 1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double value = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
  return bits >> 15 ? -value : value;
}
double bfloat16(const uint8_t* bytes, int i) {
  int16_t bits;
  std::memcpy(&bits, bytes + 2 * i, 2);
  return faceattr::from_bfloat16(bits);
}
double int8(const uint8_t* bytes, int i) { return static_cast<int8_t>(bytes[i]); }
double uint8(const uint8_t* bytes, int i) { return bytes[i]; }

FA_TEST(mma_multiplies) {
  // 17 roundings of at most 2^-24 each.
  const double bound = 17 * 0x1p-24;
  check_mma<cuda::Float16>(finite_halves(512, 2), finite_halves(256, 3), float16, float16, bound);
  check_mma<cuda::Bfloat16>(finite_halves(512, 4), finite_halves(256, 5), bfloat16, bfloat16, bound);
  check_mma<int8_t>(random_bits<uint8_t>(512, 6), random_bits<uint8_t>(256, 7), int8, int8, 0);
  check_mma<uint8_t>(random_bits<uint8_t>(512, 8), random_bits<uint8_t>(256, 9), uint8, int8, 0);
}

FA_TEST(float16_converts_all_values) {
  for (int bits = 0; bits < 65536; ++bits) {
    const uint8_t bytes[2] = {static_cast<uint8_t>(bits), static_cast<uint8_t>(bits >> 8)};
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = cuda::from_bits<cuda::Float16>(half);
    if ((bits & 0x7c00) == 0x7c00) {
      FA_CHECK(bits & 0x3ff ? std::isnan(value) : std::isinf(value) && std::signbit(value) == (bits >> 15 == 1));
      continue;
    }
    FA_CHECK(value == float16(bytes, 0) && std::signbit(value) == (bits >> 15 == 1));
    FA_CHECK(cuda::to_bits<cuda::Float16>(value) == half);
    if ((bits & 0x7fff) == 0x7bff) continue;
    // The middle to the next value goes to the even one, what lies beside it to the nearer.
    const float next = cuda::from_bits<cuda::Float16>(static_cast<uint16_t>(bits + 1));
    const float middle = static_cast<float>((static_cast<double>(value) + next) / 2);
    const uint16_t even = static_cast<uint16_t>(bits % 2 == 0 ? bits : bits + 1);
    FA_CHECK(cuda::to_bits<cuda::Float16>(middle) == even);
    FA_CHECK(cuda::to_bits<cuda::Float16>(std::nextafterf(middle, value)) == half);
    FA_CHECK(cuda::to_bits<cuda::Float16>(std::nextafterf(middle, next)) == bits + 1);
  }
  FA_CHECK(cuda::to_bits<cuda::Float16>(65519.996f) == 0x7bff);
  FA_CHECK(cuda::to_bits<cuda::Float16>(65520.0f) == 0x7c00);
  FA_CHECK(cuda::to_bits<cuda::Float16>(-1e30f) == 0xfc00);
  FA_CHECK(cuda::to_bits<cuda::Float16>(NAN) == 0x7fff);
}

FA_TEST(bfloat16_converts_as_the_cpu_kernels_do) {
  for (const uint32_t bits : random_bits<uint32_t>(200000, 10)) {
    float value;
    std::memcpy(&value, &bits, 4);
    if (std::isnan(value)) continue;
    FA_CHECK(cuda::to_bits<cuda::Bfloat16>(value) == static_cast<uint16_t>(faceattr::to_bfloat16(value)));
  }
  FA_CHECK(cuda::to_bits<cuda::Bfloat16>(NAN) == 0x7fff);
  const cuda::Float2 pair = cuda::unpack2<cuda::Bfloat16>(cuda::pack2<cuda::Bfloat16>(1.5f, -2.0f));
  FA_CHECK(pair.x == 1.5f && pair.y == -2.0f);
}

FA_TEST(scalar_functions_follow_ptx) {
  const float inf = std::numeric_limits<float>::infinity();
  FA_CHECK(cuda::round_to_int(2.5f) == 2 && cuda::round_to_int(3.5f) == 4 && cuda::round_to_int(-2.5f) == -2);
  FA_CHECK(cuda::round_to_int(inf) == INT32_MAX && cuda::round_to_int(-3e9f) == INT32_MIN);
  FA_CHECK(cuda::round_to_int(NAN) == 0);
  FA_CHECK(cuda::maximum(NAN, 1.0f) == 1.0f && cuda::minimum(1.0f, NAN) == 1.0f);
  FA_CHECK(!std::signbit(cuda::maximum(-0.0f, 0.0f)) && std::signbit(cuda::minimum(0.0f, -0.0f)));
  FA_CHECK(cuda::multiply_add(1 + 0x1p-23f, 1 - 0x1p-23f, -1.0f) == -0x1p-46f);
  const auto words = random_bits<uint32_t>(200, 11);
  for (size_t i = 0; i < 100; ++i) {
    uint8_t a[4], b[4];
    std::memcpy(a, &words[2 * i], 4);
    std::memcpy(b, &words[2 * i + 1], 4);
    int both_signed = 7, mixed = 7;
    for (int k = 0; k < 4; ++k) {
      both_signed += static_cast<int8_t>(a[k]) * static_cast<int8_t>(b[k]);
      mixed += a[k] * static_cast<int8_t>(b[k]);
    }
    FA_CHECK(cuda::dot4<int8_t>(words[2 * i], words[2 * i + 1], 7) == both_signed);
    FA_CHECK(cuda::dot4<uint8_t>(words[2 * i], words[2 * i + 1], 7) == mixed);
  }
}

// The kernel gives what the functions give one by one.
FA_TEST(scalar_functions_run_in_kernels) {
  GlobalArray<float> src(96);
  const auto bits = random_bits<uint32_t>(96, 13);
  std::memcpy(src.data(), bits.data(), 384);
  GlobalArray<uint32_t> dst(14 * 32);
  cuda::LaunchConfig config;
  config.dependent = true;
  launch_at_seeds<Scalars>(config, {src.data(), dst.data()}, [&](uint32_t) {
    for (size_t i = 0; i < 32; ++i) {
      const float product = src[i] * src[32 + i];
      FA_CHECK(std::isnan(product) || Scalars::bits(product) == dst[i]);
      FA_CHECK(dst[7 * 32 + i] == cuda::pack2<cuda::Bfloat16>(src[i], src[32 + i]));
      FA_CHECK(dst[12 * 32 + i] == static_cast<uint32_t>(cuda::dot4<int8_t>(bits[i], bits[32 + i], 1)));
    }
  });
}

FA_TEST(shuffles_and_indices) {
  GlobalArray<float> dst(6 * 256);
  cuda::LaunchConfig config;
  config.grid = {3, 2, 1};
  config.threads = 64;
  launch_at_seeds<Shuffles>(config, {dst.data()}, [&](uint32_t) {
    for (int block = 0; block < 6; ++block) {
      for (int thread = 0; thread < 64; ++thread) {
        const float* at = dst.data() + block * 256 + thread;
        const int warp = thread / 32 * 32, lane = thread % 32, base = 1000 * block + warp;
        FA_CHECK(at[0] == static_cast<float>(base + (lane ^ 5)));
        FA_CHECK(at[64] == static_cast<float>(base + (lane + 20 < 32 ? lane + 20 : lane)));
        FA_CHECK(at[128] == static_cast<float>(base + 31 - lane));
        FA_CHECK(at[192] == static_cast<float>(thread / 32 + 30 + 6400));
      }
    }
  });
}

FA_TEST(copies_land_in_order_and_fill_with_zeros) {
  constexpr int kChunks = 10;
  const auto words = random_bits<uint32_t>(kChunks * 64 * 4, 12);
  GlobalArray<cuda::Vec16> src(kChunks * 64), dst(kChunks * 64);
  std::memcpy(static_cast<void*>(src.data()), words.data(), words.size() * 4);
  cuda::LaunchConfig config;
  config.threads = 64;
  config.shared_bytes = 3 * 64 * 16;
  launch_at_seeds<Ring<true>>(config, {src.data(), dst.data(), kChunks}, [&](uint32_t) {
    for (size_t i = 0; i < kChunks * 64; ++i) {
      const cuda::Vec16 zero = {0, 0, 0, 0};
      const cuda::Vec16& expected = (i / 64 + i % 64) % 2 == 0 ? src[i] : zero;
      FA_CHECK(std::memcmp(&dst[i], &expected, 16) == 0);
    }
    std::memset(static_cast<void*>(dst.data()), 0xff, dst.size() * 16);
  });
}

FA_TEST(named_barriers_hand_over) {
  GlobalArray<int> dst(32);
  cuda::LaunchConfig config;
  config.threads = 64;
  config.shared_bytes = 128;
  launch_at_seeds<Handover>(config, {dst.data()}, [&](uint32_t) {
    for (int i = 0; i < 32; ++i) FA_CHECK(dst[static_cast<size_t>(i)] == i * i);
  });
}

FA_TEST(cooperative_blocks_wait_for_each_other) {
  GlobalArray<uint32_t> counter(1);
  GlobalArray<int> between(7), dst(7);
  counter[0] = 0;
  cuda::LaunchConfig config;
  config.grid = {7, 1, 1};
  config.cooperative = true;
  launch_at_seeds<GridBarrier>(config, {counter.data(), between.data(), dst.data()}, [&](uint32_t) {
    for (int i = 0; i < 7; ++i) FA_CHECK(dst[static_cast<size_t>(i)] == 3 * ((i + 1) % 7));
    counter[0] = 0;
    for (size_t i = 0; i < 7; ++i) between[i] = -1;
  });
}

}  // namespace
