// How cuda_rates*.cu measure.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda_cases.h"

namespace faceattr::cuda::test {

class OwnStream {
 public:
  OwnStream() { require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }
  ~OwnStream() { cudaStreamDestroy(stream_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// What `work(stream)` takes on the device: the median of 15 runs after three to warm up.
template <class Work>
double seconds(const Work& work) {
  const OwnStream stream;
  cudaEvent_t begin, end;
  require(cudaEventCreate(&begin), "cudaEventCreate");
  require(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times;
  for (int run = 0; run < 18; ++run) {
    require(cudaEventRecord(begin, stream.get()), "cudaEventRecord");
    work(stream.get());
    require(cudaEventRecord(end, stream.get()), "cudaEventRecord");
    require(cudaEventSynchronize(end), "run");
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (run >= 3) times.push_back(milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return 1e-3 * static_cast<double>(times[times.size() / 2]);
}

inline void report(const char* name, double value, const char* unit) {
  std::printf("%s %.6g %s\n", name, value, unit);
  std::fflush(stdout);
}

void hopper_rates(int multiprocessors);

}  // namespace faceattr::cuda::test
