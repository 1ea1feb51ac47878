// Consecutive residual blocks, x += expand3x3(relu(reduce1x1(x))), with x and the middle map m of an image resident in
// one block's shared memory: between the blocks nothing goes to global memory and back. What streams is weights.
//
// Weights. A warp copies them in slots of 16 KB, packed in reading order, through a ring of four. The blocks of a
// cluster work on an image each and at the same rate, so each copies its share of a slot to all of them: global memory
// is read once per cluster. full[s] counts the bytes of slot s; empty[s] counts one arrival per warpgroup of every
// block of the cluster, because a copy goes into all of them: a slot is free when nobody reads it any more.
//
// Products. Rows are output channels, columns positions; operands lie as [group of 8 channels][position][16 bytes],
// which is wgmma's core-matrix layout without swizzle: the next 8 positions are 128 bytes further, the next group a
// whole map. So a tap of the 3x3 is the same operand from another address: 16 (Side dy + dx) bytes further, and rows
// above and below the map are guards of zeros. Columns are not: left of column 0 lies the last column of the row above.
// Taps are ordered by dx; before those of dx = -1 the last column of m is set aside and zeroed in place, before those
// of dx = 1 it is put back and the first is zeroed. Each change costs one wait of the warpgroups for each other, and N
// stays at Side^2 where separate borders would make it Side (Side + 2).
//
// Numbers. Sums are float32. x is rounded to the format once per block, m once: as in the plan.
#pragma once

#include "cuda/hopper/params.h"
#include "cuda/kernels/numbers.h"
#include "cuda/primitives_sm90.h"

namespace faceattr::cuda {

// Nothing is wrong. Tests plant faults by another policy, as for segmented_conv.h.
struct NoResidentFaults {
  static constexpr bool kSkipFence = false;     // wgmma may read m before stores to it are seen
  static constexpr bool kSkipBorder = false;    // the last column counts as the first's left neighbour
  static constexpr bool kReleaseEarly = false;  // a slot is filled anew while it is read
  static constexpr bool kWrongCount = false;    // a slot waits for this block's warpgroups alone
};

template <class T, class Shape, int kCluster, class Faults = NoResidentFaults>
struct ResidentBlocks {
  using Params = ResidentParams;
  static constexpr const char* kName = "resident_blocks";
  static constexpr int kMaxThreads = kResidentThreads, kMinBlocks = 1;

  static FA_DEVICE void run(const Params& params) {
    dependency_trigger();
    ResidentBlocks self(params);
    self.set_up();
    if (warpgroup_index() == kWarpgroups) {
      registers_decrease<24>();
      if (thread_index() == kConsumers) self.produce();
      sync_warp();
    } else {
      registers_increase<240>();
      self.consume();
    }
    cluster_sync();  // nobody's shared memory goes while others copy or arrive there
  }

 private:
  static constexpr int kWarpgroups = 2, kConsumers = 128 * kWarpgroups;
  static constexpr int kConsumersBarrier = 1;
  static constexpr SharedAddress kStreamGroup = Shape::kColumns * kGroupBytes;
  static constexpr SharedAddress kMiddleGroup = Shape::kMiddlePitch * kGroupBytes;
  static constexpr int kBiases = Shape::kMiddleChannels + Shape::kStreamChannels;
  // One array for both convolutions: with one each, the compiler would keep both, in memory.
  static constexpr int kTiles = Shape::kStreamTiles > Shape::kMiddleTiles ? Shape::kStreamTiles : Shape::kMiddleTiles;
  using Sums = float[Shape::kColumns / 2];
  using Tiles = Sums[kTiles];

  explicit FA_DEVICE ResidentBlocks(const Params& p)
      : params(p),
        stream(shared_base()),
        middle(stream + Shape::kStreamBytes),
        map(middle + Shape::kGuard * kGroupBytes),
        ring(middle + Shape::kMiddleBytes),
        saved(ring + Shape::kSlots * Shape::kSlotBytes),
        full(saved + Shape::kSavedBytes),
        empty(full + Shape::kSlots * 8),
        loaded(empty + Shape::kSlots * 8) {}

  // Guards, columns beyond the map and channels that only fill up are zero from here on.
  FA_DEVICE void set_up() {
    constexpr int kPieces = (Shape::kStreamBytes + Shape::kMiddleBytes) / kGroupBytes;
    for (int i = thread_index(); i < kPieces; i += kResidentThreads) {
      store_shared(stream + static_cast<SharedAddress>(i * kGroupBytes), Vec16{0, 0, 0, 0});
    }
    if (thread_index() == 0) {
      for (uint32_t s = 0; s < Shape::kSlots; ++s) {
        mbarrier_init(full + 8 * s, 1);
        mbarrier_init(empty + 8 * s, kWarpgroups * (Faults::kWrongCount ? 1 : kCluster));
      }
      mbarrier_init(loaded, 1);
      mbarrier_init_fence();
    }
    fence_async();
    cluster_sync();  // barriers of all blocks are ready before anybody copies or arrives
  }

  // A block without an image in the last round works on all the same: its copies are its neighbours' too.
  FA_DEVICE int rounds() const { return divide_up(params.images, grid_size().x); }

  // ---- The producer.

  FA_DEVICE void produce() {
    constexpr uint32_t kShare = Shape::kSlotBytes / kCluster;
    const uint32_t part = kCluster > 1 ? cluster_rank() * kShare : 0;
    const int slots = params.blocks * Shape::kBlockSlots;
    FA_NO_UNROLL
    for (int round = rounds(); round > 0; --round) {
      const uint8_t* from = params.weights + part;
      FA_NO_UNROLL
      for (int i = 0; i < slots; ++i, from += Shape::kSlotBytes) {
        mbarrier_wait(empty + 8 * slot, parity ^ 1);
        mbarrier_arrive_expect(full + 8 * slot, Shape::kSlotBytes);
        const SharedAddress to = ring + slot * Shape::kSlotBytes + part;
        if constexpr (kCluster > 1) {
          copy_bulk_multicast(to, from, kShare, full + 8 * slot, (1 << kCluster) - 1);
        } else {
          copy_bulk(to, from, kShare, full + 8 * slot);
        }
        next_slot();
      }
    }
  }

  FA_DEVICE void next_slot() {
    if (++slot == Shape::kSlots) {
      slot = 0;
      parity ^= 1;
    }
  }

  // ---- The consumers.

  FA_DEVICE void consume() {
    dependency_wait();
    const int rounds = this->rounds();
    FA_NO_UNROLL
    for (int round = 0; round < rounds; ++round) {
      const int image = block_index().x + round * grid_size().x;
      if (image < params.images) load(image, static_cast<uint32_t>(round) & 1);
      FA_NO_UNROLL
      for (int block = 0; block < params.blocks; ++block) {
        const float* const bias = params.bias + block * kBiases;
        Tiles sums;
        reduce(sums);
        FA_UNROLL
        for (int t = 0; t < Shape::kMiddleTiles; ++t) {
          const int row = first_row(t, Shape::kMiddleTiles);
          const SharedAddress to = map + static_cast<SharedAddress>(row / 8) * kMiddleGroup;
          store<kMiddleGroup, false>(sums[t], to, bias + row);
        }
        publish<Faults::kSkipFence>();
        expand(sums);
        FA_UNROLL
        for (int t = 0; t < Shape::kStreamTiles; ++t) {
          const int row = first_row(t, Shape::kStreamTiles);
          const SharedAddress to = stream + static_cast<SharedAddress>(row / 8) * kStreamGroup;
          store<kStreamGroup, true>(sums[t], to, bias + Shape::kMiddleChannels + row);
        }
        publish<false>();
      }
      if (image < params.images) write(image);
      publish<false>();  // the next image is copied over this one
    }
  }

  // What this thread stored is seen by products and copies of all consumers' threads behind this.
  template <bool kSkipFence>
  FA_DEVICE void publish() {
    if constexpr (!kSkipFence) fence_async();
    named_barrier_sync(kConsumersBarrier, kConsumers);
  }

  // Of tile t of `tiles` of this warpgroup, the 16 rows of this warp.
  static FA_DEVICE int first_row(int t, int tiles) {
    return (warpgroup_index() * tiles + t) * 64 + warp_index() % 4 * 16;
  }

  FA_DEVICE void load(int image, uint32_t round_parity) {
    constexpr uint32_t kMapBytes = Shape::kPositions * kGroupBytes;
    if (thread_index() == 0) {
      mbarrier_arrive_expect(loaded, static_cast<uint32_t>(params.groups) * kMapBytes);
      const uint8_t* from = params.src + static_cast<int64_t>(image) * params.groups * kMapBytes;
      FA_NO_UNROLL
      for (int group = 0; group < params.groups; ++group, from += kMapBytes) {
        copy_bulk(stream + static_cast<SharedAddress>(group) * kStreamGroup, from, kMapBytes, loaded);
      }
    }
    mbarrier_wait(loaded, round_parity);
  }

  // m = reduce1x1(x)
  FA_DEVICE void reduce(Tiles& sums) {
    constexpr SharedAddress kStep = Shape::kReduceGroups * kStreamGroup;
    wgmma_fence();
    int previous = -1;
    FA_NO_UNROLL
    for (int i = 0; i < Shape::kReduceSlots; ++i) {
      multiply<Shape::kMiddleTiles, Shape::kReduceGroups, kStreamGroup>(
          sums, stream + static_cast<SharedAddress>(i) * kStep, i > 0, previous);
    }
    finish(previous);
  }

  // expand3x3(m)
  FA_DEVICE void expand(Tiles& sums) {
    constexpr SharedAddress kStep = Shape::kExpandGroups * kMiddleGroup;
    FA_NO_UNROLL
    for (int column = 0; column < 3; ++column) {
      if (column > 0) {
        named_barrier_sync(kConsumersBarrier, kConsumers);  // the last taps have been read
        if constexpr (!Faults::kSkipBorder) mask(column);
        publish<false>();
      }
      const int dx = resident_tap_column(column);
      wgmma_fence();
      int previous = -1;
      FA_NO_UNROLL
      for (int i = 0; i < 3 * Shape::kTapSlots; ++i) {
        const int dy = i / Shape::kTapSlots - 1, part = i % Shape::kTapSlots;
        const SharedAddress source = map + static_cast<SharedAddress>((dy * Shape::kSide + dx) * kGroupBytes) +
                                     static_cast<SharedAddress>(part) * kStep;
        multiply<Shape::kStreamTiles, Shape::kExpandGroups, kMiddleGroup>(sums, source, column + i > 0, previous);
      }
      finish(previous);
    }
  }

  // Zeroes what taps of this column must not read beyond the map's sides.
  FA_DEVICE void mask(int column) {
    constexpr int kCount = Shape::kMiddleChannels / 8 * Shape::kSide;
    for (int i = thread_index(); i < kCount; i += kConsumers) {
      const int group = i / Shape::kSide, y = i % Shape::kSide;
      const SharedAddress first = map + static_cast<SharedAddress>(group) * kMiddleGroup +
                                  static_cast<SharedAddress>(y * Shape::kSide * kGroupBytes);
      const SharedAddress last = first + (Shape::kSide - 1) * kGroupBytes;
      const SharedAddress aside = saved + static_cast<SharedAddress>(i * kGroupBytes);
      if (column == 1) {
        store_shared(aside, load_shared<Vec16>(last));
        store_shared(last, Vec16{0, 0, 0, 0});
      } else {
        store_shared(last, load_shared<Vec16>(aside));
        store_shared(first, Vec16{0, 0, 0, 0});
      }
    }
  }

  // One slot of weights, kCount tiles of each warpgroup, times kGroups groups of an operand. Products of the slot
  // before it may still run until then; it is released here, and this one becomes `previous`.
  template <int kCount, int kGroups, SharedAddress kPitch>
  FA_DEVICE void multiply(Tiles& sums, SharedAddress source, bool accumulate, int& previous) {
    constexpr SharedAddress kRowBytes = 128 * kCount * kGroupBytes;  // of a group of weights
    mbarrier_wait(full + 8 * slot, parity);
    const SharedAddress weights =
        ring + slot * Shape::kSlotBytes + static_cast<SharedAddress>(warpgroup_index() * kCount) * 64 * kGroupBytes;
    FA_UNROLL
    for (int k = 0; k < kGroups; k += kStepGroups) {
      const uint64_t b = matrix_descriptor(source + static_cast<SharedAddress>(k) * kPitch, kPitch, 8 * kGroupBytes);
      FA_UNROLL
      for (int t = 0; t < kCount; ++t) {
        const SharedAddress a = weights + static_cast<SharedAddress>(k) * kRowBytes + t * 64 * kGroupBytes;
        wgmma<T, Shape::kColumns>(sums[t], matrix_descriptor(a, kRowBytes, 8 * kGroupBytes), b, accumulate || k > 0);
      }
    }
    wgmma_commit();
    if constexpr (Faults::kReleaseEarly) release(slot);
    wgmma_wait<1>();
    if (previous >= 0) finished(previous);
    previous = static_cast<int>(slot);
    next_slot();
  }

  FA_DEVICE void finish(int previous) {
    wgmma_wait<0>();
    finished(previous);
  }
  FA_DEVICE void finished(int done) {
    if constexpr (!Faults::kReleaseEarly) release(static_cast<uint32_t>(done));
  }
  // One arrival of this warpgroup at every block of the cluster.
  FA_DEVICE void release(uint32_t done) {
    const int thread = thread_index() % 128;
    if constexpr (kCluster > 1) {
      if (thread < kCluster) mbarrier_arrive_cluster(empty + 8 * done, static_cast<uint32_t>(thread));
    } else {
      if (thread == 0) mbarrier_arrive(empty + 8 * done);
    }
  }

  // Sums of 64 channels, 16 of this warp from `to` on: plus bias, then either ReLU, or plus what is there. A warp turns
  // 8x8 matrices around: a thread has neighbouring positions of one channel, memory neighbouring channels.
  template <SharedAddress kPitch, bool kResidual>
  FA_DEVICE void store(Sums& sums, SharedAddress to, const float* bias) {
    constexpr int kBlocks = Shape::kColumns / 8;  // of positions
    const int lane = lane_index();
    const float biases[2] = {load_global_constant(bias + lane / 4), load_global_constant(bias + lane / 4 + 8)};
    const SharedAddress row =
        to + static_cast<SharedAddress>(lane / 8 % 2) * kPitch + static_cast<SharedAddress>(lane % 8 * kGroupBytes);
    const SharedAddress second = static_cast<SharedAddress>(lane / 16 * 8 * kGroupBytes);
    FA_UNROLL
    for (int j = 0; j + 1 < kBlocks; j += 2) {
      store_matrices<4, kResidual>(sums, j, row + second + static_cast<SharedAddress>(j * 8 * kGroupBytes), biases);
    }
    if constexpr (kBlocks % 2 == 1) {
      constexpr int kLast = kBlocks - 1;
      store_matrices<2, kResidual>(sums, kLast, row + static_cast<SharedAddress>(kLast * 8 * kGroupBytes), biases);
    }
  }

  // X matrices from block j of positions on: matrix i has channels 8 (i % 2) and eight more, positions 8 (i / 2) ….
  template <int X, bool kResidual>
  FA_DEVICE void store_matrices(Sums& sums, int j, SharedAddress row, const float (&biases)[2]) {
    uint32_t pairs[X];
    if constexpr (kResidual) load_matrix_transposed(row, pairs);
    FA_UNROLL
    for (int i = 0; i < X; ++i) {
      float value[2];
      FA_UNROLL
      for (int k = 0; k < 2; ++k) value[k] = add(sums[4 * j + 2 * i + k], biases[i % 2]);
      if constexpr (kResidual) {
        const Float2 before = unpack2<T>(pairs[i]);
        value[0] = add(value[0], before.x);
        value[1] = add(value[1], before.y);
      } else {
        FA_UNROLL
        for (int k = 0; k < 2; ++k) value[k] = Numbers<T>::relu(value[k]);
      }
      const int position = 8 * (j + i / 2) + lane_index() % 4 * 2;
      FA_UNROLL
      for (int k = 0; k < 2; ++k) value[k] = position + k < Shape::kPositions ? value[k] : 0.0f;
      pairs[i] = pack2<T>(value[0], value[1]);
    }
    store_matrix_transposed(row, pairs);
  }

  FA_DEVICE void write(int image) {
    const int count = params.groups * Shape::kPositions;
    for (int i = thread_index(); i < count; i += kConsumers) {
      const int group = i / Shape::kPositions, position = i % Shape::kPositions;
      const Vec16 values = load_shared<Vec16>(stream + static_cast<SharedAddress>(group) * kStreamGroup +
                                              static_cast<SharedAddress>(position * kGroupBytes));
      const int64_t at = map_index(image, group, position, params.groups, Shape::kPositions);
      if (params.dst != nullptr) store_global(reinterpret_cast<Vec16*>(params.dst) + at, values);
      if (params.floats == nullptr) continue;
      store_floats(image, 2 * group, position, values.x, values.y);
      if (2 * group + 1 < params.floats_groups) store_floats(image, 2 * group + 1, position, values.z, values.w);
    }
  }

  FA_DEVICE void store_floats(int image, int group, int position, uint32_t low, uint32_t high) const {
    const Float2 a = unpack2<T>(low), b = unpack2<T>(high);
    const int64_t at = map_index(image, group, position, params.floats_groups, Shape::kPositions);
    store_global(reinterpret_cast<Float4*>(params.floats) + at, Float4{{a.x, a.y, b.x, b.y}});
  }

  const Params& params;
  // In shared memory; `map` is the middle map's first position, between its guards.
  const SharedAddress stream, middle, map, ring, saved, full, empty, loaded;
  uint32_t slot = 0, parity = 0;
};

}  // namespace faceattr::cuda
