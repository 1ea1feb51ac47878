// Launches of the kernels of this folder, as kernels/launches.h; by nvcc they are compiled for sm_90a alone.
#pragma once

#include "cuda/hopper/params.h"
#include "cuda/launch_config.h"
#include "plan/phase.h"

namespace faceattr::cuda {

// Blocks of a cluster, which share one stream of weights. More of them would read less, and wait for each other more.
constexpr int kResidentCluster = 2;

// float16 or bfloat16. config.cluster is kResidentCluster.
void launch_resident(Format format, ResidentShapeId shape, const LaunchConfig& config, const ResidentParams& params);

// float16 or bfloat16.
void launch_wgmma_stem(Format format, const LaunchConfig& config, const StemParams& params);

void launch_row_conv(Format format, const LaunchConfig& config, const RowConvParams& params);

}  // namespace faceattr::cuda
