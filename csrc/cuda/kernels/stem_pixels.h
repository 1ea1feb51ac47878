// The pixels under a strip of pooled rows, normalised, in shared memory: what stems share.
//
// Rows of four 16-bit values per position, the fourth zero. Two positions are 16 bytes and the stride is two positions,
// so eight positions of one tap row, under each convolution column in turn, are read where they lie.
#pragma once

#include "cuda/kernels/numbers.h"

namespace faceattr::cuda {

// Out: Float16, Bfloat16 (with one part), Integer8.
template <class Out, int kParts>
class StemPixels {
 protected:
  static constexpr bool kIntegers = std::is_same_v<Out, Integer8>;
  using In = std::conditional_t<kIntegers, Float16, Out>;

  // Flags of the warps, then `pitch` positions a row, from `at` on.
  FA_DEVICE StemPixels(const StemParams& p, SharedAddress at, int row_positions)
      : params(p), pitch(row_positions), rows(stem_input_rows(p.strip_rows)), flags(at), pixels(at + kStemFlagBytes) {
    int rest = block_index().x;
    first_channel = rest % p.channel_tiles * kStemChannels;
    rest /= p.channel_tiles;
    first_column = rest % p.column_tiles * p.columns;
    rest /= p.column_tiles;
    first_row = rest % p.strips * p.strip_rows;
    image = rest / p.strips;
  }

  // Four positions at a time, from multiples of four: the first position in shared memory is one after such a multiple.
  FA_DEVICE void load_pixels() {
    const int left = 4 * first_column - kStemPad - 1, top = 4 * first_row - kStemPad;
    const int groups = divide_up(pitch + 1, 4);
    bool fits = true;
    for (int i = thread_index(); i < rows * groups; i += block_threads()) {
      const int row = i / groups, first = i % groups * 4;
      const int y = top + row, x = left + first;
      float value[4][3] = {};
      // A multiple of four positions wide: four are inside or outside together.
      if (y >= 0 && y < params.size && x >= 0 && x < params.size) fits &= load_four(y, x, value);
      FA_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int at = first + j - 1;
        if (at >= 0 && at < pitch) store_pixel(row * pitch + at, value[j]);
      }
    }
    uint32_t bad = fits ? 0 : 1;
    FA_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) bad |= shuffle_xor(bad, mask);
    if (lane_index() == 0) store_shared(flag(warp_index()), bad);
  }

  // Returns whether the format holds them.
  FA_DEVICE bool load_four(int y, int x, float (&value)[4][3]) const {
    const int64_t row = static_cast<int64_t>(image) * params.size + y;
    bool fits = true;
    if (params.u8) {
      const uint32_t* from =
          reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(params.pixels) + (row * params.size + x) * 3);
      const uint32_t words[3] = {load_global(from), load_global(from + 1), load_global(from + 2)};
      FA_UNROLL
      for (int i = 0; i < 12; ++i) {
        const float byte = static_cast<float>(words[i / 4] >> (i % 4 * 8) & 0xff);
        value[i / 3][i % 3] = multiply(add(byte, -params.mean[i % 3]), params.factor[i % 3]);
      }
    } else {
      FA_UNROLL
      for (int c = 0; c < 3; ++c) {
        const int64_t plane = (static_cast<int64_t>(image) * 3 + c) * params.size + y;
        const float* from = static_cast<const float*>(params.pixels) + plane * params.size + x;
        const Float4 four = load_global(reinterpret_cast<const Float4*>(from));
        FA_UNROLL
        for (int j = 0; j < 4; ++j) {
          value[j][c] = multiply(four.v[j], params.gain[c]);
          const float judged = kIntegers ? four.v[j] : value[j][c];  // integers of any finite number are clamped
          const float limit = kIntegers ? FormatRange<Float32>::kLimit : FormatRange<In>::kLimit;
          fits &= judged < limit && judged > -limit;
        }
      }
    }
    return fits;
  }

  FA_DEVICE void store_pixel(int at, const float (&value)[3]) const {
    const SharedAddress to = pixels + static_cast<SharedAddress>(at * 8);
    if constexpr (!kIntegers) {
      store_shared(to, Pairs2{pack2<In>(value[0], value[1]), pack2<In>(value[2], 0.0f)});
    } else {
      int32_t q[3];
      FA_UNROLL
      for (int c = 0; c < 3; ++c) q[c] = round_to_int(minimum(maximum(value[c], -32767.0f), 32767.0f));
      if constexpr (kParts == 1) {
        store_shared(to, integers(q[0], q[1], q[2]));
      } else {
        store_shared(to, integers(q[0] & 255, q[1] & 255, q[2] & 255));
        store_shared(to + part_bytes(), integers(q[0] >> 8, q[1] >> 8, q[2] >> 8));
      }
    }
  }
  static FA_DEVICE Pairs2 integers(int32_t a, int32_t b, int32_t c) {
    return {pack2<In>(static_cast<float>(a), static_cast<float>(b)), pack2<In>(static_cast<float>(c), 0.0f)};
  }
  FA_DEVICE SharedAddress part_bytes() const { return static_cast<SharedAddress>(rows * pitch * 8); }
  FA_DEVICE SharedAddress flag(int warp) const { return flags + static_cast<SharedAddress>(4 * warp); }

  FA_DEVICE void write_flag() const {
    if (params.flags == nullptr || first_channel != 0 || thread_index() != 0) return;
    uint32_t bad = 0;
    for (int warp = 0; warp < block_threads() / 32; ++warp) bad |= load_shared<uint32_t>(flag(warp));
    const int tile = first_row / params.strip_rows * params.column_tiles + first_column / params.columns;
    store_global(params.flags + image * params.strips * params.column_tiles + tile, bad);
  }

  const StemParams& params;
  int image, first_row, first_column, first_channel;
  const int pitch, rows;
  const SharedAddress flags, pixels;
};

}  // namespace faceattr::cuda
