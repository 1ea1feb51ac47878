// What kernels are told, by the host: nothing here needs a compiler for CUDA. Addresses are the device's.
#pragma once

#include "cuda/layout.h"

namespace faceattr::cuda {

// ---- Convolutions.

// What a convolution writes and adds: `floats` and `narrow` maps (of the format that it reads), either or both.
struct ConvStore {
  const void* bias;         // padded: float32, or int32 of integers
  const float* multiplier;  // padded; of integers alone
  const float* inverse;     // padded; of a narrow map of integers beside floats, else null: 1
  uint8_t* floats;          // or null
  const uint8_t* floats_residual;
  uint8_t* narrow;  // or null
  const uint8_t* narrow_residual;
  int floats_groups, narrow_groups;  // per image
  int positions;                     // per image
  float low;                         // of integers
  bool relu;
};

struct ConvSource {
  const uint8_t* map;  // the first group that is read, of image 0
  int map_groups;      // per image
  int height, width, kernel, stride;
  int groups;  // that are read
  StepOrder order;
};

constexpr int kMaxSources = 32;

struct ConvParams {
  ConvSource sources[kMaxSources];
  int source_count;
  int steps;        // in all
  int signed_from;  // of integers: steps from here on read -128 … 127, those before 0 … 255
  const uint8_t* weights;
  int padded_channels;
  int out_height, out_width, rows;  // rows: positions of all images
  int column_tiles;                 // blocks that share rows are neighbours in the grid
  ConvStore store;
};

// Of float_conv.h: a thread per position of a block, and its channels.
constexpr int kFloatConvRows = 128, kFloatConvChannels = 8;

// Of halo_conv.h.
constexpr int kHaloGroups = 4, kHaloSteps = kHaloGroups / kStepGroups;
constexpr int kHaloStages = 3;
constexpr int kHaloZeroBytes = 128;

struct SourceOrder {
  const ConvParams& params;
  FA_HOST_DEVICE StepOrder operator()(int segment) const { return params.sources[segment].order; }
};

// ---- The stem (stem.h).

constexpr int kStemTaps = 7, kStemPad = 3;
constexpr int kStemSteps = 2 * kStemTaps;  // of two groups of two positions each
constexpr int kStemChannels = 32;          // of a block
constexpr int kStemMaxColumns = 64;        // pooled, of a block: any size of image fits shared memory

struct StemParams {
  const void* pixels;  // uint8 [images, size, size, 3] or float32 [images, 3, size, size]; aligned to 16 bytes
  bool u8;
  int size;
  float mean[3], factor[3];  // x = (uint8 - mean) * factor
  float gain[3];             // x = float32 * gain
  const uint8_t* weights;    // as a convolution of kStemSteps steps
  int padded_channels;
  int strip_rows;            // pooled, of a block
  int columns;               // pooled, of a block
  int strips, column_tiles;  // per image
  int channel_tiles;         // of kStemChannels
  uint32_t* flags;           // [image][strips * column_tiles]: 1 where a pixel does not fit; or null
  ConvStore store;           // positions: (size / 4)^2
};

constexpr FA_HOST_DEVICE int stem_input_rows(int strip_rows) { return 4 * strip_rows + kStemTaps - 2; }
// Positions of a row in shared memory: the last of the products' eight columns reads eight from its own on.
constexpr FA_HOST_DEVICE int stem_pitch(int columns) { return 2 * divide_up(2 * columns, 8) * 8 + 6; }
constexpr int kStemWeightBytes = kStemSteps * kStepGroups * kStemChannels * kGroupBytes;
constexpr int kStemFlagBytes = 64;
constexpr int stem_shared_bytes(int strip_rows, int columns, int parts) {
  return kStemWeightBytes + kStemFlagBytes + parts * stem_input_rows(strip_rows) * stem_pitch(columns) * 8;
}

// ---- Vectors and results (vectors.h).

// dst[tap * count + c - start] = mean over output positions of src at the tap, zero outside.
struct MeansParams {
  const uint8_t* map;
  int map_groups, height, width;
  int kernel, stride, start, count;
  int first_group, groups;  // that are read
  int out_height, out_width;
  const float* scale;  // of integers, by channel of the map; else null
  float low;
  float share;  // 1 / (output positions)
  float* dst;   // of image 0
  int pitch;    // floats from one image's vectors to the next's
};

constexpr int kMaxLinearInputs = 16;
constexpr int kMaxSlices = 16;

struct LinearPart {
  int offset;        // floats, in an image's vectors
  int begin, count;  // in K; begin is a multiple of 4
};

// Outputs of the network that are channels of a vector.
struct OutputSlice {
  int start, count;
  float* dst;  // [images, count]
};

struct LinearParams {
  const float* weights;  // [oc][padded K]: each input from a multiple of 4 on, zeros between
  const float* bias;
  int channels, k;  // k: padded
  LinearPart parts[kMaxLinearInputs];
  int part_count;
  float* vectors;  // of image 0
  int pitch;       // floats from one image to the next
  int dst;         // floats, in an image's vectors
  int images;
  OutputSlice slices[kMaxSlices];
  int slice_count;
  const uint32_t* flags;
  int flags_per_image;
};

struct GatherParams {
  const uint8_t* map;  // or vectors: then groups hold four floats of one position
  int map_groups, positions;
  int64_t image_bytes;  // from one image to the next
  int start, count;
  const float* scale;  // of integers, else null
  float low;
  float* dst;
  int images;
  const uint32_t* flags;
  int flags_per_image;
};

struct QuantizeParams {
  const uint8_t* src;
  int src_groups, positions, images;
  ConvStore store;  // its narrow map, inverse and low
};

}  // namespace faceattr::cuda
