// Of one format, with every tile.
#pragma once

#include "cuda/kernels/segmented_conv.h"
#include "cuda/launch.h"

namespace faceattr::cuda {

template <class T>
void launch_segmented_conv(ConvTileId id, const LaunchConfig& config, const ConvParams& params) {
  visit_tile(id, [&](auto tile) { launch<SegmentedConv<T, decltype(tile)>>(config, params); });
}

}  // namespace faceattr::cuda
