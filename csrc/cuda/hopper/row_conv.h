// A convolution of wide maps with few channels: act(3x3(a) + 1x1(b) + bias), stride 1, of float16 or bfloat16.
//
// With 64 output channels each value that is read serves 64 products, too few to read it nine times from the outer
// cache. Here a block keeps all weights in shared memory for as long as it runs, and takes strips of four rows, of all
// images: a warp copies the six rows of a and four of b under the next strip while two warpgroups multiply this one's,
// two rows each.
//
// Columns of a product are positions of two rows, operands maps without swizzle, as in resident_blocks.h: a tap is an
// address. Rows have one position more than the map, which is zero: the right neighbour of a row's last position, and
// the left one of the next row's first. Rows above and below the map are filled with zeros by who copies.
#pragma once

#include "cuda/hopper/params.h"
#include "cuda/kernels/numbers.h"
#include "cuda/primitives_sm90.h"

namespace faceattr::cuda {

// Nothing is wrong. Tests plant faults by another policy.
struct NoRowConvFaults {
  static constexpr bool kSkipFence = false;     // wgmma may read rows before their zeros are seen
  static constexpr bool kSkipZeros = false;     // rows outside the map are those of another strip
  static constexpr bool kReleaseEarly = false;  // the next strip is copied over this one while it is read
};

template <class T, class Faults = NoRowConvFaults>
struct RowConv {
  using Params = RowConvParams;
  static constexpr const char* kName = "row_conv";
  static constexpr int kMaxThreads = RowConvShape::kThreads, kMinBlocks = 1;

  static FA_DEVICE void run(const Params& params) {
    dependency_trigger();
    RowConv self(params);
    self.set_up();
    // From one lane for all: the compiler then knows that no warp diverges here.
    if (shuffle_from(warp_index(), 0) == kConsumers / 32) {
      self.produce();
    } else {
      self.consume();
    }
  }

 private:
  using S = RowConvShape;
  static constexpr int kConsumers = 256;
  static constexpr int kBlocks = S::kColumns / 8;  // of positions, of a product
  using Sums = float[S::kColumns / 2];

  explicit FA_DEVICE RowConv(const Params& p)
      : params(p),
        pitch(p.width + 1),
        weights(shared_base()),
        inputs(weights + S::kWeightBytes),
        staged(inputs + 2 * S::kInputBytes),
        full(staged + 2 * S::kStagedBytes),
        empty(full + 2 * 8),
        packed(empty + 2 * 8) {}

  // What copies never reach, between rows and beyond channels, is zero from here on.
  FA_DEVICE void set_up() {
    for (int i = thread_index(); i < 2 * S::kInputBytes / kGroupBytes; i += kMaxThreads) {
      store_shared(inputs + static_cast<SharedAddress>(i * kGroupBytes), Vec16{0, 0, 0, 0});
    }
    if (thread_index() == 0) {
      for (uint32_t b = 0; b < 2; ++b) {
        mbarrier_init(full + 8 * b, 32);  // every lane that copies
        mbarrier_init(empty + 8 * b, kConsumers / 128);
      }
      mbarrier_init(packed, 1);
      mbarrier_init_fence();
    }
    fence_async();
    sync_block();
  }

  FA_DEVICE int strips() const { return divide_up(params.height, S::kRows); }
  FA_DEVICE SharedAddress input(uint32_t buffer) const { return inputs + buffer * S::kInputBytes; }

  // ---- The warp that copies.

  FA_DEVICE void produce() {
    if (lane_index() == 0) {
      mbarrier_arrive_expect(packed, S::kWeightBytes);
      copy_bulk(weights, params.weights, S::kWeightBytes, packed);
    }
    sync_warp();
    dependency_wait();
    uint32_t buffer = 0, parity = 0;
    FA_NO_UNROLL
    for (int strip = block_index().x; strip < params.images * strips(); strip += grid_size().x) {
      const int image = strip / strips(), first = strip % strips() * S::kRows;
      mbarrier_wait(empty + 8 * buffer, parity ^ 1);
      uint32_t bytes = 0;
      for_each_row(image, first, buffer, [&](const uint8_t* from, SharedAddress to) {
        if (from != nullptr) {
          bytes += row_bytes();
        } else if constexpr (!Faults::kSkipZeros) {
          for (uint32_t i = 0; i < row_bytes(); i += kGroupBytes) store_shared(to + i, Vec16{0, 0, 0, 0});
        }
      });
      if constexpr (!Faults::kSkipFence) fence_async();
      mbarrier_arrive_expect(full + 8 * buffer, bytes);
      for_each_row(image, first, buffer, [&](const uint8_t* from, SharedAddress to) {
        if (from != nullptr) copy_bulk(to, from, row_bytes(), full + 8 * buffer);
      });
      buffer ^= 1;
      parity ^= buffer == 0 ? 1 : 0;
    }
  }

  FA_DEVICE uint32_t row_bytes() const { return static_cast<uint32_t>(params.width * kGroupBytes); }

  // Calls visit(from, to) for this lane's rows of groups: from is null where there is no such row.
  template <class Visit>
  FA_DEVICE void for_each_row(int image, int first, uint32_t buffer, const Visit& visit) const {
    const int near = params.near_groups * S::kNearRows, all = near + params.own_groups * S::kRows;
    const int positions = params.height * params.width;
    for (int i = lane_index(); i < all; i += 32) {
      const bool is_near = i < near;
      const int at = is_near ? i : i - near, rows = is_near ? S::kNearRows : S::kRows;
      const int group = at / rows, row = at % rows, y = first + row - (is_near ? 1 : 0);
      const SharedAddress start = is_near ? S::kGuardBytes + static_cast<SharedAddress>(group) * S::kNearGroupBytes
                                          : S::kNearBytes + static_cast<SharedAddress>(group) * S::kOwnGroupBytes;
      const int64_t chunk = map_index(image, group, y * params.width,
                                      is_near ? params.near_map_groups : params.own_map_groups, positions);
      const uint8_t* const map = is_near ? params.near : params.own;
      visit(y >= 0 && y < params.height ? map + chunk * kGroupBytes : nullptr,
            input(buffer) + start + static_cast<SharedAddress>(row * pitch * kGroupBytes));
    }
  }

  // ---- The warpgroups that multiply.

  FA_DEVICE void consume() {
    dependency_wait();  // what it writes, the kernel before may read
    mbarrier_wait(packed, 0);
    uint32_t buffer = 0, parity = 0;
    FA_NO_UNROLL
    for (int strip = block_index().x; strip < params.images * strips(); strip += grid_size().x) {
      mbarrier_wait(full + 8 * buffer, parity);
      Sums sums;
      if constexpr (Faults::kReleaseEarly) release(buffer);
      multiply(sums, input(buffer));
      if constexpr (!Faults::kReleaseEarly) release(buffer);
      stage(sums);
      sync_warp();
      store(strip / strips(), strip % strips() * S::kRows + 2 * warpgroup_index());
      sync_warp();  // before the next strip takes the place
      buffer ^= 1;
      parity ^= buffer == 0 ? 1 : 0;
    }
  }

  FA_DEVICE void release(uint32_t buffer) {
    if (thread_index() % 128 == 0) mbarrier_arrive(empty + 8 * buffer);
  }

  FA_DEVICE void multiply(Sums& sums, SharedAddress from) {
    const SharedAddress line = static_cast<SharedAddress>(pitch * kGroupBytes);
    const SharedAddress rows = static_cast<SharedAddress>(2 * warpgroup_index()) * line;
    SharedAddress a = weights;
    wgmma_fence();
    FA_NO_UNROLL
    for (int tap = 0; tap < 9; ++tap) {
      // Row 0 lies above the strip; its left neighbour is the guard.
      const SharedAddress start = from + S::kGuardBytes + rows + static_cast<SharedAddress>(tap / 3) * line +
                                  static_cast<SharedAddress>(tap % 3 * kGroupBytes) - kGroupBytes;
      FA_UNROLL
      for (int group = 0; group < S::kNearGroups; group += kStepGroups, a += S::kStepBytes) {
        step<S::kNearGroupBytes>(sums, a, start + static_cast<SharedAddress>(group) * S::kNearGroupBytes,
                                 tap + group > 0);
      }
    }
    FA_UNROLL
    for (int group = 0; group < S::kOwnGroups; group += kStepGroups, a += S::kStepBytes) {
      const SharedAddress start = from + S::kNearBytes + static_cast<SharedAddress>(group) * S::kOwnGroupBytes + rows;
      step<S::kOwnGroupBytes>(sums, a, start, true);
    }
    wgmma_commit();
    wgmma_wait<0>();
  }

  template <SharedAddress kGroupPitch>
  static FA_DEVICE void step(Sums& sums, SharedAddress a, SharedAddress b, bool accumulate) {
    wgmma<T, S::kColumns>(sums, matrix_descriptor(a, S::kChannels * kGroupBytes, 8 * kGroupBytes),
                          matrix_descriptor(b, kGroupPitch, 8 * kGroupBytes), accumulate);
  }

  // A warp's 16 channels, two groups, of both rows' positions.
  FA_DEVICE SharedAddress staged_groups() const {
    return staged + static_cast<SharedAddress>(2 * warp_index()) * S::kStagedGroupBytes;
  }

  FA_DEVICE void stage(Sums& sums) const {
    const int lane = lane_index(), channel = warp_index() % 4 * 16 + lane / 4;
    const float biases[2] = {load_global_constant(params.bias + channel),
                             load_global_constant(params.bias + channel + 8)};
    const SharedAddress row = staged_groups() + static_cast<SharedAddress>(lane / 8 % 2) * S::kStagedGroupBytes +
                              static_cast<SharedAddress>(lane % 8 * kGroupBytes);
    FA_UNROLL
    for (int j = 0; j < kBlocks; ++j) {
      uint32_t pairs[2];
      FA_UNROLL
      for (int i = 0; i < 2; ++i) {
        const float x = add(sums[4 * j + 2 * i], biases[i]), y = add(sums[4 * j + 2 * i + 1], biases[i]);
        pairs[i] = params.relu ? pack2<T>(Numbers<T>::relu(x), Numbers<T>::relu(y)) : pack2<T>(x, y);
      }
      store_matrix_transposed(row + static_cast<SharedAddress>(j * 8 * kGroupBytes), pairs);
    }
  }

  FA_DEVICE void store(int image, int y) const {
    const int positions = params.height * params.width;
    const int rows = y + 1 < params.height ? 2 : y < params.height ? 1 : 0;
    const int each = rows * params.width;
    for (int i = lane_index(); i < 2 * each; i += 32) {
      const int half = i / each, at = i % each, row = at / params.width, x = at % params.width;
      const int group = warp_index() % 4 * 2 + half;
      if (group >= params.dst_groups) continue;
      const SharedAddress from = staged_groups() + static_cast<SharedAddress>(half) * S::kStagedGroupBytes +
                                 static_cast<SharedAddress>((row * pitch + x) * kGroupBytes);
      const int64_t to = map_index(image, group, (y + row) * params.width + x, params.dst_groups, positions);
      store_global(reinterpret_cast<Vec16*>(params.dst) + to, load_shared<Vec16>(from));
    }
  }

  const Params& params;
  const int pitch;  // positions of a row
  const SharedAddress weights, inputs, staged, full, empty, packed;
};

}  // namespace faceattr::cuda
