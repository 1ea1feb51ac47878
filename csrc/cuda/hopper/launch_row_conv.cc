#include <stdexcept>

#include "cuda/hopper/launches.h"
#include "cuda/hopper/row_conv.h"
#include "cuda/launch.h"

namespace faceattr::cuda {

void launch_row_conv(Format format, const LaunchConfig& config, const RowConvParams& params) {
  switch (format) {
    case Format::kHalf:
      return launch<RowConv<Float16>>(config, params);
    case Format::kBfloat16:
      return launch<RowConv<Bfloat16>>(config, params);
    default:
      throw std::logic_error("convolutions of rows are of 16 bits");
  }
}

}  // namespace faceattr::cuda
