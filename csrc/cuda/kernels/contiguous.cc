#include "cuda/kernels/contiguous.h"

#include <algorithm>

#include "cuda/launch.h"

namespace faceattr::cuda {
namespace {

constexpr int kThreads = 256;

// A thread per item, in the order of dst.
template <class Item>
struct Contiguous {
  static constexpr const char* kName = "contiguous";
  static constexpr int kMaxThreads = kThreads;
  static constexpr int kMinBlocks = 1;
  struct Params {
    StridedArray src;
    Item* dst;
    int64_t count;
  };

  static FA_DEVICE void run(const Params& p) {
    const int64_t step = static_cast<int64_t>(grid_size().x) * kThreads;
    for (int64_t i = static_cast<int64_t>(block_index().x) * kThreads + thread_index(); i < p.count; i += step) {
      int64_t rest = i, offset = 0;
      FA_UNROLL
      for (int axis = 3; axis >= 0; --axis) {
        offset += rest % p.src.shape[axis] * p.src.strides[axis];
        rest /= p.src.shape[axis];
      }
      store_global(p.dst + i, load_global(static_cast<const Item*>(p.src.data) + offset));
    }
  }
};

template <class Item>
void copy(const StridedArray& src, void* dst, Stream stream) {
  int64_t count = 1;
  for (const int64_t size : src.shape) count *= size;
  if (count == 0) return;
  constexpr int64_t kMaxBlocks = 4096;  // many per multiprocessor; the loop does the rest
  LaunchConfig config;
  config.grid.x = static_cast<int>(std::min<int64_t>((count + kThreads - 1) / kThreads, kMaxBlocks));
  config.threads = kThreads;
  config.stream = stream;
  launch<Contiguous<Item>>(config, {src, static_cast<Item*>(dst), count});
}

}  // namespace

void copy_contiguous(const StridedArray& src, void* dst, Stream stream) {
  src.item_bytes == 1 ? copy<uint8_t>(src, dst, stream) : copy<float>(src, dst, stream);
}

}  // namespace faceattr::cuda
