// Programs on the emulator: running them, and their error.
#pragma once

#include <cmath>
#include <memory>
#include <random>

#include "cuda/emulator/machine.h"
#include "cuda/program.h"
#include "plan_reference.h"

namespace faceattr::test {

using cuda::Program;
using cuda::Target;
using cuda::emulator::GlobalArray;

struct Outputs {
  std::vector<std::vector<float>> values;  // by output, all images
};

template <class Pixel>
Outputs run(const Program& program, const std::vector<Pixel>& pixels, int images) {
  GlobalArray<std::byte> weights(program.weights()), workspace(program.workspace_bytes(images));
  GlobalArray<Pixel> input(pixels);
  std::vector<std::unique_ptr<GlobalArray<float>>> outputs;
  std::vector<float*> pointers;
  for (const Output& output : program.outputs()) {
    outputs.push_back(std::make_unique<GlobalArray<float>>(program.output_floats(output) * images));
    pointers.push_back(outputs.back()->data());
  }
  cuda::Call call;
  call.weights = weights.data();
  call.workspace = workspace.data();
  call.pixels = input.data();
  call.u8 = sizeof(Pixel) == 1;
  call.outputs = pointers.data();
  call.images = images;
  program.enqueue(call);
  Outputs result;
  for (const auto& output : outputs) result.values.push_back(output->values());
  return result;
}

inline std::vector<std::uint8_t> random_pixels(std::size_t count, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<std::uint8_t> pixels(count);
  for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(generator());
  return pixels;
}

// Of one image, HWC.
inline std::vector<double> normalised(const Plan& plan, const std::uint8_t* pixels) {
  std::vector<double> values(static_cast<std::size_t>(plan.pixels) * plan.pixels * 3);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = (pixels[i] - static_cast<double>(plan.mean[i % 3])) / plan.scale[i % 3];
  }
  return values;
}

inline Plan with_format(Plan plan, Format format) {
  const std::vector<TensorKind> kinds = check(plan);
  for (std::size_t t = 0; t < plan.tensors.size(); ++t) {
    if (kinds[t] == TensorKind::kMap) plan.tensors[t].format = format;
  }
  return plan;
}

// By image and tensor.
using Expectation = std::vector<std::vector<std::vector<double>>>;

inline Expectation expectation(const Plan& plan, const std::vector<std::uint8_t>& pixels, int images) {
  Expectation all;
  for (int image = 0; image < images; ++image) {
    all.push_back(reference(plan, normalised(plan, pixels.data() + pixels.size() / images * image)));
  }
  return all;
}

// The largest relative error of an output: ||out - ref|| / ||ref||.
inline double error(const Plan& plan, const Outputs& outputs, const Expectation& expectation, int images) {
  double worst = 0;
  std::vector<double> difference(plan.outputs.size()), norm(plan.outputs.size());
  for (int image = 0; image < images; ++image) {
    const auto& expected = expectation[image];
    for (std::size_t o = 0; o < plan.outputs.size(); ++o) {
      const Output& output = plan.outputs[o];
      const int channels = plan.tensors[output.tensor].channels;
      const std::size_t positions = expected[output.tensor].size() / channels;
      for (std::size_t p = 0; p < positions; ++p) {
        for (int c = 0; c < output.count; ++c) {
          const double value = outputs.values[o][(image * positions + p) * output.count + c];
          const double wanted = expected[output.tensor][p * channels + output.start + c];
          difference[o] += (value - wanted) * (value - wanted);
          norm[o] += wanted * wanted;
        }
      }
    }
  }
  for (std::size_t o = 0; o < norm.size(); ++o) {
    const double relative = std::sqrt(difference[o] / norm[o]);
    worst = relative > worst || std::isnan(relative) ? relative : worst;
  }
  return worst;
}

}  // namespace faceattr::test
