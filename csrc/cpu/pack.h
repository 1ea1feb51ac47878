// Weights in the order in which kernels read them.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"

namespace faceattr::cpu {

// [oc][K] → [panel][K][width] with panel = o / width; channels past oc are zero:
//   packed[(o / width * k + i) * width + o % width] = weight[o * k + i]
AlignedBuffer pack_panels(const std::vector<float>& weight, int out_channels, std::int64_t k, int width);

// The same of numbers of 16 bits, two in the place of a float; `width` is even.
AlignedBuffer pack_panels(const std::vector<std::uint16_t>& weight, int out_channels, std::int64_t k, int width);

// Zero-padded to whole panels.
AlignedBuffer pack_bias(const std::vector<float>& bias, int width);

inline int panel_count(int out_channels, int width) { return (out_channels + width - 1) / width; }

}  // namespace faceattr::cpu
