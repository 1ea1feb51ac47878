// Convolutions on the emulator, tile by tile: small integers, whose sums are exact, must come out bit for bit; and what
// a kernel must not do is seen to be caught.
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>

#include "base/bfloat16.h"
#include "base/float16.h"
#include "check.h"
#include "cuda/emulator/machine.h"
#include "cuda/kernels/halo_conv.h"
#include "cuda/kernels/launches.h"
#include "cuda/kernels/segmented_conv.h"
#include "cuda/launch.h"
#include "cuda/packing.h"

namespace faceattr::test {
namespace {

using namespace cuda;
using cuda::emulator::GlobalArray;
using Map = std::vector<double>;  // [image][position][channel]

double rounded(Format format, double value) {
  if (format == Format::kHalf) return from_float16(to_float16(static_cast<float>(value)));
  if (format == Format::kBfloat16) return from_bfloat16(to_bfloat16(static_cast<float>(value)));
  return static_cast<float>(value);
}

// A map as kernels see it; what fills the last group up is zero.
GlobalArray<std::uint8_t> encode(const Map& map, const TensorShape& shape, int images) {
  const int group = group_channels(shape.format), groups = group_count(shape.channels, shape.format);
  const int positions = shape.height * shape.width, bytes = value_bytes(shape.format);
  std::vector<std::uint8_t> raw(static_cast<std::size_t>(images) * groups * positions * kGroupBytes);
  for (std::size_t i = 0; i < map.size(); ++i) {
    const int channel = static_cast<int>(i % shape.channels),
              position = static_cast<int>(i / shape.channels % positions);
    const int image = static_cast<int>(i / shape.channels / positions);
    std::uint8_t* to = raw.data() + map_index(image, channel / group, position, groups, positions) * kGroupBytes +
                       channel % group * bytes;
    const float value = static_cast<float>(map[i]);
    const std::uint16_t half = to_float16(value), brain = static_cast<std::uint16_t>(to_bfloat16(value));
    const std::uint8_t byte = static_cast<std::uint8_t>(static_cast<int>(value));
    const void* from = &value;
    if (shape.format == Format::kHalf) from = &half;
    if (shape.format == Format::kBfloat16) from = &brain;
    if (shape.format == Format::kInteger) from = &byte;
    std::memcpy(to, from, bytes);
  }
  return GlobalArray<std::uint8_t>(raw);
}

struct Source {
  int channels, start, count, kernel, stride, low;
};

struct Case {
  std::string name;
  Format format;
  int images, height, width, channels;  // of dst
  std::vector<Source> sources;
  bool relu, residual;
  bool exact = true;  // small integers, else any numbers of the format
};

using Launch = std::function<void(const LaunchConfig&, const ConvParams&)>;

class Convolution {
 public:
  explicit Convolution(const Case& c) : case_(c) {
    std::mt19937 generator(static_cast<std::uint32_t>(c.channels + c.width));
    const auto small = [&](int low, int high) -> double {
      if (c.exact) return std::uniform_int_distribution<int>(low, high)(generator);
      return rounded(c.format, std::uniform_real_distribution<double>(low, high)(generator));
    };
    for (const Source& s : c.sources) {
      TensorShape shape{c.height * s.stride - (s.stride > 1), c.width * s.stride - (s.stride > 1), s.channels,
                        c.format};
      shape.low = s.low;
      Map map(static_cast<std::size_t>(c.images) * shape.height * shape.width * s.channels);
      for (double& value : map) value = c.format == Format::kInteger ? small(s.low, s.low + 255) : small(-2, 2);
      segments_.push_back({static_cast<int>(plan_.tensors.size()), s.start, s.count, s.kernel, s.stride});
      plan_.tensors.push_back(shape);
      sources_.push_back(std::move(map));
      k_ += s.kernel * s.kernel * s.count;
    }
    for (int i = 0; i < c.channels * k_; ++i) {
      weight_.push_back(static_cast<float>(c.format == Format::kInteger ? small(-127, 127) : small(-1, 1)));
    }
    for (int o = 0; o < c.channels; ++o) bias_.push_back(static_cast<float>(small(-9, 9)));
    dst_ = {c.height, c.width, c.channels, c.format == Format::kHalf ? Format::kHalf : Format::kFloat};
    residual_.resize(static_cast<std::size_t>(c.images) * c.height * c.width * c.channels);
    for (double& value : residual_) value = c.residual ? small(-20, 20) : 0;
    compute();
  }

  struct Bytes {
    std::vector<std::uint8_t> dst, copy;
  };

  // How many bytes are not what they should be.
  int mistakes(ConvTileId tile, const Launch& launch) const {
    const Case& c = case_;
    TensorShape narrow = dst_;
    narrow.format = c.format;
    const Bytes got = run(tile, launch);
    return differences(got.dst, encode(expected_, dst_, c.images).values()) +
           (got.copy.empty() ? 0 : differences(got.copy, encode(expected_copy_, narrow, c.images).values()));
  }

  // Of a map of float32: the largest error as a share of what a sum of so many terms may have, n 2^-24 sum |terms|, and
  // the three roundings behind it.
  double share_of_bound(const Bytes& got) const {
    const int positions = case_.height * case_.width, groups = group_count(case_.channels, Format::kFloat);
    double worst = 0;
    for (std::size_t i = 0; i < expected_.size(); ++i) {
      const int channel = static_cast<int>(i % case_.channels), row = static_cast<int>(i / case_.channels);
      const std::int64_t at = map_index(row / positions, channel / 4, row % positions, groups, positions);
      float value;
      std::memcpy(&value, got.dst.data() + at * kGroupBytes + channel % 4 * 4, sizeof value);
      worst = std::max(worst, std::fabs(value - expected_[i]) / ((k_ + 3) * std::ldexp(magnitude_[i], -24)));
    }
    return worst;
  }

  Bytes run(ConvTileId tile, const Launch& launch) const {
    const Case& c = case_;
    const PackedConv& packed = packed_;
    std::vector<std::unique_ptr<GlobalArray<std::uint8_t>>> maps;
    ConvParams params = {};
    for (std::size_t s = 0; s < packed.sources.size(); ++s) {
      const TensorShape& shape = plan_.tensors[packed.tensors[s]];
      maps.push_back(
          std::make_unique<GlobalArray<std::uint8_t>>(encode(sources_[packed.tensors[s]], shape, c.images).values()));
      params.sources[s] = packed.sources[s];
      params.sources[s].map = maps.back()->data() + static_cast<std::size_t>(packed.first_group[s]) * shape.height *
                                                        shape.width * kGroupBytes;
    }
    const GlobalArray<std::byte> weights(packing_.bytes());
    params.source_count = static_cast<int>(packed.sources.size());
    params.steps = packed.steps;
    params.signed_from = packed.signed_from;
    params.weights = reinterpret_cast<const std::uint8_t*>(weights.data()) + packed.weights;
    params.padded_channels = packed.padded;
    params.out_height = c.height;
    params.out_width = c.width;
    params.rows = c.images * c.height * c.width;
    const ConvTileShape block = shape(tile, c.width);
    const int columns = c.format == Format::kFloat ? kFloatConvChannels : block.columns;
    params.column_tiles = divide_up(c.format == Format::kFloat ? packed.padded : c.channels, columns);

    const bool floats = dst_.format == Format::kFloat, copy = floats && c.format != Format::kFloat;
    TensorShape narrow = dst_;
    narrow.format = c.format;
    const GlobalArray<std::uint8_t> residual = encode(residual_, dst_, c.images);
    GlobalArray<std::uint8_t> dst(residual.size());
    GlobalArray<std::uint8_t> copied(encode(residual_, narrow, c.images).size());
    ConvStore& store = params.store;
    store.positions = c.height * c.width;
    store.relu = c.relu;
    store.bias = weights.data() + bias_at_;
    store.multiplier = reinterpret_cast<const float*>(weights.data() + multiplier_at_);
    store.inverse = reinterpret_cast<const float*>(weights.data() + inverse_at_);
    store.floats_groups = group_count(c.channels, Format::kFloat);
    store.narrow_groups = group_count(c.channels, c.format);
    store.low = -128.0f;
    (floats ? store.floats : store.narrow) = dst.data();
    if (copy) store.narrow = copied.data();
    if (c.residual) (floats ? store.floats_residual : store.narrow_residual) = residual.data();

    LaunchConfig config;
    const int rows = c.format == Format::kFloat ? kFloatConvRows : block.rows;
    config.grid.x = divide_up(params.rows, rows) * params.column_tiles;
    config.threads = c.format == Format::kFloat ? kFloatConvRows : block.threads;
    config.shared_bytes = block.shared_bytes;
    config.dependent = true;
    launch(config, params);
    return {dst.values(), copy ? copied.values() : std::vector<std::uint8_t>()};
  }

 private:
  static int differences(const std::vector<std::uint8_t>& got, const std::vector<std::uint8_t>& expected) {
    int count = 0;
    for (std::size_t i = 0; i < got.size(); ++i) count += got[i] != expected[i];
    return count;
  }

  void compute() {
    const Case& c = case_;
    packed_ = pack_conv(plan_, segments_, weight_, c.channels, c.format, packing_);
    const bool integers = c.format == Format::kInteger;
    if (integers) {
      bias_at_ = pack_channels(std::vector<std::int32_t>(bias_.begin(), bias_.end()), packing_);
    } else {
      bias_at_ = pack_channels(bias_, packing_);
    }
    multiplier_at_ = pack_channels(std::vector<float>(c.channels, 1.0f / 1024), packing_);
    inverse_at_ = pack_channels(std::vector<float>(c.channels, 0.75f), packing_);
    for (int image = 0; image < c.images; ++image) {
      for (int y = 0; y < c.height; ++y) {
        for (int x = 0; x < c.width; ++x) {
          for (int o = 0; o < c.channels; ++o) add(image, y, x, o);
        }
      }
    }
  }

  void add(int image, int y, int x, int o) {
    double sum = bias_[o], magnitude = std::fabs(bias_[o]) + std::fabs(residual_[expected_.size()]);
    const float* w = weight_.data() + static_cast<std::size_t>(o) * k_;
    for (const Segment& s : segments_) {
      const TensorShape& shape = plan_.tensors[s.src];
      for (int tap = 0; tap < s.kernel * s.kernel; ++tap, w += s.count) {
        const int sy = y * s.stride + tap / s.kernel - s.kernel / 2, sx = x * s.stride + tap % s.kernel - s.kernel / 2;
        if (sy < 0 || sy >= shape.height || sx < 0 || sx >= shape.width) continue;
        const std::size_t at =
            ((static_cast<std::size_t>(image) * shape.height + sy) * shape.width + sx) * shape.channels;
        for (int i = 0; i < s.count; ++i) {
          const double term = w[i] * sources_[s.src][at + s.start + i];
          sum += term;
          magnitude += std::fabs(term);
        }
      }
    }
    magnitude_.push_back(magnitude);
    const bool integers = case_.format == Format::kInteger;
    float value = static_cast<float>(sum);  // exact, or an integer rounded once
    if (integers) value *= 1.0f / 1024;
    value += static_cast<float>(residual_[expected_.size()]);
    if (case_.relu && value < 0) value = 0;
    expected_.push_back(rounded(dst_.format, value));
    const float scaled = value * 0.75f;
    expected_copy_.push_back(integers ? std::fmin(std::fmax(std::nearbyint(scaled), -128.0f), 127.0f)
                                      : rounded(case_.format, value));
  }

  const Case case_;
  Plan plan_;
  TensorShape dst_;
  std::vector<Segment> segments_;
  std::vector<Map> sources_;
  std::vector<float> weight_, bias_;
  int k_ = 0;
  Map residual_, expected_, expected_copy_, magnitude_;
  Packing packing_;
  PackedConv packed_;
  std::size_t bias_at_ = 0, multiplier_at_ = 0, inverse_at_ = 0;
};

// Sizes one less, one more and as large as a tile's rows and columns; slices that begin and end within groups.
std::vector<Case> cases(Format format, int rows, int columns, bool halo) {
  std::vector<Case> all = {{"3x3 and 1x1",
                            format,
                            divide_up(rows + 1, 35),
                            5,
                            7,
                            columns + 1,
                            {{24, 3, 17, 3, 1, -128}, {40, 0, 40, 1, 1, 0}, {9, 0, 9, 3, 1, 0}},
                            true,
                            true},
                           {"a single row", format, 1, 1, rows + 1, columns - 1, {{35, 0, 35, 3, 1, 0}}, false, true},
                           {"a single column", format, 1, rows - 1, 1, 5, {{70, 1, 69, 3, 1, -128}}, true, false}};
  if (halo) return all;
  all.push_back({"strides",
                 format,
                 divide_up(rows, 20),
                 4,
                 5,
                 columns,
                 {{20, 0, 20, 3, 2, 0}, {33, 8, 25, 1, 2, -128}, {8, 0, 8, 1, 4, 0}},
                 false,
                 false});
  all.push_back({"one step of K", format, 1, 1, rows, columns, {{8, 0, 8, 1, 1, 0}}, true, true});
  return all;
}

void check_tile(Format format, ConvTileId tile) {
  const bool halo = tile == ConvTileId::k128x128Halo || tile == ConvTileId::k128x64Halo;
  const ConvTileShape block = shape(tile, 8);
  std::uint32_t seed = 0;
  for (const Case& c : cases(format, block.rows, block.columns, halo)) {
    emulator::options().seed = seed++;
    const int wrong = Convolution(c).mistakes(
        tile, [&](const LaunchConfig& config, const ConvParams& params) { launch_conv(format, tile, config, params); });
    FA_CHECK_MESSAGE(wrong == 0, std::string(block.name) + ", format " + std::to_string(static_cast<int>(format)) +
                                     ", " + c.name + ": " + std::to_string(wrong) + " bytes differ");
  }
  emulator::options().seed = 1;
}

FA_TEST(tiles_are_exact_on_small_integers) {
  using Id = ConvTileId;
  for (const Format format : {Format::kHalf, Format::kBfloat16, Format::kInteger}) {
    for (const Id id : {Id::k32x32, Id::k64x64, Id::k128x64, Id::k128x64Halo, Id::k128x128, Id::k128x128Halo}) {
      check_tile(format, id);
    }
  }
  check_tile(Format::kFloat, Id::k32x32);  // one kernel, whatever the tile
}

// Any numbers: within the rounding of float32 sums, and the same bits from every tile that does not split K.
FA_TEST(tiles_agree_on_any_numbers) {
  using Id = ConvTileId;
  for (const Format format : {Format::kHalf, Format::kBfloat16}) {
    Case c = {"", format, 3, 5, 7, 70, {{70, 3, 66, 3, 1, 0}, {24, 0, 24, 1, 1, 0}}, true, true};
    c.exact = false;
    const Convolution convolution(c);
    const auto run = [&](Id id) {
      return convolution.run(
          id, [&](const LaunchConfig& config, const ConvParams& params) { launch_conv(format, id, config, params); });
    };
    const auto first = run(Id::k64x64);
    for (const Id id : {Id::k128x64, Id::k128x64Halo, Id::k128x128, Id::k128x128Halo}) {
      const auto other = run(id);
      FA_CHECK(other.dst == first.dst && other.copy == first.copy);
    }
    if (format != Format::kBfloat16) continue;  // whose dst is float32
    for (const Id id : {Id::k64x64, Id::k32x32}) {
      const double share = convolution.share_of_bound(run(id));
      FA_CHECK_MESSAGE(share > 0 && share < 1, std::to_string(share));
    }
  }
}

struct SkipBarrier : NoFaults {
  static constexpr bool kSkipBarrier = true;
};
struct SkipBorder : NoFaults {
  static constexpr bool kSkipBorder = true;
};
struct ReleaseEarly : NoFaults {
  static constexpr bool kReleaseEarly = true;
};

// Whether any of a few orders of threads shows that the kernel is wrong.
template <class Kernel>
bool caught(ConvTileId tile) {
  const Case c = {"", Format::kHalf, 2, 5, 7, 33, {{70, 0, 70, 3, 1, 0}}, false, false};
  const Convolution convolution(c);
  bool found = false;
  for (std::uint32_t seed = 1; seed <= 4 && !found; ++seed) {
    emulator::options().seed = seed;
    try {
      found = convolution.mistakes(tile, [](const LaunchConfig& config, const ConvParams& params) {
        launch<Kernel>(config, params);
      }) != 0;
    } catch (const LaunchError&) {
      found = true;
    }
  }
  emulator::options().seed = 1;
  return found;
}

FA_TEST(planted_faults_are_caught) {
  using Id = ConvTileId;
  FA_CHECK((!caught<SegmentedConv<Float16, ConvTile64x64>>(Id::k64x64)));
  FA_CHECK((caught<SegmentedConv<Float16, ConvTile64x64, SkipBarrier>>(Id::k64x64)));
  FA_CHECK((caught<SegmentedConv<Float16, ConvTile64x64, SkipBorder>>(Id::k64x64)));
  FA_CHECK((caught<SegmentedConv<Float16, ConvTile64x64, ReleaseEarly>>(Id::k64x64)));
  FA_CHECK((!caught<HaloConv<Float16, ConvTile128x64>>(Id::k128x64Halo)));
  FA_CHECK((caught<HaloConv<Float16, ConvTile128x64, SkipBarrier>>(Id::k128x64Halo)));
  FA_CHECK((caught<HaloConv<Float16, ConvTile128x64, SkipBorder>>(Id::k128x64Halo)));
  FA_CHECK((caught<HaloConv<Float16, ConvTile128x64, ReleaseEarly>>(Id::k128x64Halo)));
}

}  // namespace
}  // namespace faceattr::test
