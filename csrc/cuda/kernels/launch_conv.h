// Of one format, with every tile.
#pragma once

#include "cuda/kernels/halo_conv.h"
#include "cuda/kernels/segmented_conv.h"
#include "cuda/launch.h"

namespace faceattr::cuda {

template <class T>
void launch_segmented_conv(ConvTileId id, const LaunchConfig& config, const ConvParams& params) {
  if (id == ConvTileId::k128x128Halo) return launch<HaloConv<T, ConvTile128x128>>(config, params);
  if (id == ConvTileId::k128x64Halo) return launch<HaloConv<T, ConvTile128x64>>(config, params);
  visit_tile(id, [&](auto tile) { launch<SegmentedConv<T, decltype(tile)>>(config, params); });
}

}  // namespace faceattr::cuda
