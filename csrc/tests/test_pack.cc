#include <algorithm>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/pack.h"

using namespace faceattr;

FA_TEST(panels_follow_the_formula) {
  for (int width : {8, 16, 64}) {
    for (int oc : {1, 7, 8, 9, 16, 63, 64, 65, 130}) {
      for (std::int64_t k : {1, 2, 9, 33}) {
        std::vector<float> weight(oc * k);
        for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(i + 1);
        const AlignedBuffer packed = cpu::pack_panels(weight, oc, k, width);
        const int padded = cpu::panel_count(oc, width) * width;
        FA_CHECK(packed.size() == static_cast<std::size_t>(padded * k));
        for (int o = 0; o < padded; ++o) {
          for (std::int64_t i = 0; i < k; ++i) {
            const float expected = o < oc ? weight[o * k + i] : 0.0f;
            FA_CHECK(packed.data()[(o / width * k + i) * width + o % width] == expected);
          }
        }
      }
    }
  }
}

FA_TEST(panels_of_16_bits_follow_the_same_formula) {
  for (int oc : {1, 8, 17}) {
    const std::int64_t k = 3;
    const int width = 8, padded = cpu::panel_count(oc, width) * width;
    std::vector<std::uint16_t> weight(oc * k);
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<std::uint16_t>(60000 + i);
    const AlignedBuffer packed = cpu::pack_panels(weight, oc, k, width);
    FA_CHECK(packed.size() == static_cast<std::size_t>(padded * k / 2));
    const auto* found = reinterpret_cast<const std::uint16_t*>(packed.data());
    for (int o = 0; o < padded; ++o) {
      for (std::int64_t i = 0; i < k; ++i) {
        FA_CHECK(found[(o / width * k + i) * width + o % width] == (o < oc ? weight[o * k + i] : 0));
      }
    }
  }
}

FA_TEST(bias_is_padded_with_zeros) {
  const AlignedBuffer packed = cpu::pack_bias({1, 2, 3}, 8);
  FA_CHECK(packed.size() == 8);
  for (int i = 0; i < 8; ++i) FA_CHECK(packed.data()[i] == (i < 3 ? static_cast<float>(i + 1) : 0.0f));
}

FA_TEST(large_buffers_are_on_huge_page_boundaries) {
  for (std::size_t floats :
       {std::size_t{1} << 19, (std::size_t{1} << 19) + 1, std::size_t{9} << 17, std::size_t{5} << 18}) {
    AlignedBuffer buffer(floats);  // one huge page, and rests of a float, a quarter and a half of another
    FA_CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % (2 << 20) == 0);
    std::fill_n(buffer.data(), floats, 1.0f);
    const AlignedBuffer moved = std::move(buffer);
    FA_CHECK(moved.data()[floats - 1] == 1.0f);
  }
  const AlignedBuffer small(100), large(std::size_t{1} << 20);
  FA_CHECK(reinterpret_cast<std::uintptr_t>(small.data()) % 64 == 0);
  FA_CHECK(reinterpret_cast<std::uintptr_t>(large.data()) % (2 << 20) == 0);
  FA_CHECK_THROWS(std::bad_alloc, AlignedBuffer(SIZE_MAX / 2));
}
