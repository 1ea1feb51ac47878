// Where the positions of a tile lie.
#pragma once

#include <cstdint>

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// Positions of a tile, of which there are two kinds: next to each other in a row, which is quick to compute with, and
// such that go on in the next row.
class InRow {
 public:
  InRow(int first, int width) : row_(first / width), column_(first % width) {}
  // From position (0, 0) to position r of the tile.
  [[gnu::always_inline]] std::int64_t offset(int r, std::int64_t row_pitch, std::int64_t pixel_pitch) const {
    return row_ * row_pitch + (column_ + r) * pixel_pitch;
  }

 private:
  std::int64_t row_, column_;
};

template <int kSize>
class Scattered {
 public:
  Scattered(int first, int width) {
    rows_[0] = first / width;
    columns_[0] = first % width;
    for (int r = 1; r < kSize; ++r) {
      const bool wraps = columns_[r - 1] + 1 == width;
      rows_[r] = rows_[r - 1] + (wraps ? 1 : 0);
      columns_[r] = wraps ? 0 : columns_[r - 1] + 1;
    }
  }
  [[gnu::always_inline]] std::int64_t offset(int r, std::int64_t row_pitch, std::int64_t pixel_pitch) const {
    return rows_[r] * row_pitch + columns_[r] * pixel_pitch;
  }

 private:
  std::int64_t rows_[kSize], columns_[kSize];
};

}  // namespace
}  // namespace faceattr::cpu
