#include "cuda/kernels/float_conv.h"
#include "cuda/kernels/launches.h"
#include "cuda/kernels/stem.h"
#include "cuda/kernels/vectors.h"
#include "cuda/launch.h"

namespace faceattr::cuda {
namespace {

// Calls visit(format) with the type that kernels know a format by.
template <class Visit>
void visit_format(Format format, const Visit& visit) {
  switch (format) {
    case Format::kFloat:
      return visit(Float32{});
    case Format::kBfloat16:
      return visit(Bfloat16{});
    case Format::kHalf:
      return visit(Float16{});
    case Format::kInteger:
      return visit(Integer8{});
  }
}

}  // namespace

void launch_conv(Format format, ConvTileId tile, const LaunchConfig& config, const ConvParams& params) {
  switch (format) {
    case Format::kFloat:
      return launch_float_conv(config, params);
    case Format::kBfloat16:
      return launch_conv_bfloat16(tile, config, params);
    case Format::kHalf:
      return launch_conv_float16(tile, config, params);
    case Format::kInteger:
      return launch_conv_integer8(tile, config, params);
  }
}

void launch_float_conv(const LaunchConfig& config, const ConvParams& params) { launch<FloatConv>(config, params); }

void launch_stem(Format format, int parts, const LaunchConfig& config, const StemParams& params) {
  switch (format) {
    case Format::kFloat:
      return launch<FloatStem>(config, params);
    case Format::kBfloat16:
      return launch<Stem<Bfloat16, 1>>(config, params);
    case Format::kHalf:
      return launch<Stem<Float16, 1>>(config, params);
    case Format::kInteger:
      return parts == 1 ? launch<Stem<Integer8, 1>>(config, params) : launch<Stem<Integer8, 2>>(config, params);
  }
}

void launch_means(Format format, const LaunchConfig& config, const MeansParams& params) {
  visit_format(format, [&](auto type) { launch<ShiftedMeans<decltype(type)>>(config, params); });
}

void launch_linear(LinearTile tile, const LaunchConfig& config, const LinearParams& params) {
  tile == LinearTile::k1x1 ? launch<LinearHead<1, 1>>(config, params) : launch<LinearHead<4, 4>>(config, params);
}

void launch_gather(Format format, const LaunchConfig& config, const GatherParams& params) {
  visit_format(format, [&](auto type) { launch<Gather<decltype(type)>>(config, params); });
}

void launch_quantize(const LaunchConfig& config, const QuantizeParams& params) { launch<Quantize>(config, params); }

}  // namespace faceattr::cuda
