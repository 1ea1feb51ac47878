// Matrix times vectors, each in parts: dst[o] = sum over parts and i of base[offset + i] * weights[o, (part, i)] +
// bias[o].
//
// The sum is cut the same way always: each part in blocks of kLinearBlock values, in each block four interleaved chains
// that are added pairwise, blocks added in order. Heads have no later average to forgive a rounding error, so short
// chains matter.
#pragma once

#include <cstdint>

namespace faceattr::cpu {

constexpr int kLinearBlock = 256;

struct LinearPart {
  std::int64_t offset = 0, count = 0;
};

struct LinearArgs {
  const float* base = nullptr;  // of the first image
  int images = 1;
  std::int64_t image_pitch = 0;  // floats from an image's vectors, and its results, to the next
  const LinearPart* parts = nullptr;
  int part_count = 0;
  const float* weights = nullptr;               // [panel][K][panel width]; zero-padded channels
  const std::uint16_t* half_weights = nullptr;  // the same as bits of float16 numbers, in units of `scale`
  const float* bias = nullptr;                  // padded to whole panels
  const float* scale = nullptr;                 // of half_weights, by channel: powers of two, padded to whole panels
  std::int64_t k = 0;                           // of all parts
  int out_channels = 0;
  float* dst = nullptr;
};

struct LinearKernel {
  const char* name;
  int panel;   // output channels per panel
  int images;  // that share a pass over the weights
  void (*run)(const LinearArgs& args, int panel);
  void (*run_half)(const LinearArgs& args, int panel);  // with half_weights: each widened, exactly, as it is loaded
};

}  // namespace faceattr::cpu
