// The intermediate form that a backend runs: the C++ side of faceattr_fast.plan, weights rounded to float32.
//
// Tensors are NHWC, one image each; a vector has height and width 1. Weights of output channel o are one row of all the
// values that it reads, in the order of the sources: [oc][K].
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace faceattr {

// How a map stores its values; vectors are float32.
enum class Format {
  kFloat,     // float32
  kBfloat16,  // float32's upper half, rounded to nearest even
  kHalf,      // IEEE float16, rounded to nearest even; on CUDA alone
  kInteger,   // value = scale[c] * integer, integers from `low` to low + 255
};

struct TensorShape {
  int height = 0, width = 0, channels = 0;
  Format format = Format::kFloat;
  std::vector<float> scale = {};  // by channel, of integers
  int low = 0;

  // 16 bits per value or, of integers, 8: plan/memory_planner.h.
  bool narrow() const { return format != Format::kFloat; }
};

// dst = maxpool2x2(relu(weight * x + bias)), 7x7, stride 2, padding 3, K = [7][7][3]. Where dst holds bfloat16, x are
// the integers rint(2 * (pixel - mean)), zero outside, which are bfloat16 numbers up to 256, and weights become
// bfloat16. Where it holds half, x and weights become half.
struct StemPhase {
  int dst = 0;
  std::vector<float> weight, bias;
};

// The same by tiles of 4x4 outputs; x are the normalised pixels in float32 whatever dst holds, float32 or bfloat16.
// Weights come transformed, K = the 507 products of a tile (cpu/kernels/stem_winograd).
struct WinogradStemPhase {
  int dst = 0;
  std::vector<float> weight, bias;
};

constexpr int kWinogradStemProducts = 507;

// weight * src[..., start : start + count], kernel 1 or 3 (padding 1), K = [kernel][kernel][count].
struct Segment {
  int src = 0, start = 0, count = 0, kernel = 1, stride = 1;
};

// dst = act(sum over segments + bias + residual), K = the segments' one after the other. All sources have one format of
// floats, which weights are rounded to; products are summed in float32. dst is float32 or of that format.
struct SegmentedConvPhase {
  int dst = 0;
  std::vector<Segment> segments;
  std::vector<float> weight, bias;
  bool relu = false;
  int residual = -1;  // a map of dst's shape and format, float32 or half, or -1
  int copy = -1;      // a map of bfloat16 of dst's shape, or -1; dst then holds floats, sources bfloat16
};

// The same with the 3x3 segments of one stride by tiles of `tile` x `tile` outputs: Winograd's F(2x2), F(4x4) or F(5x5)
// of 3x3 at stride 1, its polyphase form with tiles of 4x4 at stride 2 (cpu/kernels/winograd;
// cpu/kernels/narrow_winograd where sources are bfloat16: transformed values and weights are then rounded to it). Their
// weights come transformed, [filters][oc][K] with K = the segments' channels one after the other. `direct` says
// everything else, at stride 2 the segments' centre taps too; its segments may be none.
struct WinogradConvPhase {
  SegmentedConvPhase direct;
  std::vector<Segment> segments;
  std::vector<float> weight;
  int tile = 4;
};

// Transformed weights per channel of input and output; 0 where there is no such form.
inline int winograd_filters(int stride, int tile) {
  if (stride == 2) return tile == 4 ? 35 : 0;
  const bool exists = stride == 1 && (tile == 2 || tile == 4 || tile == 5);
  return exists ? (tile + 2) * (tile + 2) : 0;
}

// The stem of integer maps. It reads the integers rint(2 * (pixel - mean)), zero outside:
// dst = maxpool2x2(clamp(rint((weight * integers + bias) * multiplier[o]))), K = [7][7][3].
struct QuantizedStemPhase {
  int dst = 0;  // of integers
  std::vector<std::int8_t> weight;
  std::vector<std::int32_t> bias;
  std::vector<float> multiplier;
};

// A convolution of integer maps: sum = the segments' products + bias, in 32 bits, then in float32, each step rounded:
//
//   dst of integers: dst = clamp(rint(sum * multiplier[o]));
//   dst of floats:   dst = act(sum * multiplier[o] + residual), copy = clamp(rint(dst * inverse[o])).
struct QuantizedConvPhase {
  int dst = 0;
  std::vector<Segment> segments;
  std::vector<std::int8_t> weight;  // [oc][K]
  std::vector<std::int32_t> bias;
  std::vector<float> multiplier;
  bool relu = false;
  int residual = -1;           // a map of float32 of dst's shape, or -1
  int copy = -1;               // a map of integers of dst's shape, or -1
  std::vector<float> inverse;  // of the copy; empty without one
  // Stride-1 3x3 segments that go by way of F(tile x tile, 3x3), tile 2 or 4, and add to the same sum:
  // kernels/narrow_winograd. Their weights come transformed, [points][oc][K] with K = the segments' channels one after
  // the other.
  std::vector<Segment> transformed = {};
  std::vector<std::int16_t> transformed_weight = {};
  int tile = 2;
};

// F(2x2): 4 · 9 · 255 · 127 times so many are below 2^31.
constexpr int kQuantizedWinogradChannels = 1 << 10;
// F(4x4): sums of the magnitudes of an output's weights, times 255 below 2^25. Its results are multiples of 576 modulo
// 2^32: 2^6 takes six bits, 9 none.
constexpr int kQuantizedWinogradWeights = 131586;

// dst = clamp(rint(src * inverse[c])): a map of floats as integers, each step rounded to float32.
struct QuantizePhase {
  int dst = 0, src = 0;
  std::vector<float> inverse;
};

// dst[(ky * kernel + kx) * count + c] = mean over output positions of src at tap (ky, kx), zero outside.
struct ShiftedMeansPhase {
  int dst = 0, src = 0, kernel = 1, stride = 1, start = 0, count = 0;
};

// The first `count` channels of a vector.
struct LinearInput {
  int src = 0, count = 0;
};

// dst = weight * concatenation of the inputs + bias; vectors. Either `weight` is given, or `half_weight`, bits of
// float16 numbers, finite, and `scale`, powers of two: then weight = scale[o] * half_weight.
struct LinearHeadPhase {
  int dst = 0;
  std::vector<LinearInput> inputs;
  std::vector<float> weight, bias;
  std::vector<std::uint16_t> half_weight = {};
  std::vector<float> scale = {};
};

using Phase = std::variant<StemPhase, WinogradStemPhase, SegmentedConvPhase, WinogradConvPhase, QuantizedStemPhase,
                           QuantizedConvPhase, QuantizePhase, ShiftedMeansPhase, LinearHeadPhase>;

inline int destination(const StemPhase& phase) { return phase.dst; }
inline int destination(const WinogradStemPhase& phase) { return phase.dst; }
inline int destination(const SegmentedConvPhase& phase) { return phase.dst; }
inline int destination(const WinogradConvPhase& phase) { return phase.direct.dst; }
inline int destination(const QuantizedStemPhase& phase) { return phase.dst; }
inline int destination(const QuantizedConvPhase& phase) { return phase.dst; }
inline int destination(const QuantizePhase& phase) { return phase.dst; }
inline int destination(const ShiftedMeansPhase& phase) { return phase.dst; }
inline int destination(const LinearHeadPhase& phase) { return phase.dst; }

struct Output {
  int tensor = 0, start = 0, count = 0;
};

struct Plan {
  int pixels = 0;  // side of the square input
  float mean[3] = {0, 0, 0}, scale[3] = {1, 1, 1};
  std::vector<TensorShape> tensors;
  std::vector<Phase> phases;
  std::vector<Output> outputs;
};

// Maps live per image, in the arena; vectors (of ShiftedMeans and LinearHead) per batch, since heads run on a whole
// batch.
enum class TensorKind { kUnwritten, kMap, kVector };

// Side of the output of a 1x1, or of a 3x3 with padding 1.
inline int strided(int size, int stride) { return (size + stride - 1) / stride; }

// Throws std::invalid_argument, naming phase and tensor, unless every index, shape and weight size fits: kernels below
// rely on it and check nothing. Returns the kind of every tensor.
std::vector<TensorKind> check(const Plan& plan);

}  // namespace faceattr
