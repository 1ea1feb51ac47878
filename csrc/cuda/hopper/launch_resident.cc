#include <stdexcept>

#include "cuda/hopper/launches.h"
#include "cuda/hopper/resident_blocks.h"
#include "cuda/launch.h"

namespace faceattr::cuda {

void launch_resident(Format format, ResidentShapeId shape, const LaunchConfig& config, const ResidentParams& params) {
  visit_shape(shape, [&](auto type) {
    using Shape = decltype(type);
    switch (format) {
      case Format::kHalf:
        return launch<ResidentBlocks<Float16, Shape, kResidentCluster>>(config, params);
      case Format::kBfloat16:
        return launch<ResidentBlocks<Bfloat16, Shape, kResidentCluster>>(config, params);
      default:
        throw std::logic_error("resident blocks are of 16 bits");
    }
  });
}

}  // namespace faceattr::cuda
