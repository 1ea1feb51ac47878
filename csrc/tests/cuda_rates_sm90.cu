// Hopper's part of cuda_rates.cu, for sm_90a.
#include "cuda_rates_sm90.h"

#include <string>

#include "cuda_timing.h"

namespace faceattr::cuda::test {

void hopper_rates(int multiprocessors) {
  constexpr int kIterations = 2000;
  using Products = WgmmaRate<Float16, 200>;
  LaunchConfig config;
  config.grid = {multiprocessors, 1, 1};
  config.threads = 256;
  config.shared_bytes = Products::kSharedBytes;
  Array<float> dst(static_cast<size_t>(multiprocessors) * 256);
  const double flops = Products::kFlops * kIterations * multiprocessors * 2;
  report("wgmma_float16_n200", 1e-12 * flops / seconds([&](cudaStream_t stream) {
                                 config.stream = stream;
                                 launch<Products>(config, {dst.data(), kIterations});
                               }),
         "TFLOP/s");
  constexpr int kRounds = 1000;
  Array<uint32_t> ranks(16);
  for (const int blocks : {2, 8, 16}) {
    LaunchConfig cluster;
    cluster.grid = {blocks, 1, 1};
    cluster.cluster = blocks;
    report(("cluster_barrier_" + std::to_string(blocks)).c_str(),
           1e9 / kRounds * seconds([&](cudaStream_t stream) {
             cluster.stream = stream;
             launch<ClusterBarrierRate>(cluster, {ranks.data(), kRounds});
           }),
           "ns");
  }
}

}  // namespace faceattr::cuda::test
