#include "cuda/kernels/launch_conv.h"
#include "cuda/kernels/launches.h"

namespace faceattr::cuda {

void launch_conv_float16(ConvTileId tile, const LaunchConfig& config, const ConvParams& params) {
  launch_segmented_conv<Float16>(tile, config, params);
}

}  // namespace faceattr::cuda
