// What the kernels of hopper/ are told, and the shapes that host and device agree on. Addresses are the device's.
#pragma once

#include "cuda/kernels/params.h"

namespace faceattr::cuda {

// ---- Resident blocks (resident_blocks.h).

// A map of Side x Side positions; channels are padded to these multiples of 128: two warpgroups share the rows of a
// product, in tiles of 64.
template <int Side, int StreamChannels, int MiddleChannels>
struct ResidentShape {
  static_assert(StreamChannels % 128 == 0 && MiddleChannels % 128 == 0);
  static constexpr int kSide = Side, kStreamChannels = StreamChannels, kMiddleChannels = MiddleChannels;
  static constexpr int kPositions = Side * Side;
  static constexpr int kColumns = divide_up(kPositions, 8) * 8;                                   // N of a product
  static constexpr int kStreamTiles = StreamChannels / 128, kMiddleTiles = MiddleChannels / 128;  // of a warpgroup

  // A tap reads kColumns positions from up to one row and one position before the map, or after it.
  static constexpr int kGuard = Side + 1;
  static constexpr int kMiddlePitch = divide_up(kColumns + 2 * kGuard, 8) * 8;

  // A slot of the ring has all rows of so many groups of K.
  static constexpr int kSlots = 4, kSlotBytes = 16384;
  static constexpr int kReduceGroups = kSlotBytes / kGroupBytes / MiddleChannels;
  static constexpr int kExpandGroups = kSlotBytes / kGroupBytes / StreamChannels;
  static constexpr int kReduceSlots = StreamChannels / 8 / kReduceGroups;
  static constexpr int kTapSlots = MiddleChannels / 8 / kExpandGroups;
  static constexpr int kBlockSlots = kReduceSlots + 9 * kTapSlots;
  static_assert(StreamChannels / 8 % kReduceGroups == 0 && MiddleChannels / 8 % kExpandGroups == 0);
  static_assert(kReduceGroups % kStepGroups == 0 && kExpandGroups % kStepGroups == 0);

  // Shared memory, in this order.
  static constexpr int kStreamBytes = StreamChannels / 8 * kColumns * kGroupBytes;
  static constexpr int kMiddleBytes = MiddleChannels / 8 * kMiddlePitch * kGroupBytes;
  static constexpr int kSavedBytes = MiddleChannels / 8 * Side * kGroupBytes;  // a column of the middle map
  static constexpr int kBarrierBytes = (2 * kSlots + 1) * 8;
  static constexpr int kSharedBytes =
      kStreamBytes + kMiddleBytes + kSlots * kSlotBytes + kSavedBytes + divide_up(kBarrierBytes, 16) * 16;
  static_assert(kSharedBytes <= 232448, "what a block may have on sm_90");

  // Sums of a thread: of 240 registers, some 40 hold everything else.
  static_assert(kStreamTiles * kColumns / 2 <= 200 && kMiddleTiles * kColumns / 2 <= 200);
};

// Shapes that are compiled; channels of a plan fill up to the next.
enum class ResidentShapeId { k14x256x128, k14x128x128 };
template <class Visit>
auto visit_shape(ResidentShapeId id, const Visit& visit) {
  switch (id) {
    case ResidentShapeId::k14x256x128:
      return visit(ResidentShape<14, 256, 128>{});
    case ResidentShapeId::k14x128x128:
      break;
  }
  return visit(ResidentShape<14, 128, 128>{});
}

inline int resident_shared_bytes(ResidentShapeId id) {
  return visit_shape(id, [](auto shape) { return static_cast<int>(shape.kSharedBytes); });
}

// Weights of a block, in units of 16 bytes, as they stream by: the 1x1, then the taps of the 3x3 column by column. The
// middle column needs no border; then comes the one that reads to the left, then to the right.
constexpr FA_HOST_DEVICE int resident_tap_column(int turn) { return turn == 0 ? 0 : 2 * turn - 3; }  // dx
constexpr int resident_reduce_index(int middle, int group, int row) { return group * middle + row; }
constexpr int resident_expand_index(int stream, int middle, int turn, int ky, int group, int row) {
  return stream / 8 * middle + ((turn * 3 + ky) * (middle / 8) + group) * stream + row;
}
constexpr int resident_block_chunks(int stream, int middle) { return 10 * (stream / 8) * middle; }

struct ResidentParams {
  const uint8_t* src;      // the stream before the first block, by groups of 8
  uint8_t* dst;            // after the last, or null; may be src
  uint8_t* floats;         // the same as float32, or null
  const uint8_t* weights;  // [blocks][kBlockSlots][kSlotBytes]
  const float* bias;       // [blocks][padded middle, padded stream channels]
  int images, blocks;
  int groups;         // of 8 channels of the stream
  int floats_groups;  // of 4
};

constexpr int kResidentThreads = 384;  // two warpgroups that multiply, one that copies

// ---- The stem (wgmma_stem.h). StemParams; weights are [tile of 32 channels][rows][4 groups][64][16 bytes].

constexpr int kWgmmaStemThreads = 256;
constexpr int kWgmmaStemRows = kStemTaps + 2;  // of pixels, under two rows of the convolution
constexpr int kWgmmaStemWeightBytes = kWgmmaStemRows * 4 * 64 * kGroupBytes;
constexpr int kWgmmaStemHeadBytes = kWgmmaStemWeightBytes + 16;  // and a barrier

// Of a channel of a tile, for the upper or lower row of the convolution.
constexpr int wgmma_stem_row(int channel, int lower) { return channel / 8 * 16 + lower * 8 + channel % 8; }

// Columns of the convolution that are compiled: enough for so many pooled ones (at most kStemMaxColumns).
constexpr int wgmma_stem_columns(int pooled) { return pooled <= 32 ? 64 : pooled <= 56 ? 112 : 128; }
// Positions of a row: the last column's window has eight.
constexpr FA_HOST_DEVICE int wgmma_stem_pitch(int columns) { return 2 * columns + 6; }
constexpr int wgmma_stem_shared_bytes(int strip_rows, int pooled) {
  const int columns = wgmma_stem_columns(pooled);
  return kWgmmaStemHeadBytes + kWgmmaStemThreads / 32 * (columns / 2) * kGroupBytes + kStemFlagBytes +
         stem_input_rows(strip_rows) * wgmma_stem_pitch(columns) * 8;
}

// ---- Convolutions of rows (row_conv.h): 3x3 of one map and 1x1 of another.

struct RowConvShape {
  static constexpr int kThreads = 288;  // two warpgroups that multiply, a warp that copies
  static constexpr int kMaxWidth = 56;
  static constexpr int kRows = 4, kNearRows = kRows + 2;  // of a strip, and under its taps
  static constexpr int kChannels = 64;                    // of what is written
  static constexpr int kColumns = divide_up(2 * (kMaxWidth + 1), 8) * 8;
  // Groups of 8 channels that are read by 3x3, and by 1x1; fewer are filled up with zeros.
  static constexpr int kNearGroups = 8, kOwnGroups = 4;
  static constexpr int kSteps = (9 * kNearGroups + kOwnGroups) / kStepGroups;
  static constexpr int kStepBytes = kStepGroups * kChannels * kGroupBytes;
  static constexpr int kWeightBytes = kSteps * kStepBytes;

  // A group's rows begin behind a position of zeros. Products read up to eight positions further than rows reach: into
  // the next group or, behind the last, these.
  static constexpr int kGuardBytes = kGroupBytes, kSlackBytes = 8 * kGroupBytes;
  static constexpr int kNearGroupBytes = divide_up(1 + kNearRows * (kMaxWidth + 1), 8) * 8 * kGroupBytes;
  static constexpr int kOwnGroupBytes = divide_up(kRows * (kMaxWidth + 1), 8) * 8 * kGroupBytes;
  static constexpr int kNearBytes = kNearGroups * kNearGroupBytes;
  static constexpr int kInputBytes = kNearBytes + kOwnGroups * kOwnGroupBytes + kSlackBytes;
  static constexpr int kStagedGroupBytes = kColumns * kGroupBytes;
  static constexpr int kStagedBytes = kChannels / 8 * kStagedGroupBytes;  // of a warpgroup
  static constexpr int kSharedBytes = kWeightBytes + 2 * kInputBytes + 2 * kStagedBytes + 5 * 8 + 8;
  static_assert(kSharedBytes <= 232448, "what a block may have on sm_90");
};

// Where weights of a tap (9: the 1x1) and a group of 8 channels begin, in units of kChannels * 16 bytes.
constexpr int row_conv_group(int tap, int group) { return tap * RowConvShape::kNearGroups + group; }

struct RowConvParams {
  const uint8_t *near, *own;  // of image 0, from the first group that is read; own may be null
  int near_map_groups, own_map_groups;
  int near_groups, own_groups;
  uint8_t* dst;
  int dst_groups;
  const uint8_t* weights;  // [kSteps][2 groups][kChannels][16 bytes]: tap by tap, then of `own`
  const float* bias;       // [kChannels]
  int images, height, width;
  bool relu;
};

}  // namespace faceattr::cuda
