// The stem on tensor cores: 7x7 convolution at stride 2 of the normalised pixels, bias, ReLU and 2x2 max pool in one.
//
// A block loads the pixels under a strip of pooled rows once and keeps them in shared memory as rows of four 16-bit
// values each, the fourth zero. Two positions are 16 bytes and the stride is two positions, so a row of a matrix
// operand, eight positions of one tap row, is read where it lies: windows overlap, nothing is copied. K = 7 tap rows x
// 8 positions x 4 values = 224, of which 147 are not zero.
//
// A product's rows 0-7 are eight neighbouring columns of an even convolution row, rows 8-15 those of the row below: the
// pool's two rows are one thread's registers, its two columns those of lanes 4 apart.
//
// Floats: x are (pixel - mean) / unit with a power of two for `unit`, which 16-bit formats hold exactly where means are
// multiples of one half; weights are scaled to match. Integers: x are q = rint(2 * (pixel - mean)), exact in float16 as
// long as they and all sums are small (stem_parts() below decides). Otherwise q = 256 high + low in two parts, whose
// sums are exact: 147 * 127 * 255 < 2^23.
#pragma once

#include "cuda/kernels/stem_pixels.h"

namespace faceattr::cuda {

// Out: Float16, Bfloat16 (with one part), Integer8.
template <class Out, int kParts>
struct Stem : private StemPixels<Out, kParts> {
  using Params = StemParams;
  static constexpr const char* kName = "stem";
  static constexpr int kMaxThreads = 256;
  static constexpr int kMinBlocks = kParts == 1 ? 2 : 1;

  static FA_DEVICE void run(const Params& params) {
    Stem stem(params);
    stem.copy_weights();
    dependency_wait();
    dependency_trigger();
    stem.load_pixels();
    copy_async_wait<0>();
    sync_block();
    stem.write_flag();
    stem.convolve();
  }

 private:
  using Pixels = StemPixels<Out, kParts>;
  using Pixels::first_channel, Pixels::first_column, Pixels::first_row, Pixels::image, Pixels::kIntegers,
      Pixels::params, Pixels::part_bytes, Pixels::pitch, Pixels::pixels;
  using typename Pixels::In;
  static constexpr int kUnits = 2;  // products of 16 rows that share loads of weights
  static constexpr int kProducts = kStemChannels / 8;

  explicit FA_DEVICE Stem(const Params& p)
      : StemPixels<Out, kParts>(p, shared_base() + kStemWeightBytes, stem_pitch(p.columns)) {}

  FA_DEVICE void copy_weights() {
    for (int piece = thread_index(); piece < kStemWeightBytes / kGroupBytes; piece += block_threads()) {
      const int group = piece / kStemChannels, column = first_channel + piece % kStemChannels;
      const bool valid = column < params.padded_channels;
      const int64_t at =
          valid ? weight_index(group / kStepGroups, group % kStepGroups, column, params.padded_channels) : 0;
      copy_async_16(shared_base() + static_cast<SharedAddress>(piece * kGroupBytes), params.weights + at * kGroupBytes,
                    valid);
    }
    copy_async_commit();
  }

  FA_DEVICE void convolve() {
    const int blocks = divide_up(2 * params.columns, 8);  // of eight convolution columns
    const int units = blocks * params.strip_rows;
    for (int unit = warp_index() * kUnits; unit < units; unit += block_threads() / 32 * kUnits) {
      float acc[kParts][kUnits][kProducts][4] = {};
      SharedAddress window[kUnits];
      FA_UNROLL
      for (int u = 0; u < kUnits; ++u) {
        const int own = unit + u < units ? unit + u : unit;
        const int row = 2 * (own / blocks) + lane_index() % 16 / 8, column = own % blocks * 8 + lane_index() % 8;
        window[u] = pixels + static_cast<SharedAddress>(((2 * row) * pitch + 2 * column + lane_index() / 16 * 2) * 8);
      }
      const SharedAddress weights =
          shared_base() +
          static_cast<SharedAddress>((lane_index() / 8 % 2 * kStemChannels + lane_index() / 16 * 8 + lane_index() % 8) *
                                     kGroupBytes);
      FA_NO_UNROLL
      for (int step = 0; step < kStemSteps; ++step) {
        uint32_t b[kProducts / 2][4];
        FA_UNROLL
        for (int n = 0; n < kProducts / 2; ++n) {
          load_matrix(weights + static_cast<SharedAddress>((step * kStepGroups * kStemChannels + 16 * n) * kGroupBytes),
                      b[n]);
        }
        const SharedAddress tap = static_cast<SharedAddress>((step / 2 * pitch + step % 2 * 4) * 8);
        FA_UNROLL
        for (int part = 0; part < kParts; ++part) {
          FA_UNROLL
          for (int u = 0; u < kUnits; ++u) {
            uint32_t a[4];
            load_matrix(window[u] + tap + static_cast<SharedAddress>(part) * part_bytes(), a);
            FA_UNROLL
            for (int n = 0; n < kProducts; ++n) {
              const uint32_t column[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
              mma_16x8x16<In>(acc[part][u][n], a, column);
            }
          }
        }
      }
      FA_UNROLL
      for (int u = 0; u < kUnits; ++u) {
        FA_UNROLL
        for (int n = 0; n < kProducts / 2; ++n) pool(acc, u, n, unit + u, blocks, unit + u < units);
      }
    }
  }

  // 16 channels of one unit: a thread has four channels of two convolution positions, one above the other.
  FA_DEVICE void pool(const float (&acc)[kParts][kUnits][kProducts][4], int u, int n, int unit, int blocks,
                      bool exists) const {
    const int channel = first_channel + kChannelBlock * n + lane_index() % 4 * 4;
    const bool stored = channel < params.padded_channels;
    Float4 value[2];
    FA_UNROLL
    for (int half = 0; half < 2; ++half) {
      typename Numbers<Out>::Sum sums[4];
      FA_UNROLL
      for (int i = 0; i < 4; ++i) sums[i] = sum(acc, u, 2 * n + i / 2, 2 * half + i % 2);
      value[half] = Numbers<Out>::value(params.store, sums, stored ? channel : 0);
    }
    FA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float upper = maximum(value[0].v[i], value[1].v[i]);
      value[0].v[i] = maximum(upper, shuffle_xor(upper, 4));
    }
    const int side = params.size / 4;
    const int row = first_row + unit / blocks;
    const int column_of_tile = (unit % blocks * 8 + lane_index() / 4) / 2;
    const int column = first_column + column_of_tile;
    if (!exists || !stored || lane_index() / 4 % 2 != 0 || row >= side || column_of_tile >= params.columns ||
        column >= side) {
      return;
    }
    store_values<Out>(params.store, value[0], image, row * side + column, channel);
  }

  FA_DEVICE typename Numbers<Out>::Sum sum(const float (&acc)[kParts][kUnits][kProducts][4], int u, int n,
                                           int i) const {
    if constexpr (!kIntegers) {
      return acc[0][u][n][i];
    } else if constexpr (kParts == 1) {
      return round_to_int(acc[0][u][n][i]);
    } else {
      return round_to_int(acc[0][u][n][i]) + 256 * round_to_int(acc[1][u][n][i]);
    }
  }
};

}  // namespace faceattr::cuda
