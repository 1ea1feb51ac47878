#include "cuda/tiles.h"

#include "cuda/kernels/conv_tiles.h"
#include "cuda/kernels/params.h"
#include "cuda/program.h"

namespace faceattr::cuda {

const ConvTileShape& shape(ConvTileId tile) {
#define FA_TILE(TILE, NAME)                                               \
  {                                                                       \
    NAME, TILE::kRows, TILE::kColumns, TILE::kThreads, TILE::kSharedBytes \
  }
  static const ConvTileShape shapes[] = {FA_TILE(ConvTile128x128, "128x128"), FA_TILE(ConvTile128x64, "128x64"),
                                         FA_TILE(ConvTile64x64, "64x64"), FA_TILE(ConvTile32x32, "32x32 split 4")};
#undef FA_TILE
  return shapes[static_cast<int>(tile)];
}

// The largest tile of which there is one for every multiprocessor: larger ones load less per product, but a
// multiprocessor without a block does nothing. A tile must not be twice as wide as the channels, and fit shared memory.
ConvTileId choose_conv_tile(std::int64_t rows, int channels, const Target& target) {
  for (const ConvTileId id : {ConvTileId::k128x128, ConvTileId::k128x64, ConvTileId::k64x64}) {
    const ConvTileShape& tile = shape(id);
    const std::int64_t blocks = (rows + tile.rows - 1) / tile.rows * ((channels + tile.columns - 1) / tile.columns);
    if (tile.columns >= 2 * channels || tile.shared_bytes > target.shared_bytes) continue;
    if (blocks >= target.multiprocessors) return id;
  }
  return ConvTileId::k32x32;
}

// Four pooled rows share five more of the pixels' 21 rows; of a small batch each block takes one, so that there are
// more blocks. Two parts take twice the shared memory: two rows of 64 columns have 69 KB.
StemTile choose_stem_tile(int side, int images, int channels, int parts, const Target& target) {
  StemTile tile = {4 / parts, side < kStemMaxColumns ? side : kStemMaxColumns};
  const std::int64_t columns = divide_up(side, tile.columns),
                     others = columns * images * divide_up(channels, kStemChannels);
  while (tile.strip_rows > 1 && others * divide_up(side, tile.strip_rows) < target.multiprocessors)
    tile.strip_rows /= 2;
  return tile;
}

// Weights of four outputs serve four images: of less than four images the other sums would be waste.
LinearTile choose_linear_tile(int images) { return images < 4 ? LinearTile::k1x1 : LinearTile::k4x4; }
int linear_outputs(LinearTile tile) { return tile == LinearTile::k1x1 ? 1 : 4; }
int linear_images(LinearTile tile) { return tile == LinearTile::k1x1 ? 1 : 4; }

}  // namespace faceattr::cuda
