// The stem on warpgroup products: 7x7 convolution at stride 2, bias, ReLU and 2x2 max pool, of float16 or bfloat16.
//
// Pixels lie in shared memory as kernels/stem_pixels.h puts them: four values a position, so the window of the next
// convolution column begins 16 bytes further. wgmma's second operand takes them as they are: row n of a core matrix is
// the chunk 16 n bytes on, and the next chunk of K is 16 bytes on as well. Strides of 16 and 128 bytes in the
// descriptor let windows overlap; nothing is copied.
//
// Rows of the first operand are 32 channels of both convolution rows under a pooled row: of its 64 rows, 16 w + 8 p + g
// is channel 8 w + g of convolution row p. Both read nine rows of pixels (with zeros where a row is not theirs): K = 9
// rows x 8 positions x 4 values = 288, of which 147 count. Then a pooled value's four sums are four neighbouring
// registers of one thread.
#pragma once

#include "cuda/hopper/params.h"
#include "cuda/kernels/stem_pixels.h"
#include "cuda/primitives_sm90.h"

namespace faceattr::cuda {

// kColumns: of the convolution, of a block; N of a product.
template <class T, int kColumns>
struct WgmmaStem : private StemPixels<T, 1> {
  using Params = StemParams;
  static constexpr const char* kName = "wgmma_stem";
  static constexpr int kMaxThreads = kWgmmaStemThreads;
  static constexpr int kMinBlocks = 2;

  static FA_DEVICE void run(const Params& params) {
    dependency_trigger();
    WgmmaStem stem(params);
    stem.load_weights();
    dependency_wait();
    stem.load_pixels();
    fence_async();
    sync_block();
    stem.write_flag();
    stem.convolve();
  }

 private:
  using Pixels = StemPixels<T, 1>;
  using Pixels::first_channel, Pixels::first_column, Pixels::first_row, Pixels::image, Pixels::params, Pixels::pitch,
      Pixels::pixels;
  static constexpr int kPooledColumns = kColumns / 2;
  static constexpr int kWarpBytes = kPooledColumns * kGroupBytes;  // eight channels of a pooled row

  explicit FA_DEVICE WgmmaStem(const Params& p)
      : Pixels(p, shared_base() + kWgmmaStemHeadBytes + kMaxThreads / 32 * kWarpBytes, wgmma_stem_pitch(kColumns)),
        weights(shared_base()),
        barrier(weights + kWgmmaStemWeightBytes),
        pooled(shared_base() + kWgmmaStemHeadBytes + static_cast<SharedAddress>(warp_index() * kWarpBytes)) {}

  FA_DEVICE void load_weights() {
    if (thread_index() != 0) return;
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
    mbarrier_arrive_expect(barrier, kWgmmaStemWeightBytes);
    copy_bulk(weights, params.weights + static_cast<int64_t>(first_channel / kStemChannels) * kWgmmaStemWeightBytes,
              kWgmmaStemWeightBytes, barrier);
  }

  FA_DEVICE void convolve() {
    mbarrier_wait(barrier, 0);
    const int side = params.size / 4;
    // Both warpgroups go round equally often, for the compiler to see that none diverges: it would wait for every
    // single product otherwise. One without a row of its own computes the last again.
    FA_NO_UNROLL
    for (int i = 0; i < params.strip_rows; i += kMaxThreads / 128) {
      const int own = i + warpgroup_index(), row = own < params.strip_rows ? own : params.strip_rows - 1;
      float sums[kColumns / 2];
      multiply(sums, row);
      pool(sums);
      sync_warp();
      if (own == row && first_row + row < side) store(first_row + row, side);
      sync_warp();  // before the next row takes the place
    }
  }

  FA_DEVICE void multiply(float (&sums)[kColumns / 2], int row) {
    const SharedAddress line = static_cast<SharedAddress>(pitch * 8);
    const SharedAddress window = pixels + static_cast<SharedAddress>(4 * row) * line;
    wgmma_fence();
    FA_NO_UNROLL
    for (int r = 0; r < kWgmmaStemRows; ++r) {
      FA_UNROLL
      for (int half = 0; half < 2; ++half) {  // four positions each
        const SharedAddress a = weights + static_cast<SharedAddress>((4 * r + 2 * half) * 64 * kGroupBytes);
        const SharedAddress b = window + static_cast<SharedAddress>(r) * line + half * 2 * kGroupBytes;
        wgmma<T, kColumns>(sums, matrix_descriptor(a, 64 * kGroupBytes, 8 * kGroupBytes),
                           matrix_descriptor(b, kGroupBytes, 8 * kGroupBytes), r + half > 0);
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
  }

  // A thread has pooled columns 4 j + t of one channel, j from 0 on. Those of j and j + 1 are rows 2 t and 2 t + 1 of a
  // matrix that is stored the other way round, eight channels of a position in a row.
  FA_DEVICE void pool(const float (&sums)[kColumns / 2]) const {
    const int lane = lane_index();
    const int channel = first_channel + warp_index() % 4 * 8 + lane / 4;
    const float* const bias = static_cast<const float*>(params.store.bias);
    const float own = channel < params.padded_channels ? load_global_constant(bias + channel) : 0.0f;
    FA_UNROLL
    for (int j = 0; j < kColumns / 8; j += 2) {
      float value[2];
      FA_UNROLL
      for (int k = 0; k < 2; ++k) {
        const int at = 4 * (j + k);
        const float most = maximum(maximum(sums[at], sums[at + 1]), maximum(sums[at + 2], sums[at + 3]));
        value[k] = Numbers<T>::relu(add(most, own));
      }
      const uint32_t pair[1] = {pack2<T>(value[0], value[1])};
      const int column = 4 * (j + lane % 2) + lane % 8 / 2;
      store_matrix_transposed(pooled + static_cast<SharedAddress>(column * kGroupBytes), pair);
    }
  }

  FA_DEVICE void store(int row, int side) const {
    const int group = first_channel / 8 + warp_index() % 4;
    if (group >= params.store.narrow_groups) return;
    for (int i = lane_index(); i < params.columns && first_column + i < side; i += 32) {
      const int64_t at =
          map_index(image, group, row * side + first_column + i, params.store.narrow_groups, params.store.positions);
      store_global(reinterpret_cast<Vec16*>(params.store.narrow) + at,
                   load_shared<Vec16>(pooled + static_cast<SharedAddress>(i * kGroupBytes)));
    }
  }

  const SharedAddress weights, barrier, pooled;
};

}  // namespace faceattr::cuda
