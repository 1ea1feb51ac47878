// A plan made ready to launch: packed weights, places in memory, and all of each launch that does not depend on the
// batch or on addresses.
#pragma once

#include <cstddef>
#include <optional>
#include <variant>
#include <vector>

#include "cuda/hopper/resident_run.h"
#include "cuda/hopper/row_conv_phase.h"
#include "cuda/kernels/params.h"
#include "cuda/memory.h"
#include "cuda/packing.h"
#include "plan/phase.h"

namespace faceattr::cuda {

// Offsets are of packed weights.
struct StemLaunch {
  StemParams params = {};
  Format format = Format::kFloat;
  int dst = 0, parts = 1;  // of pixels as float32
  int parts_u8 = 1;
  bool first = true;   // of the plan's stems: it writes the flags
  bool wgmma = false;  // by hopper/wgmma_stem.h
  std::size_t weights = 0, bias = 0, multiplier = 0;
};

struct ConvLaunch {
  PackedConv packed;
  ConvParams params = {};
  Format format = Format::kFloat;
  int channels = 0;
  int floats = -1, narrow = -1, residual = -1;  // tensors
  std::size_t bias = 0, multiplier = 0, inverse = 0;
  bool has_multiplier = false, has_inverse = false;
  std::optional<RowConvPhase> rows;  // the same by hopper/row_conv.h
};

struct MeansLaunch {
  MeansParams params = {};
  Format format = Format::kFloat;
  int src = 0, dst = 0;
  std::size_t scale = 0;
};

struct LinearLaunch {
  LinearParams params = {};
  int dst = 0;
  std::size_t weights = 0, bias = 0;
  std::vector<int> slices;  // outputs that it writes
};

struct QuantizeLaunch {
  int src = 0, dst = 0;
  std::size_t inverse = 0;
};

using PhaseLaunch = std::variant<StemLaunch, ConvLaunch, MeansLaunch, LinearLaunch, QuantizeLaunch>;

// Phases that hopper/resident_blocks.h runs as one, where a batch is large enough.
struct ResidentLaunch {
  ResidentRun run;
  PackedResident packed;
};

struct Prepared {
  Plan plan;
  std::vector<TensorKind> kinds;
  Memory memory;
  Packing packing;
  std::vector<PhaseLaunch> phases;  // as the plan's
  std::vector<ResidentLaunch> residents;
  std::vector<std::vector<int>> gathered;  // by phase: outputs that are copied behind it
  std::vector<std::size_t> output_scale;   // by output, of integers
  int max_images = 0;                      // of a batch
  int first_stem = -1;                     // the phase that writes the flags
};

// Throws std::invalid_argument, naming the phase, where no kernel computes the plan.
Prepared prepare(Plan plan, bool hopper_kernels);

}  // namespace faceattr::cuda
