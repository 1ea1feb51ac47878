// What a block of segmented_conv.h computes, and the tiles that are compiled, by the names of tiles.h.
#pragma once

#include "cuda/kernels/params.h"
#include "cuda/tiles.h"

namespace faceattr::cuda {

template <int Rows, int Columns, int WarpRows, int WarpColumns, int Steps, int Split, int Stages, int MinBlocks>
struct ConvTile {
  static constexpr int kRows = Rows, kColumns = Columns, kWarpRows = WarpRows, kWarpColumns = WarpColumns;
  static constexpr int kSteps = Steps, kSplit = Split, kStages = Stages, kMinBlocks = MinBlocks;
  static constexpr int kThreads = Rows / WarpRows * (Columns / WarpColumns) * Split * 32;
  static constexpr int kGroups = Steps * kStepGroups;
  static constexpr int kStageBytes = kGroups * (Rows + Columns) * kGroupBytes;
  static constexpr int kReduceBytes = Split == 1 ? 0 : Split * Rows * Columns * 4;
  static constexpr int kSharedBytes = Stages * kStageBytes > kReduceBytes ? Stages * kStageBytes : kReduceBytes;
  static_assert(kThreads == Rows * Steps, "a thread copies one position of one step");
  static_assert(kGroups * Columns % kThreads == 0 && Steps % Split == 0);
  static_assert(WarpRows % 16 == 0 && WarpColumns % kChannelBlock == 0);
  static_assert(Split == 1 || WarpRows / 16 * (WarpColumns / 16) == Split, "a warp finishes one block of 16 by 16");
};

// What a warp loads from shared memory per product of 16x8: with 64x32 of it 4 + 2 loads of four matrices for 16
// products, with 32x32 2 + 2 for 8. 128x128 keeps 64 sums per thread and has 64 KB of ring, so that two blocks fit a
// multiprocessor of sm_80 and sm_90, one of sm_86 and sm_89.
//                                rows, columns, of a warp, steps, split, stages, blocks
using ConvTile128x128 = ConvTile<128, 128, 64, 32, 2, 1, 4, 2>;
using ConvTile128x64 = ConvTile<128, 64, 32, 32, 2, 1, 4, 2>;
using ConvTile64x64 = ConvTile<64, 64, 32, 32, 2, 1, 4, 3>;
// A batch of one: four warps share K of one 32x32 tile, so that a phase of 384 channels of 14x14 is 84 blocks.
using ConvTile32x32 = ConvTile<32, 32, 32, 32, 4, 4, 4, 4>;

// Of halo_conv.h for maps so wide.
template <class Tile>
constexpr int halo_shared_bytes(int width) {
  return kHaloStages * kHaloGroups * (Tile::kColumns + Tile::kRows + 2 * (width + 1)) * kGroupBytes + kHaloZeroBytes;
}

// Calls visit(tile) with the type of a tile.
template <class Visit>
void visit_tile(ConvTileId id, const Visit& visit) {
  switch (id) {
    case ConvTileId::k128x128:
    case ConvTileId::k128x128Halo:
      return visit(ConvTile128x128{});
    case ConvTileId::k128x64:
    case ConvTileId::k128x64Halo:
      return visit(ConvTile128x64{});
    case ConvTileId::k64x64:
      return visit(ConvTile64x64{});
    case ConvTileId::k32x32:
      return visit(ConvTile32x32{});
  }
}

}  // namespace faceattr::cuda
