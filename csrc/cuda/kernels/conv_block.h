// What every kernel of a convolution does with a block of sums: where it lies, products of a step, the end.
#pragma once

#include <type_traits>

#include "cuda/kernels/conv_tiles.h"
#include "cuda/kernels/numbers.h"

namespace faceattr::cuda {

// Nothing is wrong. Tests plant faults by another policy: what a kernel must not do is then seen to be caught.
struct NoFaults {
  static constexpr bool kSkipBarrier = false;   // products begin before every thread's copies have landed
  static constexpr bool kSkipBorder = false;    // taps outside the map are read
  static constexpr bool kReleaseEarly = false;  // a slot is filled anew while warps still read it
};

template <class T, class Tile>
struct ConvBlock {
  using Sum = typename Numbers<T>::Sum;
  static constexpr int kBlocksM = Tile::kWarpRows / 16, kBlocksN = Tile::kWarpColumns / 16;
  static constexpr int kWarpsM = Tile::kRows / Tile::kWarpRows, kWarpsN = Tile::kColumns / Tile::kWarpColumns;

  explicit FA_DEVICE ConvBlock(const ConvParams& p)
      : params(p),
        first_row(block_index().x / p.column_tiles * Tile::kRows),
        first_column(block_index().x % p.column_tiles * Tile::kColumns),
        warp_row(warp_index() % kWarpsM * Tile::kWarpRows),
        warp_column(warp_index() / kWarpsM % kWarpsN * Tile::kWarpColumns),
        split(warp_index() / (kWarpsM * kWarpsN)) {
    FA_UNROLL
    for (int i = 0; i < kBlocksM; ++i) {
      FA_UNROLL
      for (int j = 0; j < 2 * kBlocksN; ++j) {
        FA_UNROLL
        for (int k = 0; k < 4; ++k) acc[i][j][k] = 0;
      }
    }
  }

  // The weights of one chunk, Tile::kSteps steps: [group][column][16 bytes].
  FA_DEVICE void copy_weights(int chunk, SharedAddress to) const {
    constexpr int kCopies = Tile::kGroups * Tile::kColumns / Tile::kThreads;
    FA_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const int piece = thread_index() + i * Tile::kThreads;
      const int group = piece / Tile::kColumns, column = first_column + piece % Tile::kColumns;
      const int step = chunk * Tile::kSteps + group / kStepGroups;
      const bool valid = step < params.steps && column < params.padded_channels;
      const int64_t at = valid ? weight_index(step, group % kStepGroups, column, params.padded_channels) : 0;
      copy_async_16(to + static_cast<SharedAddress>(piece * kGroupBytes), params.weights + at * kGroupBytes, valid);
    }
  }

  // This lane's row of the matrices of weights of the first step of a chunk.
  FA_DEVICE SharedAddress weight_row(SharedAddress weights) const {
    const int row = lane_index() / 8 % 2 * Tile::kColumns + warp_column + lane_index() / 16 * 8 + lane_index() % 8;
    return weights + static_cast<SharedAddress>(row * kGroupBytes);
  }

  // The products of one step: `rows` are this lane's rows of the matrices of positions, `column` of those of weights.
  FA_DEVICE void multiply(const SharedAddress (&rows)[kBlocksM], SharedAddress column, bool is_signed) {
    uint32_t a[kBlocksM][4], b[kBlocksN][4];
    FA_UNROLL
    for (int m = 0; m < kBlocksM; ++m) load_matrix(rows[m], a[m]);
    FA_UNROLL
    for (int n = 0; n < kBlocksN; ++n) load_matrix(column + 16 * n * kGroupBytes, b[n]);
    if constexpr (std::is_same_v<T, Integer8>) {
      if (is_signed) {
        products<int8_t>(a, b);
      } else {
        products<uint8_t>(a, b);
      }
    } else {
      products<T>(a, b);
    }
  }

  template <class A>
  FA_DEVICE void products(const uint32_t (&a)[kBlocksM][4], const uint32_t (&b)[kBlocksN][4]) {
    FA_UNROLL
    for (int m = 0; m < kBlocksM; ++m) {
      FA_UNROLL
      for (int n = 0; n < 2 * kBlocksN; ++n) {
        const uint32_t (&pair)[4] = b[n / 2];
        const uint32_t columns[2] = {pair[n % 2 * 2], pair[n % 2 * 2 + 1]};
        if constexpr (std::is_same_v<T, Integer8>) {
          mma_16x8x32<A>(acc[m][n], a[m], columns);
        } else {
          mma_16x8x16<A>(acc[m][n], a[m], columns);
        }
      }
    }
  }

  FA_DEVICE void finish() {
    if constexpr (Tile::kSplit == 1) {
      FA_UNROLL
      for (int m = 0; m < kBlocksM; ++m) {
        FA_UNROLL
        for (int n = 0; n < kBlocksN; ++n) store_block(acc[m][2 * n], acc[m][2 * n + 1], m, n);
      }
    } else {
      // [split][block of 16 x 16][register][lane]: every warp leaves its sums, and adds those of one block.
      constexpr int kBlock = 8 * 32 * 4, kWarp = kBlocksM * kBlocksN * kBlock;
      const SharedAddress sums =
          shared_base() +
          static_cast<SharedAddress>(warp_index() % (kWarpsM * kWarpsN) * Tile::kSplit * kWarp + lane_index() * 4);
      sync_block();  // the ring is not read any more
      FA_UNROLL
      for (int m = 0; m < kBlocksM; ++m) {
        FA_UNROLL
        for (int n = 0; n < 2 * kBlocksN; ++n) {
          FA_UNROLL
          for (int k = 0; k < 4; ++k) {
            const int at = split * kWarp + (m * kBlocksN + n / 2) * kBlock + (n % 2 * 4 + k) * 128;
            store_shared(sums + static_cast<SharedAddress>(at), acc[m][n][k]);
          }
        }
      }
      sync_block();
      Sum total[2][4] = {};
      FA_UNROLL
      for (int s = 0; s < Tile::kSplit; ++s) {
        FA_UNROLL
        for (int k = 0; k < 8; ++k) {
          const Sum part = load_shared<Sum>(sums + static_cast<SharedAddress>(s * kWarp + split * kBlock + k * 128));
          total[k / 4][k % 4] += part;
        }
      }
      store_block(total[0], total[1], split / kBlocksN, split % kBlocksN);
    }
  }

  // 16 positions by 16 channels: a thread has four channels of two positions.
  FA_DEVICE void store_block(const Sum (&left)[4], const Sum (&right)[4], int m, int n) {
    const int channel = first_column + warp_column + kChannelBlock * n + 4 * (lane_index() % 4);
    if (channel >= params.padded_channels) return;
    FA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + warp_row + 16 * m + 8 * half + lane_index() / 4;
      if (row >= params.rows) continue;
      const Sum sums[4] = {left[2 * half], left[2 * half + 1], right[2 * half], right[2 * half + 1]};
      const int positions = params.store.positions;
      const Float4 value = Numbers<T>::value(params.store, sums, channel);
      store_values<T>(params.store, value, row / positions, row % positions, channel);
    }
  }

  const ConvParams& params;
  const int first_row, first_column;
  const int warp_row, warp_column, split;
  Sum acc[kBlocksM][2 * kBlocksN][4];
};

}  // namespace faceattr::cuda
