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

FA_TEST(bias_is_padded_with_zeros) {
  const AlignedBuffer packed = cpu::pack_bias({1, 2, 3}, 8);
  FA_CHECK(packed.size() == 8);
  for (int i = 0; i < 8; ++i) FA_CHECK(packed.data()[i] == (i < 3 ? static_cast<float>(i + 1) : 0.0f));
}

FA_TEST(large_buffers_are_on_huge_page_boundaries) {
  const AlignedBuffer small(100), large(std::size_t{1} << 20);
  FA_CHECK(reinterpret_cast<std::uintptr_t>(small.data()) % 64 == 0);
  FA_CHECK(reinterpret_cast<std::uintptr_t>(large.data()) % (2 << 20) == 0);
  FA_CHECK_THROWS(std::bad_alloc, AlignedBuffer(SIZE_MAX / 2));
}
