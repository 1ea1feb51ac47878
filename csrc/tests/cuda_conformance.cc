// Every portable primitive on random bits; cuda_cases.h says what is printed.
//
//   cuda_conformance_device 7 > device.txt; cuda_conformance_emulated 7 > emulated.txt     7: the seed
//
// A device that gives something else than the emulator shows where the emulator, or a kernel's PTX, reads the manual
// wrongly.
#include <cstdlib>
#include <exception>

#include "cuda_cases.h"
#include "cuda_kernels.h"
#include "cuda_rates.h"

namespace faceattr::cuda::test {
namespace {

template <class T>
std::vector<float> multiply_matrices(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b,
                                     const std::vector<float>& c, Numbers numbers) {
  Array<uint32_t> a_array(as_numbers<T>(a, numbers)), b_array(as_numbers<T>(b, numbers));
  std::vector<float> addend = c;
  for (float& value : addend) {
    if (numbers == Numbers::kSmallIntegers) value = static_cast<float>(static_cast<int>(64 * value));
    if (numbers == Numbers::kAnyMagnitudes && value < 0) value = -value;
  }
  Array<float> c_array(addend), dst(16 * 8);
  launch<Mma<T>>({}, {a_array.data(), b_array.data(), c_array.data(), dst.data()});
  return dst.values();
}

template <class T>
void mma_floats(const std::string& name, Random& random) {
  const auto a = random.words<uint32_t>(16 * 8), b = random.words<uint32_t>(8 * 8);
  std::vector<float> c(16 * 8);
  for (float& value : c) value = static_cast<float>(static_cast<int>(random() % 513) - 256) / 256;
  print(name, "float32", 17 * Format<T>::kLastBit, multiply_matrices<T>(a, b, c, Numbers::kAny));
  print(name + ".magnitude", "float32", 17 * Format<T>::kLastBit,
        multiply_matrices<T>(a, b, c, Numbers::kAnyMagnitudes));
  print(name + "_exact", "float32", 0, multiply_matrices<T>(a, b, c, Numbers::kSmallIntegers));
}

template <class T>
void mma_integers(const std::string& name, Random& random) {
  Array<uint32_t> a(random.words<uint32_t>(16 * 8)), b(random.words<uint32_t>(8 * 8));
  Array<int32_t> c(random.words<int32_t>(16 * 8)), dst(16 * 8);
  launch<Mma<T>>({}, {a.data(), b.data(), c.data(), dst.data()});
  print(name, "bits", 0, dst.values());
}

void scalars(Random& random) {
  static constexpr const char* kNames[14] = {
      "multiply",     "add",           "multiply_add",   "maximum",         "minimum",
      "round_to_int", "pack2_float16", "pack2_bfloat16", "unpack2_float16", "unpack2_bfloat16",
      "float16_bits", "bfloat16_bits", "dot4_int8",      "dot4_uint8"};
  LaunchConfig config;
  config.dependent = true;
  // All 32 bits random, and numbers around 1, where sums and conversions round rather than overflow.
  for (const bool moderate : {false, true}) {
    auto words = random.words<uint32_t>(3 * 32);
    for (uint32_t& word : words) {
      if (moderate) word = (word & 0x83ffffffu) | 0x3c000000u;
    }
    std::vector<float> values(words.size());
    std::memcpy(values.data(), words.data(), 4 * words.size());
    Array<float> src(values);
    Array<uint32_t> dst(14 * 32);
    launch<Scalars>(config, {src.data(), dst.data()});
    const std::vector<uint32_t> all = dst.values();
    for (int i = 0; i < 14; ++i) {
      const bool floats = i < 5 || i == 8 || i == 9;
      print(std::string(kNames[i]) + (moderate ? "_moderate" : ""), floats ? "float32" : "bits", 0,
            std::vector<uint32_t>(all.begin() + 32 * i, all.begin() + 32 * (i + 1)));
    }
  }
}

void movements(Random& random) {
  LaunchConfig config;
  {
    config.shared_bytes = 512;
    Array<Vec16> src(random.words<Vec16>(32));
    Array<uint32_t> dst(2 * 7 * 32);
    launch<LoadMatrix>(config, {src.data(), dst.data()});
    print("load_matrix", "bits", 0, dst.values());
  }
  {
    config = {};
    config.grid = {3, 2, 1};
    config.threads = 64;
    Array<float> dst(6 * 256);
    launch<Shuffles>(config, {dst.data()});
    print("shuffles_and_indices", "bits", 0, dst.values());
  }
  {
    constexpr int kChunks = 10;
    config = {};
    config.threads = 64;
    config.shared_bytes = 3 * 64 * 16;
    Array<Vec16> src(random.words<Vec16>(kChunks * 64)), dst(kChunks * 64);
    launch<Ring<true>>(config, {src.data(), dst.data(), kChunks});
    print("copy_async", "bits", 0, dst.values());
  }
  {
    config = {};
    config.threads = 64;
    config.shared_bytes = 128;
    Array<int> dst(32);
    launch<Handover>(config, {dst.data()});
    print("named_barriers", "bits", 0, dst.values());
  }
  {
    config = {};
    config.grid = {7, 1, 1};
    config.cooperative = true;
    Array<uint32_t> counter(std::vector<uint32_t>(1, 0));
    Array<int> between(7), dst(7);
    launch<GridBarrier>(config, {counter.data(), between.data(), dst.data()});
    print("grid_barrier", "bits", 0, dst.values());
  }
}

// The kernels that cuda_rates.cu times compute what they should.
void rates() {
  LaunchConfig config;
  config.threads = 64;
  Array<float> products(64);
  launch<MmaRate<Float16>>(config, {products.data(), 3});
  print("mma_rate", "float32", 0, products.values());
  Array<Vec16> src(std::vector<Vec16>(256, Vec16{1, 2, 4, 8}));
  Array<uint32_t> read(128);
  config.grid = {2, 1, 1};
  launch<ReadRate>(config, {src.data(), read.data(), 256, 3});
  print("read_rate", "bits", 0, read.values());
  Array<uint32_t> counter(std::vector<uint32_t>(1, 0));
  config.cooperative = true;
  config.threads = 32;
  launch<GridBarrierRate>(config, {counter.data(), 5});
  print("grid_barrier_rate", "bits", 0, counter.values());
}

}  // namespace

void portable_cases(Random& random) {
  mma_floats<Float16>("mma_float16", random);
  mma_floats<Bfloat16>("mma_bfloat16", random);
  mma_integers<int8_t>("mma_int8", random);
  mma_integers<uint8_t>("mma_uint8", random);
  scalars(random);
  movements(random);
  rates();
}

}  // namespace faceattr::cuda::test

int main(int argc, char** argv) {
  using namespace faceattr::cuda::test;
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s SEED\n", argv[0]);
    return 2;
  }
  Random random(static_cast<uint32_t>(std::strtoul(argv[1], nullptr, 10)));
  try {
    portable_cases(random);
    if (has_hopper()) hopper_cases(random);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
