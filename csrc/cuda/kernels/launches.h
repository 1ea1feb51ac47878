// Launches of every kernel that is compiled, by format and tile. Each is defined in launch_*.cc, which nvcc compiles
// for the device and any other compiler for the emulator.
#pragma once

#include "cuda/kernels/params.h"
#include "cuda/launch_config.h"
#include "cuda/tiles.h"
#include "plan/phase.h"

namespace faceattr::cuda {

// By the format of what is read.
void launch_conv(Format format, ConvTileId tile, const LaunchConfig& config, const ConvParams& params);
void launch_conv_float16(ConvTileId tile, const LaunchConfig& config, const ConvParams& params);
void launch_conv_bfloat16(ConvTileId tile, const LaunchConfig& config, const ConvParams& params);
void launch_conv_integer8(ConvTileId tile, const LaunchConfig& config, const ConvParams& params);
void launch_float_conv(const LaunchConfig& config, const ConvParams& params);

// By the format of what is written; integers in one or two parts (stem.h).
void launch_stem(Format format, int parts, const LaunchConfig& config, const StemParams& params);
void launch_means(Format format, const LaunchConfig& config, const MeansParams& params);
void launch_linear(LinearTile tile, const LaunchConfig& config, const LinearParams& params);
void launch_gather(Format format, const LaunchConfig& config, const GatherParams& params);
void launch_quantize(const LaunchConfig& config, const QuantizeParams& params);

}  // namespace faceattr::cuda
