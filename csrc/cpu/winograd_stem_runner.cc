#include <algorithm>

#include "cpu/pack.h"
#include "cpu/stem_strip.h"

namespace faceattr::cpu {
namespace {

// Rows of transformed pixels that are kept: a row of tiles reads 13, the next one shares 5 of them.
constexpr int kRing = 16;
static_assert(kRing >= kStemTileInputs);

}  // namespace

WinogradStemRunner::WinogradStemRunner(const WinogradStemPhase& phase, const Layout& layout)
    : kernel_(&best(kernel_lists().StemWinograd, layout.features)),
      size_(layout.plan.pixels),
      shape_(layout.plan.tensors[phase.dst]),
      dst_(layout.memory.maps[phase.dst]) {
  static_assert(kWinogradStemProducts == kStemProducts);
  panels_ = panel_count(shape_.channels, kernel_->panel);
  tiles_ = (shape_.width + 1) / 2;
  tile_pitch_ = stem_tile_pitch(tiles_);
  weights_ = pack_panels(phase.weight, shape_.channels, kStemProducts, kernel_->panel);
  bias_ = pack_bias(phase.bias, kernel_->panel);
  for (int c = 0; c < kRgb; ++c) {
    mean_[c] = layout.plan.mean[c];
    inverse_scale_[c] = 1.0f / layout.plan.scale[c];
  }
}

std::size_t WinogradStemRunner::scratch_floats(int) const {
  const std::size_t products = kStemTilePoints * kStemTilePoints * kernel_->block * kernel_->panel;
  return kRing * stem_row_floats(tile_pitch_) + stem_row_scratch(tile_pitch_) + kStemProducts * tile_pitch_ + products;
}

bool WinogradStemRunner::load_row(const Pixels& pixels, std::int64_t image, int y, float* scratch, float* dst) const {
  if (y < 0 || y >= size_) {  // padding is zero after normalisation, whatever the mean; so are sums of it
    std::fill_n(dst, stem_row_floats(tile_pitch_), 0.0f);
    return true;
  }
  const PixelRow row = pixel_row(pixels, image, size_, y);
  const StemRowArgs args = {size_, tiles_, tile_pitch_, mean_, inverse_scale_, scratch, dst};
  if (row.u8 == nullptr) return kernel_->load_f32(args, row.red, row.green, row.blue);
  kernel_->load_u8(args, row.u8);
  return true;
}

bool WinogradStemRunner::run(const Pixels& pixels, std::int64_t image, const ImageMemory& memory,
                             const Team& team) const {
  clear_border(dst_, shape_, memory.arena, team);
  const std::int64_t row_floats = stem_row_floats(tile_pitch_);
  float* const ring = memory.scratch;
  float* const row_scratch = ring + kRing * row_floats;
  StemTilesArgs args;
  args.tiles = tiles_;
  args.tile_pitch = tile_pitch_;
  args.transformed = row_scratch + stem_row_scratch(tile_pitch_);
  args.products = args.transformed + kStemProducts * tile_pitch_;
  args.weights = weights_.data();
  args.bias = bias_.data();
  args.out_channels = shape_.channels;
  args.columns = shape_.width;
  args.row_pitch = dst_.row_pitch;
  args.pixel_pitch = dst_.pixel_pitch;
  const auto place = [&](int y) { return ring + (y + kRing) % kRing * row_floats; };
  const Team::Range rows = team.share((shape_.height + 1) / 2);
  bool finite = true;
  int loaded = kStemTileStep * static_cast<int>(rows.begin) - kStemPad;
  for (int row = static_cast<int>(rows.begin); row < rows.end; ++row) {
    const int begin = kStemTileStep * row - kStemPad, y = 2 * row;
    for (; loaded < begin + kStemTileInputs; ++loaded) {
      finite &= load_row(pixels, image, loaded, row_scratch, place(loaded));
    }
    for (int i = 0; i < kStemTileInputs; ++i) args.inputs[i] = place(begin + i);
    kernel_->transform(args);
    args.rows = std::min(2, shape_.height - y);
    if (shape_.narrow()) {
      args.bfloat16 = narrow(memory.arena) + dst_.narrow_interior() + y * dst_.row_pitch;
    } else {
      args.floats = memory.arena + dst_.interior() + y * dst_.row_pitch;
    }
    for (int panel = 0; panel < panels_; ++panel) kernel_->run(args, panel);
  }
  return finite;
}

}  // namespace faceattr::cpu
