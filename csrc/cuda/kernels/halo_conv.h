// segmented_conv.h where all sources have the size of the output: what the nine taps of a 3x3 read lies next to each
// other. A block's positions are one run of the map, so the taps of all of them lie in that run and a row and a
// position more on both sides. This halo of kHaloGroups groups of channels is copied once and read nine times, each
// lane of a matrix load moving its row by the tap; a row whose tap is outside the map is that of zeros instead.
//
// With 64 channels out, the taps of segmented_conv would take 9 * 128 rows per group from the outer cache, these take
// 128 + 2 * (width + 1): 242 of a map 56 wide.
//
// K runs over segments, blocks of kHaloGroups groups, taps (StepOrder::block): a chunk is one tap of one block. Weights
// go through a ring of kHaloStages chunks, halos through one of as many: a block has one chunk at least, so the halo of
// the block three further on takes the place of one that no warp reads any more.
#pragma once

#include "cuda/kernels/conv_block.h"

namespace faceattr::cuda {

template <class T, class Tile, class Faults = NoFaults>
struct HaloConv : ConvBlock<T, Tile> {
  using Params = ConvParams;
  static constexpr const char* kName = "halo_conv";
  static constexpr int kMaxThreads = Tile::kThreads;
  static constexpr int kMinBlocks = Tile::kMinBlocks;
  static_assert(Tile::kGroups == kHaloGroups && Tile::kSplit == 1);

  static FA_DEVICE void run(const Params& params) {
    HaloConv conv(params);
    conv.compute();
    conv.finish();
  }

 private:
  using Block = ConvBlock<T, Tile>;
  using Block::params;
  static constexpr SharedAddress kWeightBytes = kHaloGroups * Tile::kColumns * kGroupBytes;

  explicit FA_DEVICE HaloConv(const Params& p) : Block(p) {
    edge = p.out_width + 1;
    halo_rows = Tile::kRows + 2 * edge;
    zeros = shared_base() + kHaloStages * kWeightBytes;
    halos = zeros + kHaloZeroBytes;
    FA_UNROLL
    for (int m = 0; m < Block::kBlocksM; ++m) {
      const int row = Block::first_row + Block::warp_row + 16 * m + lane_index() % 16;
      const int position = row % (p.out_height * p.out_width);
      const int y = position / p.out_width, x = position % p.out_width;
      inside[m] = 0;
      FA_UNROLL
      for (int tap = 0; tap < 9; ++tap) {
        const int sy = y + tap / 3 - 1, sx = x + tap % 3 - 1;
        const bool within = sy >= 0 && sy < p.out_height && sx >= 0 && sx < p.out_width;
        if (Faults::kSkipBorder || within) inside[m] |= 1u << tap;
      }
    }
  }

  static FA_DEVICE SharedAddress weights(int chunk) {
    return shared_base() + static_cast<SharedAddress>(chunk % kHaloStages) * kWeightBytes;
  }
  FA_DEVICE SharedAddress halo(int block) const {
    return halos + static_cast<SharedAddress>(block % kHaloStages * kHaloGroups * halo_rows * kGroupBytes);
  }

  // The run of positions around the block's own, of the groups at the cursor; of a 1x1 the block's own alone.
  FA_DEVICE void copy_halo(int block, const StepCursor& at) const {
    const ConvSource& source = params.sources[at.segment];
    const int margin = source.kernel == 3 ? 0 : edge, positions = source.height * source.width;
    const int first_group = kStepGroups * at.first;
    for (int row = margin + thread_index(); row < halo_rows - margin; row += Tile::kThreads) {
      const int position = Block::first_row - edge + row;
      const bool within = position >= 0 && position < params.rows;
      const int image = within ? position / positions : 0;
      const int64_t from =
          map_index(image, first_group, within ? position % positions : 0, source.map_groups, positions);
      const SharedAddress to = halo(block) + static_cast<SharedAddress>(row * kGroupBytes);
      FA_UNROLL
      for (int g = 0; g < kHaloGroups; ++g) {
        const bool valid = within && first_group + g < source.groups;
        const uint8_t* group = source.map + (valid ? from + static_cast<int64_t>(g) * positions : 0) * kGroupBytes;
        copy_async_16(to + static_cast<SharedAddress>(g * halo_rows * kGroupBytes), group, valid);
      }
    }
  }

  // A place in K: one tap of one block of one segment.
  struct Chunk {
    StepCursor cursor;
    int block = 0;  // counted over all segments

    FA_DEVICE void advance(const Params& params) {
      cursor.advance(Tile::kSteps, params.source_count, SourceOrder{params});
      if (cursor.tap == 0) ++block;
    }
  };

  FA_DEVICE void copy_sources() {
    if (coming.cursor.tap == 0) copy_halo(coming.block, coming.cursor);
    coming.advance(params);
  }

  FA_DEVICE void refill(int chunk, int chunks) {
    if (chunk < chunks) {
      copy_sources();
      Block::copy_weights(chunk, weights(chunk));
    }
    copy_async_commit();
  }

  FA_DEVICE void compute() {
    const int chunks = params.steps / Tile::kSteps;
    FA_UNROLL
    for (int i = 0; i < kHaloStages - 1; ++i) {
      if (i < chunks) Block::copy_weights(i, weights(i));
    }
    if (thread_index() == 0) store_shared(zeros, Vec16{0, 0, 0, 0});
    dependency_wait();
    dependency_trigger();
    FA_UNROLL
    for (int i = 0; i < kHaloStages - 1; ++i) {
      if (i < chunks) copy_sources();
      copy_async_commit();
    }
    Chunk current;
    FA_NO_UNROLL
    for (int chunk = 0; chunk < chunks; ++chunk) {
      copy_async_wait<kHaloStages - 2>();
      const int next = chunk + kHaloStages - 1;
      if constexpr (Faults::kReleaseEarly) refill(next, chunks);
      if constexpr (!Faults::kSkipBarrier) sync_block();
      if constexpr (!Faults::kReleaseEarly) refill(next, chunks);
      products(chunk, current);
      current.advance(params);
    }
    copy_async_wait<0>();
  }

  FA_DEVICE void products(int chunk, const Chunk& at) {
    const int kernel = params.sources[at.cursor.segment].kernel;
    const int tap = kernel == 3 ? at.cursor.tap : 4;
    const int shift = (tap / 3 - 1) * params.out_width + tap % 3 - 1 + edge;
    FA_UNROLL
    for (int k = 0; k < Tile::kSteps; ++k) {
      SharedAddress rows[Block::kBlocksM];
      FA_UNROLL
      for (int m = 0; m < Block::kBlocksM; ++m) {
        const int group = k * kStepGroups + lane_index() / 16;
        const int row = Block::warp_row + 16 * m + lane_index() % 16 + shift;
        const SharedAddress own = halo(at.block) + static_cast<SharedAddress>((group * halo_rows + row) * kGroupBytes);
        rows[m] = (inside[m] >> tap & 1) != 0 ? own : zeros;
      }
      const SharedAddress columns = static_cast<SharedAddress>(k * kStepGroups * Tile::kColumns * kGroupBytes);
      Block::multiply(rows, Block::weight_row(weights(chunk)) + columns,
                      chunk * Tile::kSteps + k >= params.signed_from);
    }
  }

  int edge, halo_rows;
  SharedAddress zeros, halos;
  uint32_t inside[Block::kBlocksM];  // by the position of a lane's row: taps within the map, one bit each
  Chunk coming;                      // that sources are copied of next
};

}  // namespace faceattr::cuda
