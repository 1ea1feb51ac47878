#include "cpu/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace faceattr::cpu {
namespace {

#if defined(__x86_64__)

bool bit(unsigned value, int index) { return (value >> index) & 1u; }

std::uint64_t xgetbv() {
  std::uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

std::uint32_t detect() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  const bool osxsave = bit(c, 27), avx = bit(c, 28), fma = bit(c, 12), f16c = bit(c, 29);
  if (!osxsave || !avx) return 0;
  const std::uint64_t saved = xgetbv();
  if ((saved & 0x6) != 0x6) return 0;  // the system saves XMM and YMM
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  std::uint32_t features = 0;
  if (bit(b, 5) && fma && f16c) features |= kAvx2;
  const bool avx512 = bit(b, 16) && bit(b, 30) && bit(b, 17) && bit(b, 31);  // F, BW, DQ, VL
  if ((features & kAvx2) && avx512 && (saved & 0xe6) == 0xe6) {              // opmask and ZMM are saved too
    features |= kAvx512;
    if (bit(c, 11)) features |= kAvx512Vnni;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && bit(a, 5)) features |= kAvx512Bf16;
  }
  return features;
}

#else

std::uint32_t detect() { return 0; }

#endif

}  // namespace

const std::vector<IsaLevel>& isa_levels() {
  static const std::vector<IsaLevel> levels = {
      {"scalar", 0},
      {"avx2", kAvx2},
      {"avx512", kAvx2 | kAvx512},
      {"avx512bf16", kAvx2 | kAvx512 | kAvx512Bf16},
      {"avx512vnni", kAvx2 | kAvx512 | kAvx512Vnni},
  };
  return levels;
}

std::uint32_t detected_features() {
  static const std::uint32_t features = detect();
  return features;
}

std::uint32_t select_features(const std::string& level) {
  const std::uint32_t detected = detected_features();
  if (level.empty()) return detected;
  std::string known;
  for (const IsaLevel& isa : isa_levels()) {
    if (level == isa.name) {
      if ((isa.features & ~detected) == 0) return isa.features;
      throw DeviceError("instruction set '" + level + "' is not available: this machine has " +
                        describe_features(detected));
    }
    known += known.empty() ? isa.name : std::string(", ") + isa.name;
  }
  throw DeviceError("unknown instruction set '" + level + "': expected one of " + known);
}

std::string describe_features(std::uint32_t features) {
  if (features == 0) return "scalar";
  std::string text;
  const auto add = [&](Feature feature, const char* name) {
    if (features & feature) text += text.empty() ? name : std::string("+") + name;
  };
  add(kAvx2, "avx2");
  add(kAvx512, "avx512");
  add(kAvx512Bf16, "avx512bf16");
  add(kAvx512Vnni, "avx512vnni");
  return text;
}

}  // namespace faceattr::cpu
