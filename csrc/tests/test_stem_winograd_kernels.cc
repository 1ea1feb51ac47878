// The stem by tiles on every instruction set that this machine can run, against double: the transforms bit for bit on
// impulses, where each value is one product of factors; sums and outputs bit for bit where a single point is not zero;
// all together within a derived bound on random values.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/bfloat16.h"
#include "check.h"
#include "kernels.h"
#include "winograd_reference.h"

using namespace faceattr;
using namespace faceattr::cpu;
using namespace faceattr::test;

namespace {

constexpr int kPoints = kStemTilePoints;

// What a kernel works in, for a row of `tiles`.
struct Workspace {
  int tiles, pitch = stem_tile_pitch(tiles);
  AlignedBuffer rows{static_cast<std::size_t>(kStemTileInputs) * stem_row_floats(pitch)};
  AlignedBuffer scratch{static_cast<std::size_t>(stem_row_scratch(pitch))};
  AlignedBuffer transformed{static_cast<std::size_t>(kStemProducts) * pitch};
  AlignedBuffer products;

  Workspace(const StemWinogradKernel& kernel, int count)
      : tiles(count), products(static_cast<std::size_t>(kPoints) * kPoints * kernel.block * kernel.panel) {
    for (AlignedBuffer* buffer : {&rows, &scratch, &transformed, &products}) {
      std::fill_n(buffer->data(), buffer->size(), std::numeric_limits<float>::quiet_NaN());  // nothing reads them
    }
  }
  StemRowArgs row_args(int width, int row) {
    StemRowArgs args;
    args.width = width;
    args.tiles = tiles;
    args.tile_pitch = pitch;
    args.scratch = scratch.data();
    args.dst = rows.data() + row * stem_row_floats(pitch);
    return args;
  }
  StemTilesArgs tiles_args() {
    StemTilesArgs args;
    for (int i = 0; i < kStemTileInputs; ++i) args.inputs[i] = rows.data() + i * stem_row_floats(pitch);
    args.tiles = tiles;
    args.tile_pitch = pitch;
    args.transformed = transformed.data();
    args.products = products.data();
    return args;
  }
};

// Of 13 rows of `width` pixels, [channel][row][column], what product i of a tile has as its value: Bᵀ d B, and the same
// of magnitudes.
struct Transformed {
  double value, magnitude;
};
Transformed transformed(const std::vector<float>& planes, int width, int tile, int y, int x, bool odd_row,
                        bool odd_column, int c) {
  const Matrix &rows = stem_matrices(odd_row).bt, &columns = stem_matrices(odd_column).bt;
  Transformed sum = {0, 0};
  for (std::size_t a = 0; a < rows[y].size(); ++a) {
    for (std::size_t b = 0; b < columns[x].size(); ++b) {
      const int row = static_cast<int>(2 * a) + odd_row;
      const int column = kStemTileStep * tile + static_cast<int>(2 * b) + odd_column - kStemPad;
      if (column < 0 || column >= width) continue;
      const double term = rows[y][a] * columns[x][b] * planes[(c * kStemTileInputs + row) * width + column];
      sum.value += term;
      sum.magnitude += std::abs(term);
    }
  }
  return sum;
}

void check_transform(const StemWinogradKernel& kernel, int tiles, int width, bool impulses) {
  std::vector<float> planes = random_values(static_cast<std::size_t>(kRgb) * kStemTileInputs * width, 5);
  if (impulses) {  // no two within reach of one tile
    std::fill(planes.begin(), planes.end(), 0.0f);
    for (int c = 0; c < kRgb; ++c) {
      for (int x = c; x < width; x += 2 * kStemTileStep) {
        const int row = (5 * c + x / (2 * kStemTileStep)) % kStemTileInputs;
        planes[(c * kStemTileInputs + row) * width + x] = x % 2 == 0 ? 1.0f : -2.0f;
      }
    }
  }
  Workspace workspace(kernel, tiles);
  for (int y = 0; y < kStemTileInputs; ++y) {
    const auto plane = [&](int c) { return planes.data() + (c * kStemTileInputs + y) * width; };
    FA_CHECK_MESSAGE(kernel.load_f32(workspace.row_args(width, y), plane(0), plane(1), plane(2)), kernel.name);
  }
  const StemTilesArgs args = workspace.tiles_args();
  kernel.transform(args);
  int product = 0;
  for_each_stem_product([&](int y, int x, bool odd_row, bool odd_column, int c) {
    for (int t = 0; t < tiles; ++t) {
      const Transformed expected = transformed(planes, width, t, y, x, odd_row, odd_column, c);
      const double error = std::abs(args.transformed[product * args.tile_pitch + t] - expected.value);
      FA_CHECK_MESSAGE(error <= (impulses ? 0.0 : bound(2 * kPoints, expected.magnitude)), kernel.name);
    }
    ++product;
  });
  FA_CHECK(product == kStemProducts);
}

// Integers at one point alone: its sum is one, and outputs are that times factors of 9 bits.
void check_products(const StemWinogradKernel& kernel, int tiles, int oc, int row, int column, bool narrow) {
  Workspace workspace(kernel, tiles);
  StemTilesArgs args = workspace.tiles_args();
  const int begin = stem_point_begin(row, column), count = stem_point_products(row, column);
  std::fill_n(args.transformed, workspace.transformed.size(), 0.0f);
  const std::vector<float> value = integers<float>(static_cast<std::size_t>(count) * tiles, 6, -1, 1);
  const std::vector<float> factor = integers<float>(static_cast<std::size_t>(count) * oc, 7, -1, 1);
  std::vector<float> weight(static_cast<std::size_t>(oc) * kStemProducts, 0.0f);
  for (int i = 0; i < count; ++i) {
    std::copy_n(&value[i * tiles], tiles, args.transformed + (begin + i) * args.tile_pitch);
    for (int o = 0; o < oc; ++o) weight[o * kStemProducts + begin + i] = factor[i * oc + o];
  }
  const AlignedBuffer packed = pack_panels(weight, oc, kStemProducts, kernel.panel);
  const AlignedBuffer bias = pack_bias(std::vector<float>(oc, 0.0f), kernel.panel);
  args.weights = packed.data();
  args.bias = bias.data();
  args.out_channels = oc;
  args.rows = 2 - tiles % 2;
  args.columns = 2 * tiles - (oc + tiles) % 2;
  args.pixel_pitch = oc + 3;
  args.row_pitch = args.columns * args.pixel_pitch + 5;
  std::vector<float> floats(2 * args.row_pitch, kCanary);
  std::vector<std::int16_t> bfloat16(2 * args.row_pitch, kIntegerCanary);
  args.floats = narrow ? nullptr : floats.data();
  args.bfloat16 = narrow ? bfloat16.data() : nullptr;
  for (int panel = 0; panel < panel_count(oc, kernel.panel); ++panel) kernel.run(args, panel);

  const Matrix at = stem_matrices(false).at;
  int written = 0;
  for (int y = 0; y < args.rows; ++y) {
    for (int x = 0; x < args.columns; ++x) {
      for (int o = 0; o < oc; ++o, ++written) {
        double sum = 0, most = 0;
        for (int i = 0; i < count; ++i) sum += value[i * tiles + x / 2] * factor[i * oc + o];
        for (int r = 0; r < 4; ++r) {
          most = std::max(most, at[2 * y + r / 2][row] * at[2 * (x % 2) + r % 2][column] * sum);
        }
        const std::int64_t place = y * args.row_pitch + x * args.pixel_pitch + o;
        if (narrow) {
          FA_CHECK_MESSAGE(bfloat16[place] == to_bfloat16(static_cast<float>(most)), kernel.name);
        } else {
          FA_CHECK_MESSAGE(floats[place] == most, kernel.name);
        }
      }
    }
  }
  const auto left = narrow ? std::count(bfloat16.begin(), bfloat16.end(), kIntegerCanary)
                           : std::count(floats.begin(), floats.end(), kCanary);
  FA_CHECK_MESSAGE(left == 2 * args.row_pitch - written, kernel.name);
}

// From bytes and from floats, against the convolution in double. Columns of pixels end where pooled outputs do.
void check_all(const StemWinogradKernel& kernel, int columns, int oc) {
  const int width = 4 * columns, tiles = (columns + 1) / 2;
  const float mean[kRgb] = {120, 127.5, 100}, inverse_scale[kRgb] = {1 / 64.0f, 1 / 80.0f, 1 / 100.0f};
  const auto bytes = integers<std::uint8_t>(static_cast<std::size_t>(kStemTileInputs) * width * kRgb, 8, 0, 255);
  std::vector<float> planes(bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    planes[i % kRgb * kStemTileInputs * width + i / kRgb] = (bytes[i] - mean[i % kRgb]) * inverse_scale[i % kRgb];
  }
  const std::vector<float> weight = random_values(static_cast<std::size_t>(oc) * kStemTaps * kStemRow, 9);
  const std::vector<float> bias = random_values(oc, 10);
  const std::vector<float> factors = transform_stem(weight, oc);
  const AlignedBuffer packed = pack_panels(factors, oc, kStemProducts, kernel.panel);
  const AlignedBuffer packed_bias = pack_bias(bias, kernel.panel);
  std::vector<std::vector<float>> results;
  for (bool from_bytes : {false, true}) {
    Workspace workspace(kernel, tiles);
    for (int y = 0; y < kStemTileInputs; ++y) {
      StemRowArgs row = workspace.row_args(width, y);
      row.mean = mean;
      row.inverse_scale = inverse_scale;
      const auto plane = [&](int c) { return planes.data() + (c * kStemTileInputs + y) * width; };
      from_bytes ? kernel.load_u8(row, bytes.data() + y * width * kRgb)
                 : (void)kernel.load_f32(row, plane(0), plane(1), plane(2));
    }
    StemTilesArgs args = workspace.tiles_args();
    kernel.transform(args);
    args.weights = packed.data();
    args.bias = packed_bias.data();
    args.out_channels = oc;
    args.rows = 2;
    args.columns = columns;
    args.pixel_pitch = oc;
    args.row_pitch = columns * oc;
    results.emplace_back(2 * columns * oc);
    args.floats = results.back().data();
    for (int panel = 0; panel < panel_count(oc, kernel.panel); ++panel) kernel.run(args, panel);
  }
  FA_CHECK_MESSAGE(results[0] == results[1], kernel.name);

  const Matrix at = magnitudes(stem_matrices(false).at);
  for (int o = 0; o < oc; o += std::max(1, oc / 3)) {
    for (int t = 0; t < tiles; ++t) {
      std::vector<double> sizes(kPoints * kPoints, 0.0);  // of the sums at each point
      int product = 0;
      for_each_stem_product([&](int y, int x, bool odd_row, bool odd_column, int c) {
        sizes[y * kPoints + x] += std::abs(factors[o * kStemProducts + product++]) *
                                  transformed(planes, width, t, y, x, odd_row, odd_column, c).magnitude;
      });
      const std::vector<double> magnitude = sandwich(at, sizes);
      for (int y = 0; y < 2; ++y) {
        for (int x = 2 * t; x < std::min(2 * t + 2, columns); ++x) {
          double most = 0, size = 0;
          for (int r = 0; r < 4; ++r) {
            double sum = bias[o];
            for (int i = 0; i < kStemTaps * kStemRow; ++i) {
              const int row = 2 * (2 * y + r / 2) + i / kStemRow, c = i % kRgb;
              const int column = 2 * (2 * x + r % 2) + i % kStemRow / kRgb - kStemPad;
              if (column < 0 || column >= width) continue;
              sum += static_cast<double>(planes[(c * kStemTileInputs + row) * width + column]) *
                     weight[o * kStemTaps * kStemRow + i];
            }
            most = std::max(most, sum);
            size = std::max(size, magnitude[(2 * y + r / 2) * kStemTile + 2 * (x % 2) + r % 2]);
          }
          // Roundings of a pixel's way: two transforms of 2 · 7 steps, a factor, 12 products, the bias.
          const double error = std::abs(results[0][(y * columns + x) * oc + o] - most);
          FA_CHECK_MESSAGE(error <= bound(4 * kPoints + 14, size + std::abs(bias[o])), kernel.name);
        }
      }
    }
  }
}

template <class Check>
void for_each_kernel(const Check& check) {
  const auto kernels = runnable(kernel_lists().StemWinograd);
  FA_CHECK(!kernels.empty());
  for (const StemWinogradKernel* kernel : kernels) check(*kernel);
}

}  // namespace

FA_TEST(transforms_of_the_stems_tiles) {
  for_each_kernel([](const StemWinogradKernel& kernel) {
    for (int tiles : {1, 2, 3, 4, 7, 8, 15, 16, 17, 28, 31, 32, 33}) {
      for (int missing : {0, 4}) {  // pixels, where the last tile has one column of pooled outputs
        check_transform(kernel, tiles, kStemTileStep * tiles - missing, true);
        check_transform(kernel, tiles, kStemTileStep * tiles - missing, false);
      }
    }
  });
}

FA_TEST(products_of_the_stems_tiles) {
  for_each_kernel([](const StemWinogradKernel& kernel) {
    for (int oc : {1, kernel.panel / 2, kernel.panel - 1, kernel.panel, kernel.panel + 3, 2 * kernel.panel}) {
      for (int tiles : {1, 2, kernel.block - 1, kernel.block, kernel.block + 1, 2 * kernel.block}) {
        const int point = (oc + tiles) % (kPoints * kPoints);
        check_products(kernel, tiles, oc, point / kPoints, point % kPoints, false);
        check_products(kernel, tiles, oc, point % kPoints, point / kPoints, true);
      }
    }
    for (int point = 0; point < kPoints * kPoints; ++point) {
      for (bool narrow : {false, true}) {
        check_products(kernel, kernel.block + 2, kernel.panel, point / kPoints, point % kPoints, narrow);
      }
    }
  });
}

FA_TEST(stem_by_tiles) {
  for_each_kernel([](const StemWinogradKernel& kernel) {
    for (int columns : {1, 2, 3, 4, 5, 8, 13, 14, 15, 56}) {
      for (int oc : {1, kernel.panel, kernel.panel + 5}) check_all(kernel, columns, oc);
    }
  });
}

FA_TEST(non_finite_pixels_are_told) {
  for_each_kernel([](const StemWinogradKernel& kernel) {
    for (float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                      std::numeric_limits<float>::quiet_NaN()}) {
      for (int at : {0, 37, 3 * 40 - 1}) {
        Workspace workspace(kernel, 5);
        std::vector<float> planes(3 * 40, std::numeric_limits<float>::max());
        const auto load = [&] {
          return kernel.load_f32(workspace.row_args(40, 0), &planes[0], &planes[40], &planes[80]);
        };
        FA_CHECK_MESSAGE(load(), kernel.name);
        planes[at] = bad;
        FA_CHECK_MESSAGE(!load(), kernel.name);
      }
    }
  });
}
