// Fetching the next panel's weights while the tiles of this one are computed. With one image every weight is used once
// and comes from an outer cache or from memory, whose latency would show.
#pragma once

#include <cstdint>

namespace faceattr::cpu {
namespace {  // internal linkage: each instruction set's object has its own copy

// The last two tiles of a panel fetch half of each row of weights; a single tile, all of it. Past the last panel they
// fetch what nobody needs, which is harmless. The other tiles may fetch something else, a line per row.
enum class Fetch { kNothing, kLine, kHalf, kAll };

// Of the next panel.
inline Fetch fetch_of(int tile, int tiles) {
  if (tiles == 1) return Fetch::kAll;
  return tile + 2 >= tiles ? Fetch::kHalf : Fetch::kNothing;
}

constexpr int kCacheLine = 64;

// Bytes into a row at which a tile's half begins.
template <int kRowBytes>
inline int fetch_begin(int tile, int tiles) {
  return tiles > 1 && tile + 1 == tiles ? kRowBytes / 2 : 0;
}

// To the second-level cache: of memory's lines on their way to the first, a core can wait for few at a time (24 on a
// Zen 4, which is 14 GB/s at 110 ns), and they would displace the panel in use.
template <Fetch kFetch, int kRowBytes>
[[gnu::always_inline]] inline void fetch_row(const char* row) {
  constexpr int kSecondLevel = 2;
  constexpr int kBytes = kFetch == Fetch::kNothing ? 0
                         : kFetch == Fetch::kLine  ? kCacheLine
                         : kFetch == Fetch::kHalf  ? kRowBytes / 2
                                                   : kRowBytes;
#pragma GCC unroll 8
  for (int i = 0; i < kBytes; i += kCacheLine) __builtin_prefetch(row + i, 0, kSecondLevel);
}

}  // namespace
}  // namespace faceattr::cpu
