// What host and kernels agree on: layouts, the order of K, packed weights, places in a workspace, tiles.
#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <tuple>

#include "base/float16.h"
#include "check.h"
#include "cuda/emulator/numbers.h"
#include "cuda/kernels/conv_tiles.h"
#include "cuda/memory.h"
#include "cuda/packing.h"
#include "cuda/program.h"
#include "cuda/tiles.h"
#include "plans.h"

namespace faceattr::test {
namespace {

using namespace cuda;

FA_TEST(float16_is_the_devices) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = from_float16(static_cast<std::uint16_t>(bits));
    FA_CHECK(std::isnan(value) == ((bits & 0x7fff) > 0x7c00));
    if (std::isnan(value)) continue;
    FA_CHECK(value == emulator::float16_value(static_cast<std::uint16_t>(bits)));
    FA_CHECK(to_float16(value) == bits);
  }
  std::mt19937 generator(1);
  for (int i = 0; i < 200000; ++i) {
    const std::uint32_t bits = generator();
    float value;
    std::memcpy(&value, &bits, sizeof value);
    // Most numbers are beyond float16's range: half of them are brought near.
    if (i % 2 == 0) value = std::ldexp(std::fmod(value, 2.0f), static_cast<int>(generator() % 44) - 27);
    if (!std::isnan(value)) FA_CHECK(to_float16(value) == emulator::float16_bits(value));
  }
  FA_CHECK(std::isnan(from_float16(to_float16(std::nanf("")))));
}

FA_TEST(maps_are_a_bijection) {
  const int images = 3, groups = 5, positions = 7;
  std::set<std::int64_t> seen;
  for (int image = 0; image < images; ++image) {
    for (int group = 0; group < groups; ++group) {
      for (int position = 0; position < positions; ++position) {
        const std::int64_t at = map_index(image, group, position, groups, positions);
        FA_CHECK(at >= 0 && at < images * groups * positions);
        seen.insert(at);
      }
    }
  }
  FA_CHECK(seen.size() == static_cast<std::size_t>(images * groups * positions));
  for (const Format format : {Format::kFloat, Format::kBfloat16, Format::kHalf, Format::kInteger}) {
    FA_CHECK(group_channels(format) * value_bytes(format) == kGroupBytes);
    for (int channels = 1; channels < 70; ++channels) {
      const int held = group_count(channels, format) * group_channels(format);
      FA_CHECK(held >= channels && held < channels + group_channels(format));
    }
  }
}

// Lane 4 g + t has columns 2 t and 2 t + 1 of both products of a block: four neighbouring channels.
FA_TEST(weight_columns_are_what_a_thread_keeps) {
  for (int block = 0; block < 3; ++block) {
    std::set<int> seen;
    for (int t = 0; t < 4; ++t) {
      for (int i = 0; i < 4; ++i) {
        const int column = weight_column(16 * block + 4 * t + i);
        FA_CHECK(column == 16 * block + 8 * (i / 2) + 2 * t + i % 2);
        seen.insert(column);
      }
    }
    FA_CHECK(seen.size() == 16 && *seen.begin() == 16 * block && *seen.rbegin() == 16 * block + 15);
  }
}

FA_TEST(the_cursor_visits_every_step_once_in_strides_of_any_size) {
  const std::vector<StepOrder> orders = {{5, 9, 2}, {1, 1, 1}, {4, 9, 4}, {3, 1, 2}, {2, 9, 2}};
  const auto order = [&](int segment) { return orders[segment]; };
  const int segments = static_cast<int>(orders.size());
  std::vector<std::tuple<int, int, int>> places;  // segment, tap, step
  for (int s = 0; s < segments; ++s) {
    for (int first = 0; first < orders[s].steps; first += orders[s].block) {
      for (int tap = 0; tap < orders[s].taps; ++tap) {
        for (int i = first; i < std::min(first + orders[s].block, orders[s].steps); ++i) places.push_back({s, tap, i});
      }
    }
  }
  for (const int stride : {1, 2, 3, 4, 7}) {
    for (int begin = 0; begin < stride; ++begin) {
      StepCursor cursor;
      cursor.advance(begin, segments, order);
      for (std::size_t at = begin; at < places.size(); at += stride, cursor.advance(stride, segments, order)) {
        FA_CHECK(places[at] == std::make_tuple(cursor.segment, cursor.tap, cursor.step()));
      }
      FA_CHECK(cursor.segment == segments);
    }
  }
}

// Every weight is a number of its own, and is found once where the layout says; everything else is zero.
FA_TEST(every_weight_is_packed_exactly_once) {
  const std::vector<std::vector<Segment>> convolutions = {
      {{0, 0, 24, 3, 1}, {1, 3, 17, 1, 1}},  // halos
      {{0, 5, 19, 3, 2}, {1, 0, 40, 1, 2}, {2, 7, 2, 1, 4}},
      {{1, 1, 1, 1, 1}},
  };
  for (const Format format : {Format::kHalf, Format::kBfloat16, Format::kFloat, Format::kInteger}) {
    Plan plan;
    for (const int channels : {24, 40, 9}) plan.tensors.push_back({8, 8, channels, format});
    if (format == Format::kInteger) plan.tensors[0].low = -128;
    for (const auto& segments : convolutions) {
      for (const int channels : {1, 15, 16, 17, 33}) {
        int k = 0;
        for (const Segment& s : segments) k += s.kernel * s.kernel * s.count;
        // Ones, a weight at a time, would say where each lies; two passes of digits do so at once: the weight's number
        // modulo 113, and the number of 113s.
        std::vector<std::vector<int>> digits;
        PackedConv packed;
        for (const int divisor : {1, 113}) {
          std::vector<float> weight(static_cast<std::size_t>(channels) * k);
          for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(1 + i / divisor % 113);
          Packing packing;
          packed = pack_conv(plan, segments, weight, channels, format, packing);
          FA_CHECK(packed.weights % 256 == 0);
          const std::size_t values = (packing.bytes().size() - packed.weights) / value_bytes(format);
          std::vector<int> all;
          for (std::size_t i = 0; i < values; ++i) {
            const void* from = packing.bytes().data() + packed.weights + i * value_bytes(format);
            std::uint16_t half = 0;
            float value = 0;
            std::int8_t byte = 0;
            std::memcpy(&half, from, std::min<int>(2, value_bytes(format)));
            if (format == Format::kFloat) std::memcpy(&value, from, 4);
            if (format == Format::kHalf) value = from_float16(half);
            if (format == Format::kBfloat16) value = emulator::bfloat16_value(half);
            std::memcpy(&byte, from, 1);
            all.push_back(format == Format::kInteger ? byte : static_cast<int>(value));
          }
          digits.push_back(all);
        }
        FA_CHECK(digits[0].size() ==
                 static_cast<std::size_t>(packed.steps) * kStepGroups * packed.padded * group_channels(format));
        std::vector<int> found(static_cast<std::size_t>(channels) * k);
        int strangers = 0;
        for (std::size_t i = 0; i < digits[0].size(); ++i) {
          if (digits[0][i] == 0) continue;
          const std::size_t column = i / group_channels(format) % packed.padded;
          for (int o = 0; o < channels; ++o) {
            if (weight_column(o) != static_cast<int>(column)) continue;
            // Of this channel, the weight with these digits.
            for (int w = o * k; w < (o + 1) * k; ++w) {
              if (1 + w % 113 == digits[0][i] && 1 + w / 113 % 113 == digits[1][i]) ++found[w];
            }
            --strangers;
          }
          ++strangers;
        }
        FA_CHECK(strangers == 0);
        FA_CHECK(std::all_of(found.begin(), found.end(), [](int count) { return count == 1; }));
      }
    }
  }
}

FA_TEST(maps_that_live_together_lie_apart) {
  for (const Plan& plan : {small_plan(24), winograd_plan(20, false), quantized_plan(40)}) {
    const auto kinds = check(plan);
    const Memory memory = place_tensors(plan, kinds);
    std::set<int> vectors;
    for (std::size_t a = 0; a < plan.tensors.size(); ++a) {
      if (kinds[a] == TensorKind::kVector) {
        FA_CHECK(memory.vector_offset[a] % 4 == 0);
        for (int i = 0; i < plan.tensors[a].channels; ++i) {
          FA_CHECK(vectors.insert(memory.vector_offset[a] + i).second);
          FA_CHECK(memory.vector_offset[a] + i < memory.vector_pitch);
        }
      }
      if (kinds[a] != TensorKind::kMap) continue;
      FA_CHECK(memory.map_offset[a] % 256 == 0);
      FA_CHECK(memory.map_offset[a] + memory.map_bytes[a] <= memory.arena_bytes);
      for (std::size_t b = a + 1; b < plan.tensors.size(); ++b) {
        if (kinds[b] != TensorKind::kMap) continue;
        const Life& x = memory.lives[a];
        const Life& y = memory.lives[b];
        if (x.first > y.last || y.first > x.last) continue;
        FA_CHECK(memory.map_offset[a] + memory.map_bytes[a] <= memory.map_offset[b] ||
                 memory.map_offset[b] + memory.map_bytes[b] <= memory.map_offset[a]);
      }
    }
  }
  // Memory is shared at all.
  const Plan plan = winograd_plan(20, false);
  const Memory memory = place_tensors(plan, check(plan));
  std::size_t sum = 0;
  for (std::size_t bytes : memory.map_bytes) sum += bytes;
  FA_CHECK(memory.arena_bytes < sum);
}

FA_TEST(tiles_fit_the_device_and_fill_it) {
  for (const std::size_t shared : {std::size_t{49152}, std::size_t{101376}, std::size_t{232448}}) {
    for (const int multiprocessors : {1, 84, 132}) {
      Target target;
      target.shared_bytes = shared;
      target.multiprocessors = multiprocessors;
      for (const int channels : {1, 32, 64, 65, 128, 384}) {
        for (const std::int64_t rows : {1, 49, 196, 3136, 50176, 802816}) {
          for (const int width : {0, 14, 56, 1000}) {
            const ConvTileShape tile = shape(choose_conv_tile(rows, channels, width, target), width);
            FA_CHECK(tile.shared_bytes <= shared);
            FA_CHECK(tile.columns < 2 * channels || tile.columns == 32);
          }
        }
      }
      for (const int side : {1, 7, 56, 64, 65, 300}) {
        for (const int parts : {1, 2}) {
          const StemTile tile = choose_stem_tile(side, 64, 32, parts, target);
          FA_CHECK(tile.strip_rows >= 1 && tile.columns >= 1 && tile.columns <= kStemMaxColumns);
          FA_CHECK(static_cast<std::size_t>(stem_shared_bytes(tile.strip_rows, tile.columns, parts)) <= 101376);
        }
      }
    }
  }
  Target h100;
  h100.multiprocessors = 132;
  h100.shared_bytes = 232448;
  FA_CHECK(choose_conv_tile(196, 384, 14, h100) == ConvTileId::k32x32);            // a batch of one
  FA_CHECK(choose_conv_tile(64 * 3136, 64, 56, h100) == ConvTileId::k128x64Halo);  // 64 channels of 56x56
  FA_CHECK(choose_conv_tile(256 * 196, 256, 14, h100) == ConvTileId::k128x128Halo);
  FA_CHECK(choose_conv_tile(256 * 196, 256, 0, h100) == ConvTileId::k128x128);
}

}  // namespace
}  // namespace faceattr::test
