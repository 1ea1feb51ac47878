// Copies an array of any strides to a C-contiguous one.
#pragma once

#include <cstdint>

#include "cuda/program.h"

namespace faceattr::cuda {

struct StridedArray {
  const void* data;
  int item_bytes;  // 1 or 4
  std::int64_t shape[4];
  std::int64_t strides[4];  // in items, of any sign
};

// Throws LaunchError.
void copy_contiguous(const StridedArray& src, void* dst, Stream stream);

}  // namespace faceattr::cuda
