// Which instruction sets may be used: what the CPU and the operating system offer, or less where FACEATTR_ISA says so.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace faceattr::cpu {

// Bits of a feature set. Each named level below is a set of them; a kernel asks for the level that it is compiled for.
enum Feature : std::uint32_t {
  kAvx2 = 1u << 0,    // with FMA and F16C
  kAvx512 = 1u << 1,  // F, BW, DQ, VL
  kAvx512Bf16 = 1u << 2,
  kAvx512Vnni = 1u << 3,
};

struct IsaLevel {
  const char* name;
  std::uint32_t features;
};

// scalar, avx2, avx512, avx512bf16, avx512vnni; each with what it implies.
const std::vector<IsaLevel>& isa_levels();

// Asked of the CPU (CPUID) and of the operating system (XGETBV), once.
std::uint32_t detected_features();

// Raised as faceattr_fast.DeviceError.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The features of a level by name; empty: all detected ones. Throws DeviceError for an unknown level and for one that
// this machine lacks.
std::uint32_t select_features(const std::string& level);

// "avx2", "avx512+avx512bf16", …, "scalar" for none.
std::string describe_features(std::uint32_t features);

}  // namespace faceattr::cpu
