// The convolution of every phase but the stem, on tensor cores: a matrix product of positions (rows) by output channels
// (columns), whose K runs over segments, taps and channels.
//
//   dst[p, o] = act(sum_s sum_tap sum_c src_s[p * stride_s + tap][c] * weights[o][s, tap, c] + bias[o] + residual[p,
//   o])
//
// A block computes kRows positions by kColumns channels. Positions of all images are one row after the other. A ring of
// kStages holds what kSteps steps of K need: [group][row][16 bytes] of the sources, likewise of the weights. A thread
// copies one position's groups of one step, so each tests its own taps: borders and strides cost nothing but zeros.
//
// kSplit > 1 deals the steps of a stage to as many sets of warps, whose sums are added at the end: a batch of one has
// few positions, and its time is that of one block's chain of products.
#pragma once

#include "cuda/kernels/conv_tiles.h"
#include "cuda/kernels/numbers.h"

namespace faceattr::cuda {

// Nothing is wrong. Tests plant faults by another policy: what a kernel must not do is then seen to be caught.
struct NoFaults {
  static constexpr bool kSkipBarrier = false;   // products begin before every thread's copies have landed
  static constexpr bool kSkipBorder = false;    // taps outside the map are read
  static constexpr bool kReleaseEarly = false;  // a slot is filled anew while warps still read it
};

template <class T, class Tile, class Faults = NoFaults>
struct SegmentedConv {
  using Params = ConvParams;
  static constexpr const char* kName = "segmented_conv";
  static constexpr int kMaxThreads = Tile::kThreads;
  static constexpr int kMinBlocks = Tile::kMinBlocks;

  static FA_DEVICE void run(const Params& params) {
    SegmentedConv conv(params);
    conv.compute();
    conv.finish();
  }

 private:
  using Sum = typename Numbers<T>::Sum;
  static constexpr int kBlocksM = Tile::kWarpRows / 16, kBlocksN = Tile::kWarpColumns / 16;
  static constexpr int kWeightCopies = Tile::kGroups * Tile::kColumns / Tile::kThreads;

  explicit FA_DEVICE SegmentedConv(const Params& p)
      : params(p),
        first_row(block_index().x / p.column_tiles * Tile::kRows),
        first_column(block_index().x % p.column_tiles * Tile::kColumns),
        warp_row(warp_index() % (Tile::kRows / Tile::kWarpRows) * Tile::kWarpRows),
        warp_column(warp_index() / (Tile::kRows / Tile::kWarpRows) % (Tile::kColumns / Tile::kWarpColumns) *
                    Tile::kWarpColumns),
        split(warp_index() / (Tile::kRows / Tile::kWarpRows * (Tile::kColumns / Tile::kWarpColumns))) {
    const int row = first_row + thread_index() % Tile::kRows;
    const int positions = p.out_height * p.out_width;
    inside = row < p.rows;
    image = inside ? row / positions : 0;
    const int position = inside ? row % positions : 0;
    y = position / p.out_width;
    x = position % p.out_width;
    step = thread_index() / Tile::kRows;
    cursor.advance(step, p.source_count, order());
  }

  FA_DEVICE SourceOrder order() const { return {params}; }
  static FA_DEVICE SharedAddress slot(int chunk) {
    return shared_base() + static_cast<SharedAddress>(chunk % Tile::kStages * Tile::kStageBytes);
  }

  // This thread's position and step of the sources; it moves on to the next chunk's.
  FA_DEVICE void copy_source(int chunk) {
    const SharedAddress to =
        slot(chunk) +
        static_cast<SharedAddress>(
            (thread_index() / Tile::kRows * kStepGroups * Tile::kRows + thread_index() % Tile::kRows) * kGroupBytes);
    const bool active = step < params.steps;
    const ConvSource& source = params.sources[active ? cursor.segment : 0];
    const int pad = source.kernel / 2;
    const int sy = y * source.stride + cursor.tap / source.kernel - pad;
    const int sx = x * source.stride + cursor.tap % source.kernel - pad;
    bool valid = active && inside;
    if constexpr (!Faults::kSkipBorder) {
      valid = valid && sy >= 0 && sy < source.height && sx >= 0 && sx < source.width;
    }
    const int positions = source.height * source.width;
    const int group = kStepGroups * cursor.step();
    const int64_t at = map_index(image, group, sy * source.width + sx, source.map_groups, positions);
    const uint8_t* from = source.map + (valid ? at : 0) * kGroupBytes;
    copy_async_16(to, from, valid);
    const bool second = valid && group + 1 < source.groups;
    copy_async_16(to + Tile::kRows * kGroupBytes, second ? from + static_cast<int64_t>(positions) * kGroupBytes : from,
                  second);
    step += Tile::kSteps;
    cursor.advance(Tile::kSteps, params.source_count, order());
  }

  FA_DEVICE void copy_weights(int chunk) {
    const SharedAddress to = slot(chunk) + Tile::kGroups * Tile::kRows * kGroupBytes;
    FA_UNROLL
    for (int i = 0; i < kWeightCopies; ++i) {
      const int piece = thread_index() + i * Tile::kThreads;
      const int group = piece / Tile::kColumns, column = first_column + piece % Tile::kColumns;
      const int at_step = chunk * Tile::kSteps + group / kStepGroups;
      const bool valid = at_step < params.steps && column < params.padded_channels;
      const int64_t at = valid ? weight_index(at_step, group % kStepGroups, column, params.padded_channels) : 0;
      copy_async_16(to + static_cast<SharedAddress>(piece * kGroupBytes), params.weights + at * kGroupBytes, valid);
    }
  }

  FA_DEVICE void compute() {
    const int chunks = divide_up(params.steps, Tile::kSteps);
    // Weights come from the host: they need not wait for the kernel before this one.
    FA_UNROLL
    for (int i = 0; i < Tile::kStages - 1; ++i) {
      if (i < chunks) copy_weights(i);
    }
    dependency_wait();
    dependency_trigger();
    FA_UNROLL
    for (int i = 0; i < Tile::kStages - 1; ++i) {
      if (i < chunks) copy_source(i);
      copy_async_commit();
    }
    FA_UNROLL
    for (int i = 0; i < kBlocksM; ++i) {
      FA_UNROLL
      for (int j = 0; j < 2 * kBlocksN; ++j) {
        FA_UNROLL
        for (int k = 0; k < 4; ++k) acc[i][j][k] = 0;
      }
    }
    FA_NO_UNROLL
    for (int chunk = 0; chunk < chunks; ++chunk) {
      copy_async_wait<Tile::kStages - 2>();
      const int next = chunk + Tile::kStages - 1;  // into the slot that the chunk before this one has left
      if constexpr (Faults::kReleaseEarly) refill(next, chunks);
      if constexpr (!Faults::kSkipBarrier) sync_block();
      if constexpr (!Faults::kReleaseEarly) refill(next, chunks);
      multiply(chunk);
    }
    copy_async_wait<0>();
  }

  FA_DEVICE void refill(int chunk, int chunks) {
    if (chunk < chunks) {
      copy_source(chunk);
      copy_weights(chunk);
    }
    copy_async_commit();
  }

  FA_DEVICE void multiply(int chunk) {
    const int lane = lane_index();
    const SharedAddress rows =
        slot(chunk) + static_cast<SharedAddress>(((lane / 16) * Tile::kRows + warp_row + lane % 16) * kGroupBytes);
    const SharedAddress columns =
        slot(chunk) + static_cast<SharedAddress>((Tile::kGroups * Tile::kRows + lane / 8 % 2 * Tile::kColumns +
                                                  warp_column + lane / 16 * 8 + lane % 8) *
                                                 kGroupBytes);
    FA_UNROLL
    for (int i = 0; i < Tile::kSteps / Tile::kSplit; ++i) {
      const int k = i * Tile::kSplit + split;
      uint32_t a[kBlocksM][4], b[kBlocksN][4];
      FA_UNROLL
      for (int m = 0; m < kBlocksM; ++m) {
        load_matrix(rows + static_cast<SharedAddress>((k * kStepGroups * Tile::kRows + 16 * m) * kGroupBytes), a[m]);
      }
      FA_UNROLL
      for (int n = 0; n < kBlocksN; ++n) {
        load_matrix(columns + static_cast<SharedAddress>((k * kStepGroups * Tile::kColumns + 16 * n) * kGroupBytes),
                    b[n]);
      }
      const bool is_signed = chunk * Tile::kSteps + k >= params.signed_from;
      FA_UNROLL
      for (int m = 0; m < kBlocksM; ++m) {
        FA_UNROLL
        for (int n = 0; n < 2 * kBlocksN; ++n) {
          const uint32_t (&pair)[4] = b[n / 2];
          const uint32_t column[2] = {pair[n % 2 * 2], pair[n % 2 * 2 + 1]};
          Numbers<T>::multiply(acc[m][n], a[m], column, is_signed);
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
          static_cast<SharedAddress>(warp_index() % (kWarps / Tile::kSplit) * Tile::kSplit * kWarp + lane_index() * 4);
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

  static constexpr int kWarps = Tile::kThreads / 32;

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

  const Params& params;
  const int first_row, first_column;
  const int warp_row, warp_column, split;
  // Of the position and step that this thread copies.
  bool inside;
  int image, y, x, step;
  StepCursor cursor;
  Sum acc[kBlocksM][2 * kBlocksN][4];
};

}  // namespace faceattr::cuda
