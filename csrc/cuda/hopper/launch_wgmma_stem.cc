#include <stdexcept>

#include "cuda/hopper/launches.h"
#include "cuda/hopper/wgmma_stem.h"
#include "cuda/launch.h"

namespace faceattr::cuda {
namespace {

template <class T>
void launch_columns(const LaunchConfig& config, const StemParams& params) {
  switch (wgmma_stem_columns(params.columns)) {
    case 64:
      return launch<WgmmaStem<T, 64>>(config, params);
    case 112:
      return launch<WgmmaStem<T, 112>>(config, params);
    default:
      return launch<WgmmaStem<T, 128>>(config, params);
  }
}

}  // namespace

void launch_wgmma_stem(Format format, const LaunchConfig& config, const StemParams& params) {
  switch (format) {
    case Format::kHalf:
      return launch_columns<Float16>(config, params);
    case Format::kBfloat16:
      return launch_columns<Bfloat16>(config, params);
    default:
      throw std::logic_error("the stem by wgmma is of 16 bits");
  }
}

}  // namespace faceattr::cuda
