// Hopper's primitives on random bits, as cuda_conformance.cc has the portable ones.
#include "cuda_cases.h"
#include "cuda_kernels_sm90.h"
#include "cuda_rates_sm90.h"

namespace faceattr::cuda::test {
namespace {

template <class T, int N>
auto multiply_windows(const std::vector<Vec16>& a, const std::vector<Vec16>& b, uint32_t k_stride, uint32_t shift) {
  const auto b_bytes = static_cast<uint32_t>(b.size() * sizeof(Vec16));
  Array<Vec16> a_array(a), b_array(b);
  Array<typename Wgmma<T, N>::Acc> dst(128 * N / 2);
  LaunchConfig config;
  config.threads = 128;
  config.shared_bytes = 16 + 2048 + b_bytes;
  launch<Wgmma<T, N>>(config, {a_array.data(), b_array.data(), dst.data(), b_bytes, k_stride, shift});
  return dst.values();
}

template <class T, int N>
void wgmma_case(const std::string& format, Random& random, uint32_t k_stride, uint32_t shift) {
  const std::string name =
      "wgmma_" + format + "_n" + std::to_string(N) + "_k" + std::to_string(k_stride) + "_shift" + std::to_string(shift);
  const auto a = random.words<Vec16>(2048 / 16), b = random.words<Vec16>((k_stride + N * 16 + shift) / 16);
  if constexpr (Wgmma<T, N>::kIntegers) {
    print(name, "bits", 0, multiply_windows<T, N>(a, b, k_stride, shift));
  } else {
    const auto product = [&](Numbers numbers) {
      return multiply_windows<T, N>(as_numbers<T>(a, numbers), as_numbers<T>(b, numbers), k_stride, shift);
    };
    const double bound = 2 * (32 / Format<T>::kBytes + 1) * Format<T>::kLastBit;  // two products, each with its addend
    print(name, "float32", bound, product(Numbers::kAny));
    print(name + ".magnitude", "float32", bound, product(Numbers::kAnyMagnitudes));
    print(name + "_exact", "float32", 0, product(Numbers::kSmallIntegers));
  }
}

void wgmma_cases(Random& random) {
  for (uint32_t start = 0; start < 16; ++start) wgmma_case<Float16, 200>("float16", random, 232 * 16, start * 16);
  wgmma_case<Float16, 64>("float16", random, 16, 32);  // windows that overlap
  wgmma_case<Float16, 256>("float16", random, 256 * 16, 16);
  wgmma_case<Bfloat16, 112>("bfloat16", random, 112 * 16, 48);
  wgmma_case<Float8E4m3, 120>("float8", random, 128 * 16, 16);
  wgmma_case<int8_t, 208>("int8", random, 208 * 16, 16);
  wgmma_case<uint8_t, 64>("uint8", random, 64 * 16, 0);
}

void pipeline(Random& random) {
  constexpr int kSteps = 7;
  using Kernel = Pipeline<Fault::kNone>;
  std::vector<uint32_t> words =
      as_numbers<Float16>(random.words<uint32_t>(kSteps * Kernel::kSlotBytes / 4), Numbers::kSmallIntegers);
  std::vector<uint8_t> bytes(words.size() * 4);
  std::memcpy(bytes.data(), words.data(), bytes.size());
  Array<uint8_t> weights(bytes);
  Array<float> dst(4 * 128 * 32);
  LaunchConfig config;
  config.grid = {4, 1, 1};
  config.threads = 384;
  config.cluster = 2;
  config.shared_bytes = Kernel::kSharedBytes;
  launch<Kernel>(config, {weights.data(), dst.data(), kSteps});
  print("pipeline_multicast", "float32", 0, dst.values());
}

}  // namespace

void hopper_cases(Random& random) {
  wgmma_cases(random);
  LaunchConfig config;
  {
    config.shared_bytes = 2 * 7 * 128;
    Array<uint32_t> src(random.words<uint32_t>(128));
    Array<Vec16> dst(2 * 7 * 8);
    launch<StoreMatrix>(config, {src.data(), dst.data()});
    print("store_matrix", "bits", 0, dst.values());
  }
  {
    config = {};
    config.grid = {8, 1, 1};
    config.cluster = 4;
    config.shared_bytes = 256;
    Array<uint32_t> dst(8 * 64);
    launch<Cluster>(config, {dst.data()});
    print("cluster", "bits", 0, dst.values());
  }
  pipeline(random);
  {
    config = {};
    config.threads = 256;
    config.shared_bytes = WgmmaRate<Float16, 200>::kSharedBytes;
    Array<float> dst(256);
    launch<WgmmaRate<Float16, 200>>(config, {dst.data(), 3});
    print("wgmma_rate", "float32", 0, dst.values());
  }
  {
    config = {};
    config.grid = {4, 1, 1};
    config.cluster = 2;
    Array<uint32_t> dst(4);
    launch<ClusterBarrierRate>(config, {dst.data(), 5});
    print("cluster_barrier_rate", "bits", 0, dst.values());
  }
}

}  // namespace faceattr::cuda::test
