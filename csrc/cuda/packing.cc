#include "cuda/packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "base/bfloat16.h"
#include "base/float16.h"
#include "cuda/hopper/params.h"

namespace faceattr::cuda {
namespace {

constexpr std::size_t kAlignment = 256;

}  // namespace

void put_value(Format format, float value, std::byte* to) {
  switch (format) {
    case Format::kFloat: {
      std::memcpy(to, &value, sizeof value);
      return;
    }
    case Format::kBfloat16: {
      const std::int16_t bits = to_bfloat16(value);
      std::memcpy(to, &bits, sizeof bits);
      return;
    }
    case Format::kHalf: {
      const std::uint16_t bits = to_float16(value);
      if ((bits & 0x7c00) == 0x7c00)
        throw std::invalid_argument("a weight of " + std::to_string(value) + " is beyond float16's range");
      std::memcpy(to, &bits, sizeof bits);
      return;
    }
    case Format::kInteger: {
      const std::int8_t integer = static_cast<std::int8_t>(value);
      std::memcpy(to, &integer, sizeof integer);
      return;
    }
  }
}

std::size_t Packing::add(std::size_t bytes) {
  const std::size_t offset = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
  bytes_.resize(offset + bytes);
  return offset;
}

PackedConv pack_conv(const Plan& plan, const std::vector<Segment>& segments, const std::vector<float>& weight,
                     int channels, Format format, Packing& packing) {
  const int group = group_channels(format), count = static_cast<int>(segments.size());
  if (count > kMaxSources) {
    throw std::invalid_argument("a convolution of at most " + std::to_string(kMaxSources) + " segments expected, got " +
                                std::to_string(count));
  }
  std::vector<int> first_k(count), order(count);
  int k = 0;
  for (int s = 0; s < count; ++s) {
    first_k[s] = k;
    k += segments[s].kernel * segments[s].kernel * segments[s].count;
  }
  // Integers from 0 on come first: then a step's number tells how to read it. Sums of integers have no order.
  std::iota(order.begin(), order.end(), 0);
  const auto is_signed = [&](int s) { return plan.tensors[segments[s].src].low < 0; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return is_signed(a) < is_signed(b); });

  // A 3x3 at stride 1 whose other sources are read at stride 1, too. The order depends on shapes alone, whatever tile a
  // batch is computed by: then so do the bits.
  const auto unstrided = [](const Segment& s) { return s.stride == 1; };
  const auto threes = [](const Segment& s) { return s.kernel == 3; };
  const bool halo =
      std::all_of(segments.begin(), segments.end(), unstrided) && std::any_of(segments.begin(), segments.end(), threes);

  PackedConv packed;
  if (halo) packed.halo_width = plan.tensors[segments[0].src].width;
  for (int s : order) {
    const Segment& segment = segments[s];
    const TensorShape& src = plan.tensors[segment.src];
    const int first = segment.start / group;
    ConvSource source = {};
    source.map_groups = group_count(src.channels, format);
    source.height = src.height;
    source.width = src.width;
    source.kernel = segment.kernel;
    source.stride = segment.stride;
    source.groups = divide_up(segment.start + segment.count, group) - first;
    int steps = divide_up(source.groups, kStepGroups);
    if (halo) steps = divide_up(steps, kHaloSteps) * kHaloSteps;
    source.order = {steps, segment.kernel * segment.kernel, halo ? kHaloSteps : steps};
    packed.sources.push_back(source);
    packed.tensors.push_back(segment.src);
    packed.first_group.push_back(first);
    const int all = steps * source.order.taps;
    packed.steps += all;
    if (!is_signed(s)) packed.signed_from += all;
  }
  packed.padded = padded_channels(channels);
  const int bytes = value_bytes(format);
  packed.weights = packing.add(static_cast<std::size_t>(packed.steps) * kStepGroups * packed.padded * kGroupBytes);
  std::byte* to = packing.at<std::byte>(packed.weights);
  StepCursor cursor;
  const auto step_order = [&](int segment) { return packed.sources[segment].order; };
  for (int step = 0; step < packed.steps; ++step, cursor.advance(1, count, step_order)) {
    const Segment& segment = segments[order[cursor.segment]];
    for (int i = 0; i < kStepGroups * group; ++i) {
      const int channel =
          (packed.first_group[cursor.segment] + kStepGroups * cursor.step()) * group + i - segment.start;
      if (channel < 0 || channel >= segment.count) continue;
      const int from = first_k[order[cursor.segment]] + cursor.tap * segment.count + channel;
      for (int o = 0; o < channels; ++o) {
        const std::int64_t at = weight_index(step, i / group, weight_column(o), packed.padded);
        put_value(format, weight[static_cast<std::size_t>(o) * k + from], to + at * kGroupBytes + i % group * bytes);
      }
    }
  }
  return packed;
}

std::size_t pack_stem(const std::vector<float>& weight, const float (&factor)[3], int channels, Format format,
                      Packing& packing) {
  const int padded = padded_channels(channels);
  const std::size_t offset = packing.add(static_cast<std::size_t>(kStemSteps) * kStepGroups * padded * kGroupBytes);
  std::byte* to = packing.at<std::byte>(offset);
  for (int o = 0; o < channels; ++o) {
    for (int tap = 0; tap < kStemTaps * kStemTaps; ++tap) {
      for (int c = 0; c < 3; ++c) {
        // Two positions of four values each in a group, four groups in a row of taps.
        const int ky = tap / kStemTaps, kx = tap % kStemTaps;
        const std::int64_t at = weight_index(2 * ky + kx / 4, kx % 4 / 2, weight_column(o), padded);
        const float value = weight[(static_cast<std::size_t>(o) * kStemTaps * kStemTaps + tap) * 3 + c] * factor[c];
        put_value(format, value, to + at * kGroupBytes + (kx % 2 * 4 + c) * 2);
      }
    }
  }
  return offset;
}

std::size_t pack_wgmma_stem(const std::vector<float>& weight, const float (&factor)[3], int channels, Format format,
                            Packing& packing) {
  const std::size_t offset =
      packing.add(static_cast<std::size_t>(divide_up(channels, kStemChannels)) * kWgmmaStemWeightBytes);
  for (int o = 0; o < channels; ++o) {
    std::byte* const to = packing.at<std::byte>(offset) + o / kStemChannels * kWgmmaStemWeightBytes;
    for (int lower = 0; lower < 2; ++lower) {
      for (int tap = 0; tap < kStemTaps * kStemTaps; ++tap) {
        for (int c = 0; c < 3; ++c) {
          // The lower row of the convolution begins two rows of pixels further down.
          const int group = (tap / kStemTaps + 2 * lower) * 4 + tap % kStemTaps / 2;
          const int at = group * 64 + wgmma_stem_row(o % kStemChannels, lower);
          const float value = weight[(static_cast<std::size_t>(o) * kStemTaps * kStemTaps + tap) * 3 + c] * factor[c];
          put_value(format, value, to + at * kGroupBytes + (tap % kStemTaps % 2 * 4 + c) * 2);
        }
      }
    }
  }
  return offset;
}

std::size_t pack_float_stem(const std::vector<float>& weight, int channels, Packing& packing) {
  constexpr int kK = kStemTaps * kStemTaps * 3;
  const int padded = padded_channels(channels);
  const std::size_t offset = packing.add(static_cast<std::size_t>(kK) * padded * sizeof(float));
  float* to = packing.at<float>(offset);
  for (int o = 0; o < channels; ++o) {
    for (int k = 0; k < kK; ++k) to[k * padded + o] = weight[static_cast<std::size_t>(o) * kK + k];
  }
  return offset;
}

}  // namespace faceattr::cuda
