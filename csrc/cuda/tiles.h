// Which tile a launch takes: a function of shape, batch and target, known without a device.
#pragma once

#include <cstddef>
#include <cstdint>

namespace faceattr::cuda {

struct Target;

// The last two read sources by halo_conv.h.
enum class ConvTileId { k128x128, k128x64, k64x64, k32x32, k128x128Halo, k128x64Halo };

struct ConvTileShape {
  const char* name;
  int rows, columns, threads;  // of a block
  std::size_t shared_bytes;
};
// halo_width: of the maps where the tile reads halos.
ConvTileShape shape(ConvTileId tile, int halo_width);

// For a convolution of `rows` positions (of all images) and so many channels. `halo_width` is the width of the maps
// where its K has the order of halo_conv.h, else 0.
ConvTileId choose_conv_tile(std::int64_t rows, int channels, int halo_width, const Target& target);

struct StemTile {
  int strip_rows, columns;  // pooled, of a block
};
StemTile choose_stem_tile(int side, int images, int channels, int parts, const Target& target);

enum class LinearTile { k1x1, k4x4 };  // outputs by images of a warp
LinearTile choose_linear_tile(int images);
int linear_outputs(LinearTile tile);
int linear_images(LinearTile tile);

}  // namespace faceattr::cuda
