// What the device can do at most, measured: one line of name, value, unit. Its kernels are those of cuda_rates.h.
#include "cuda_rates.h"

#include <algorithm>
#include <exception>
#include <functional>

#include "cuda_timing.h"

namespace faceattr::cuda::test {
namespace {

void memory(int multiprocessors) {
  constexpr size_t kBytes = size_t{1} << 30;
  Array<uint8_t> src(kBytes), dst(kBytes);
  // Every byte is read and written.
  report("copy", 2e-9 * kBytes / seconds([&](cudaStream_t stream) {
                   require(cudaMemcpyAsync(dst.data(), src.data(), kBytes, cudaMemcpyDeviceToDevice, stream), "copy");
                 }),
         "GB/s");
  // 16 MB are in every second-level cache from sm_80 on.
  constexpr int kCount = 1 << 20, kRounds = 20;
  LaunchConfig config;
  config.grid = {2 * multiprocessors, 1, 1};
  config.threads = 512;
  Array<uint32_t> sums(static_cast<size_t>(config.grid.x) * 512);
  report("l2_read",
         1e-9 * kRounds * kCount * 16 / seconds([&](cudaStream_t stream) {
           config.stream = stream;
           launch<ReadRate>(config, {reinterpret_cast<const Vec16*>(src.data()), sums.data(), kCount, kRounds});
         }),
         "GB/s");
}

template <class T>
void products(const char* name, int multiprocessors) {
  constexpr int kIterations = 2000;
  LaunchConfig config;
  config.grid = {2 * multiprocessors, 1, 1};
  config.threads = 256;
  Array<float> dst(static_cast<size_t>(config.grid.x) * 256);
  const double flops = MmaRate<T>::kFlops * kIterations * config.grid.x * 8;
  report(name, 1e-12 * flops / seconds([&](cudaStream_t stream) {
                 config.stream = stream;
                 launch<MmaRate<T>>(config, {dst.data(), kIterations});
               }),
         "TFLOP/s");
}

void barriers(int multiprocessors) {
  constexpr int kRounds = 1000;
  Array<uint32_t> counter(1);
  LaunchConfig config;
  config.grid = {multiprocessors, 1, 1};
  config.cooperative = true;
  report("grid_barrier", 1e9 / kRounds * seconds([&](cudaStream_t stream) {
                           require(cudaMemsetAsync(counter.data(), 0, 4, stream), "memset");
                           config.stream = stream;
                           launch<GridBarrierRate>(config, {counter.data(), kRounds});
                         }),
         "ns");
}

// From one kernel's start to the next one's, in a graph of a chain of them.
void node_gaps() {
  constexpr int kLinks = 200;
  Array<uint32_t> dst(1);
  for (const bool dependent : {false, true}) {
    const OwnStream stream;
    LaunchConfig config;
    config.dependent = dependent;
    config.stream = stream.get();
    require(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < kLinks; ++i) launch<Link>(config, {dst.data()});
    cudaGraph_t graph;
    require(cudaStreamEndCapture(stream.get(), &graph), "end of capture");
    cudaGraphExec_t replay;
    require(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
    report(dependent ? "graph_node_dependent" : "graph_node",
           1e9 / kLinks * seconds([&](cudaStream_t on) { require(cudaGraphLaunch(replay, on), "cudaGraphLaunch"); }),
           "ns");
    cudaGraphExecDestroy(replay);
    cudaGraphDestroy(graph);
  }
}

}  // namespace
}  // namespace faceattr::cuda::test

int main() {
  using namespace faceattr::cuda::test;
  bool failed = false;
  int multiprocessors = 0;
  // One that fails leaves the others their turn.
  const auto attempt = [&](const char* name, const std::function<void()>& what) {
    try {
      what();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: %s\n", name, error.what());
      failed = true;
    }
  };
  attempt("device", [&] {
    require(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0), "multiprocessors");
  });
  if (failed) return 1;
  attempt("memory", [&] { memory(multiprocessors); });
  attempt("float16", [&] { products<faceattr::cuda::Float16>("mma_float16", multiprocessors); });
  attempt("bfloat16", [&] { products<faceattr::cuda::Bfloat16>("mma_bfloat16", multiprocessors); });
  attempt("grid barrier", [&] { barriers(multiprocessors); });
  attempt("graph nodes", [] { node_gaps(); });
  attempt("Hopper", [&] {
    if (has_hopper()) hopper_rates(multiprocessors);
  });
  return failed ? 1 : 0;
}
