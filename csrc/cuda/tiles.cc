#include "cuda/tiles.h"

#include "cuda/kernels/conv_tiles.h"
#include "cuda/kernels/params.h"
#include "cuda/program.h"

namespace faceattr::cuda {

namespace {

template <class Tile>
ConvTileShape plain(const char* name) {
  return {name, Tile::kRows, Tile::kColumns, Tile::kThreads, Tile::kSharedBytes};
}

template <class Tile>
ConvTileShape halo(const char* name, int width) {
  const std::size_t bytes = static_cast<std::size_t>(halo_shared_bytes<Tile>(width));
  return {name, Tile::kRows, Tile::kColumns, Tile::kThreads, bytes};
}

}  // namespace

ConvTileShape shape(ConvTileId tile, int halo_width) {
  switch (tile) {
    case ConvTileId::k128x128:
      return plain<ConvTile128x128>("128x128");
    case ConvTileId::k128x64:
      return plain<ConvTile128x64>("128x64");
    case ConvTileId::k64x64:
      return plain<ConvTile64x64>("64x64");
    case ConvTileId::k128x128Halo:
      return halo<ConvTile128x128>("128x128 halo", halo_width);
    case ConvTileId::k128x64Halo:
      return halo<ConvTile128x64>("128x64 halo", halo_width);
    case ConvTileId::k32x32:
      break;
  }
  return plain<ConvTile32x32>("32x32 split 4");
}

// The largest tile of which there is one for every multiprocessor: larger ones load less per product, but a
// multiprocessor without a block does nothing. A tile must not be twice as wide as the channels, and fit shared memory.
ConvTileId choose_conv_tile(std::int64_t rows, int channels, int halo_width, const Target& target) {
  using Id = ConvTileId;
  for (const Id id : {Id::k128x128Halo, Id::k128x128, Id::k128x64Halo, Id::k128x64, Id::k64x64}) {
    const ConvTileShape tile = shape(id, halo_width);
    const bool reads_halos = id == Id::k128x128Halo || id == Id::k128x64Halo;
    if (reads_halos && halo_width == 0) continue;
    if (tile.columns >= 2 * channels || tile.shared_bytes > target.shared_bytes) continue;
    const std::int64_t blocks = (rows + tile.rows - 1) / tile.rows * ((channels + tile.columns - 1) / tile.columns);
    if (blocks >= target.multiprocessors) return id;
  }
  return Id::k32x32;
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
