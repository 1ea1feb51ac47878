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

#include "cuda/kernels/conv_block.h"

namespace faceattr::cuda {

template <class T, class Tile, class Faults = NoFaults>
struct SegmentedConv : ConvBlock<T, Tile> {
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
  using Block = ConvBlock<T, Tile>;
  using Block::params;

  explicit FA_DEVICE SegmentedConv(const Params& p) : Block(p) {
    const int row = Block::first_row + thread_index() % Tile::kRows;
    const int positions = p.out_height * p.out_width;
    inside = row < p.rows;
    image = inside ? row / positions : 0;
    const int position = inside ? row % positions : 0;
    y = position / p.out_width;
    x = position % p.out_width;
    step = thread_index() / Tile::kRows;
    cursor.advance(step, p.source_count, SourceOrder{p});
  }

  // A slot of the ring: sources, then weights.
  static FA_DEVICE SharedAddress slot(int chunk) {
    return shared_base() + static_cast<SharedAddress>(chunk % Tile::kStages * Tile::kStageBytes);
  }
  static FA_DEVICE SharedAddress weights(int chunk) { return slot(chunk) + Tile::kGroups * Tile::kRows * kGroupBytes; }

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
    const int group = kStepGroups * cursor.step();
    bool valid = active && inside && group < source.groups;
    if constexpr (!Faults::kSkipBorder) {
      valid = valid && sy >= 0 && sy < source.height && sx >= 0 && sx < source.width;
    }
    const int positions = source.height * source.width;
    const int64_t at = map_index(image, group, sy * source.width + sx, source.map_groups, positions);
    const uint8_t* from = source.map + (valid ? at : 0) * kGroupBytes;
    copy_async_16(to, from, valid);
    const bool second = valid && group + 1 < source.groups;
    copy_async_16(to + Tile::kRows * kGroupBytes, second ? from + static_cast<int64_t>(positions) * kGroupBytes : from,
                  second);
    step += Tile::kSteps;
    cursor.advance(Tile::kSteps, params.source_count, SourceOrder{params});
  }

  FA_DEVICE void compute() {
    const int chunks = divide_up(params.steps, Tile::kSteps);
    // Weights come from the host: they need not wait for the kernel before this one.
    FA_UNROLL
    for (int i = 0; i < Tile::kStages - 1; ++i) {
      if (i < chunks) Block::copy_weights(i, weights(i));
    }
    dependency_wait();
    dependency_trigger();
    FA_UNROLL
    for (int i = 0; i < Tile::kStages - 1; ++i) {
      if (i < chunks) copy_source(i);
      copy_async_commit();
    }
    FA_NO_UNROLL
    for (int chunk = 0; chunk < chunks; ++chunk) {
      copy_async_wait<Tile::kStages - 2>();
      const int next = chunk + Tile::kStages - 1;  // into the slot that the chunk before this one has left
      if constexpr (Faults::kReleaseEarly) refill(next, chunks);
      if constexpr (!Faults::kSkipBarrier) sync_block();
      if constexpr (!Faults::kReleaseEarly) refill(next, chunks);
      products(chunk);
    }
    copy_async_wait<0>();
  }

  FA_DEVICE void refill(int chunk, int chunks) {
    if (chunk < chunks) {
      copy_source(chunk);
      Block::copy_weights(chunk, weights(chunk));
    }
    copy_async_commit();
  }

  FA_DEVICE void products(int chunk) {
    const int lane = lane_index();
    const int row = lane / 16 * Tile::kRows + Block::warp_row + lane % 16;
    FA_UNROLL
    for (int i = 0; i < Tile::kSteps / Tile::kSplit; ++i) {
      const int k = i * Tile::kSplit + Block::split;
      SharedAddress rows[Block::kBlocksM];
      FA_UNROLL
      for (int m = 0; m < Block::kBlocksM; ++m) {
        rows[m] =
            slot(chunk) + static_cast<SharedAddress>((k * kStepGroups * Tile::kRows + row + 16 * m) * kGroupBytes);
      }
      const SharedAddress columns = static_cast<SharedAddress>(k * kStepGroups * Tile::kColumns * kGroupBytes);
      Block::multiply(rows, Block::weight_row(weights(chunk)) + columns,
                      chunk * Tile::kSteps + k >= params.signed_from);
    }
  }

  // Of the position and step that this thread copies.
  bool inside;
  int image, y, x, step;
  StepCursor cursor;
};

}  // namespace faceattr::cuda
