// Weights as kernels read them, in one piece of memory that is uploaded once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/kernels/params.h"
#include "plan/phase.h"

namespace faceattr::cuda {

class Packing {
 public:
  // Returns the offset of so many zeros, aligned to 256 bytes.
  std::size_t add(std::size_t bytes);
  template <class Value>
  std::size_t add(const std::vector<Value>& values) {
    const std::size_t offset = add(values.size() * sizeof(Value));
    Value* to = at<Value>(offset);
    for (std::size_t i = 0; i < values.size(); ++i) to[i] = values[i];
    return offset;
  }
  template <class Value>
  Value* at(std::size_t offset) {
    return reinterpret_cast<Value*>(bytes_.data() + offset);
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

// One value of a format. Throws std::invalid_argument where float16 does not hold it.
void put_value(Format format, float value, std::byte* to);

// A convolution's sources but for the addresses, in the order of their steps, and its weights.
struct PackedConv {
  std::vector<ConvSource> sources;
  std::vector<int> tensors;      // of the sources
  std::vector<int> first_group;  // of the tensor, that a source reads
  int steps = 0, signed_from = 0, padded = 0;
  int halo_width = 0;  // of the maps, where K has the order of halo_conv.h
  std::size_t weights = 0;
};

// `weight` is [oc][K], K = the segments' one after the other; integers or floats that become `format`. Throws
// std::invalid_argument where a number does not fit the format.
PackedConv pack_conv(const Plan& plan, const std::vector<Segment>& segments, const std::vector<float>& weight,
                     int channels, Format format, Packing& packing);

// The stem's [oc][7][7][3], each times factor[channel of the pixel], as kStemSteps steps of `format`.
std::size_t pack_stem(const std::vector<float>& weight, const float (&factor)[3], int channels, Format format,
                      Packing& packing);
// The same for hopper/wgmma_stem.h.
std::size_t pack_wgmma_stem(const std::vector<float>& weight, const float (&factor)[3], int channels, Format format,
                            Packing& packing);
// The same for float_stem: [7 * 7 * 3][padded channels].
std::size_t pack_float_stem(const std::vector<float>& weight, int channels, Packing& packing);

// A value per channel, with zeros up to the padded channels.
template <class Value>
std::size_t pack_channels(std::vector<Value> values, Packing& packing) {
  values.resize(padded_channels(static_cast<int>(values.size())));
  return packing.add(values);
}

}  // namespace faceattr::cuda
