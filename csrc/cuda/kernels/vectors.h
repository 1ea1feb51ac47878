// What follows the maps: means that become vectors, matrices on vectors, and maps as results. Vectors are float32, one
// row of all of them per image.
#pragma once

#include "cuda/kernels/numbers.h"

namespace faceattr::cuda {

// Which format a map has, for kernels that read any.
template <class T>
struct MapReader {  // Float16, Bfloat16
  static constexpr int kGroup = 8;
  using Sum = float;
  static FA_DEVICE void read(const uint8_t* map, int64_t group, float, Sum (&values)[kGroup]) {
    const Vec16 bits = load_global(reinterpret_cast<const Vec16*>(map) + group);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    FA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const Float2 pair = unpack2<T>(words[i]);
      values[2 * i] = pair.x;
      values[2 * i + 1] = pair.y;
    }
  }
};
template <>
struct MapReader<Float32> {
  static constexpr int kGroup = 4;
  using Sum = float;
  static FA_DEVICE void read(const uint8_t* map, int64_t group, float, Sum (&values)[kGroup]) {
    const Float4 four = load_global(reinterpret_cast<const Float4*>(map) + group);
    FA_UNROLL
    for (int i = 0; i < 4; ++i) values[i] = four.v[i];
  }
};
template <>
struct MapReader<Integer8> {
  static constexpr int kGroup = 16;
  using Sum = int32_t;
  static FA_DEVICE void read(const uint8_t* map, int64_t group, float low, Sum (&values)[kGroup]) {
    const Vec16 bits = load_global(reinterpret_cast<const Vec16*>(map) + group);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    FA_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int32_t byte = static_cast<int32_t>(words[i / 4] >> (i % 4 * 8) & 0xff);
      values[i] = low < 0.0f && byte > 127 ? byte - 256 : byte;
    }
  }
};

// Whether any of an image's pixels did not fit: a warp asks together.
FA_DEVICE bool image_is_flagged(const uint32_t* flags, int per_image, int image) {
  uint32_t any = 0;
  for (int i = lane_index(); i < per_image; i += 32) any |= load_global(flags + image * per_image + i);
  FA_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) any |= shuffle_xor(any, mask);
  return any != 0;
}

FA_DEVICE float not_a_number() { return from_bits<Bfloat16>(0x7fc0); }

// ---- dst[tap * count + c - start] = mean over output positions of src at the tap, zero outside.

// A block is one group of one image, a warp takes every fourth tap, its lanes share the positions. The order of a sum
// is the same for any batch.
template <class T>
struct ShiftedMeans {
  using Params = MeansParams;
  static constexpr const char* kName = "shifted_means";
  static constexpr int kMaxThreads = 96;
  static constexpr int kMinBlocks = 8;

  static FA_DEVICE void run(const Params& params) {
    using Reader = MapReader<T>;
    constexpr int kGroup = Reader::kGroup;
    dependency_wait();
    dependency_trigger();
    const int image = block_index().x / params.groups, group = params.first_group + block_index().x % params.groups;
    const int positions = params.height * params.width, outputs = params.out_height * params.out_width;
    for (int tap = warp_index(); tap < params.kernel * params.kernel; tap += block_threads() / 32) {
      const int dy = tap / params.kernel - params.kernel / 2, dx = tap % params.kernel - params.kernel / 2;
      typename Reader::Sum sums[kGroup] = {};
      for (int i = lane_index(); i < outputs; i += 32) {
        const int y = i / params.out_width * params.stride + dy, x = i % params.out_width * params.stride + dx;
        if (y < 0 || y >= params.height || x < 0 || x >= params.width) continue;
        typename Reader::Sum values[kGroup];
        Reader::read(params.map, map_index(image, group, y * params.width + x, params.map_groups, positions),
                     params.low, values);
        FA_UNROLL
        for (int c = 0; c < kGroup; ++c) sums[c] += values[c];
      }
      float* dst = params.dst + static_cast<int64_t>(image) * params.pitch + static_cast<int64_t>(tap) * params.count;
      FA_UNROLL
      for (int c = 0; c < kGroup; ++c) {
        typename Reader::Sum sum = sums[c];
        FA_UNROLL
        for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
        const int channel = group * kGroup + c;
        if (lane_index() != c || channel < params.start || channel >= params.start + params.count) continue;
        // Integers as on the CPU: the sum, exact, times the scale's share.
        const float share = params.scale == nullptr
                                ? params.share
                                : multiply(load_global_constant(params.scale + channel), params.share);
        store_global(dst + channel - params.start, multiply(static_cast<float>(sum), share));
      }
    }
  }
};

// ---- dst = weights * concatenation of the inputs + bias.

// A warp computes kOutputs channels of kImages images: each number that it loads is used kOutputs or kImages times.
// Lane l adds the products 4 l … 4 l + 3 of every 128, then the lanes' sums are added pairwise, so the order of a sum
// is the same for every batch, and the longest chain of the 2560 products of the paper's network has 80.
template <int kOutputs, int kImages>
struct LinearHead {
  using Params = LinearParams;
  static constexpr const char* kName = "linear_head";
  static constexpr int kMaxThreads = 128;
  static constexpr int kMinBlocks = 4;

  static FA_DEVICE void run(const Params& params) {
    dependency_wait();
    dependency_trigger();
    const int first = (block_index().x * (kMaxThreads / 32) + warp_index()) * kOutputs;
    const int first_image = block_index().y * kImages;
    if (first >= params.channels) return;
    float acc[kOutputs][kImages] = {};
    for (int p = 0; p < params.part_count; ++p) {
      const LinearPart& part = params.parts[p];
      for (int k = 4 * lane_index(); k < part.count; k += 128) {
        Float4 x[kImages];
        FA_UNROLL
        for (int i = 0; i < kImages; ++i) {
          const int image = first_image + i < params.images ? first_image + i : first_image;
          x[i] = load_vector(params.vectors + static_cast<int64_t>(image) * params.pitch + part.offset + k,
                             part.count - k);
        }
        FA_UNROLL
        for (int o = 0; o < kOutputs; ++o) {
          const int channel = first + o < params.channels ? first + o : first;
          const float* row = params.weights + static_cast<int64_t>(channel) * params.k + part.begin + k;
          const Float4 w = load_global_constant(reinterpret_cast<const Float4*>(row));
          FA_UNROLL
          for (int i = 0; i < kImages; ++i) {
            FA_UNROLL
            for (int j = 0; j < 4; ++j) acc[o][i] = multiply_add(w.v[j], x[i].v[j], acc[o][i]);
          }
        }
      }
    }
    FA_UNROLL
    for (int i = 0; i < kImages; ++i) {
      const int image = first_image + i;
      if (image >= params.images) break;
      const bool flagged = params.slice_count > 0 && image_is_flagged(params.flags, params.flags_per_image, image);
      FA_UNROLL
      for (int o = 0; o < kOutputs; ++o) {
        float sum = acc[o][i];
        FA_UNROLL
        for (int mask = 16; mask > 0; mask /= 2) sum = add(sum, shuffle_xor(sum, mask));
        if (lane_index() == 0 && first + o < params.channels) write(params, first + o, image, flagged, sum);
      }
    }
  }

 private:
  // Vectors begin at multiples of 4; the last numbers of the four may belong to the next one, or to nothing.
  static FA_DEVICE Float4 load_vector(const float* from, int left) {
    Float4 x = load_global(reinterpret_cast<const Float4*>(from));
    FA_UNROLL
    for (int j = 1; j < 4; ++j) x.v[j] = j < left ? x.v[j] : 0.0f;
    return x;
  }

  static FA_DEVICE void write(const Params& params, int channel, int image, bool flagged, float sum) {
    const float value = add(sum, load_global_constant(params.bias + channel));
    store_global(params.vectors + static_cast<int64_t>(image) * params.pitch + params.dst + channel, value);
    for (int s = 0; s < params.slice_count; ++s) {
      const OutputSlice& slice = params.slices[s];
      const int at = channel - slice.start;
      if (at < 0 || at >= slice.count) continue;
      store_global(slice.dst + static_cast<int64_t>(image) * slice.count + at, flagged ? not_a_number() : value);
    }
  }
};

// ---- A map, or a vector of means, as a result: float32 [images, height, width, count].

// A block is up to kMaxThreads positions and groups of one image, channels of a position next to each other.
template <class T>
struct Gather {
  using Params = GatherParams;
  static constexpr const char* kName = "gather";
  static constexpr int kMaxThreads = 128;
  static constexpr int kMinBlocks = 8;

  static FA_DEVICE void run(const Params& params) {
    using Reader = MapReader<T>;
    constexpr int kGroup = Reader::kGroup;
    dependency_wait();
    dependency_trigger();
    const int first_group = params.start / kGroup;
    const int groups = divide_up(params.start + params.count, kGroup) - first_group;
    const int per_image = divide_up(params.positions * groups, kMaxThreads);
    const int image = block_index().x / per_image;
    const bool flagged = image_is_flagged(params.flags, params.flags_per_image, image);
    const int item = block_index().x % per_image * kMaxThreads + thread_index();
    if (item >= params.positions * groups) return;
    const int position = item / groups, group = first_group + item % groups;
    typename Reader::Sum values[kGroup];
    Reader::read(params.map + image * params.image_bytes,
                 map_index(0, group, position, params.map_groups, params.positions), params.low, values);
    float* dst = params.dst + (static_cast<int64_t>(image) * params.positions + position) * params.count;
    FA_UNROLL
    for (int c = 0; c < kGroup; ++c) {
      const int channel = group * kGroup + c;
      if (channel < params.start || channel >= params.start + params.count) continue;
      float value = static_cast<float>(values[c]);
      if (params.scale != nullptr) value = multiply(value, load_global_constant(params.scale + channel));
      store_global(dst + channel - params.start, flagged ? not_a_number() : value);
    }
  }
};

// ---- A map of floats as integers: dst = clamp(rint(src * inverse)), the steps of a convolution's copy.

struct Quantize {
  using Params = QuantizeParams;
  static constexpr const char* kName = "quantize";
  static constexpr int kMaxThreads = 256;
  static constexpr int kMinBlocks = 4;

  static FA_DEVICE void run(const Params& params) {
    dependency_wait();
    dependency_trigger();
    const int64_t item = static_cast<int64_t>(block_index().x) * kMaxThreads + thread_index();
    const int quads = 4 * params.store.narrow_groups;
    if (item >= static_cast<int64_t>(params.images) * quads * params.positions) return;
    const int position = static_cast<int>(item % params.positions);
    const int quad = static_cast<int>(item / params.positions % quads);
    const int image = static_cast<int>(item / params.positions / quads);
    Float4 value = {};  // channels that only fill the last group up are zero
    if (quad < params.src_groups) {
      value = load_global(reinterpret_cast<const Float4*>(params.src) +
                          map_index(image, quad, position, params.src_groups, params.positions));
    }
    const int64_t group = map_index(image, quad / 4, position, params.store.narrow_groups, params.positions);
    Numbers<Integer8>::store_narrow(params.store, group, 4 * quad, value);
  }
};

}  // namespace faceattr::cuda
