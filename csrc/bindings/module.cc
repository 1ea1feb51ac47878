// The module _core: plans, the engine of the CPU, and where nvcc built it, that of CUDA.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "bindings/arrays.h"
#if defined(FACEATTR_CUDA)
#include "bindings/cuda.h"
#endif
#include "cpu/cpu_features.h"
#include "cpu/dispatch.h"
#include "engine.h"

namespace py = pybind11;

namespace {

using faceattr::Engine;
using faceattr::Format;
using faceattr::Plan;
using FloatArray = py::array_t<float, py::array::c_style>;
using Int8Array = py::array_t<std::int8_t, py::array::c_style>;
using Int16Array = py::array_t<std::int16_t, py::array::c_style>;
using UInt16Array = py::array_t<std::uint16_t, py::array::c_style>;
using Int32Array = py::array_t<std::int32_t, py::array::c_style>;

template <class Value>
std::vector<Value> to_vector(const py::array_t<Value, py::array::c_style>& array) {
  return {array.data(), array.data() + array.size()};
}

Format float_format(const std::string& name) {
  if (name == "float32") return Format::kFloat;
  if (name == "bfloat16") return Format::kBfloat16;
  if (name == "float16") return Format::kHalf;
  throw py::value_error("unknown format of floats: " + name);
}

std::vector<float*> to_outputs(const Engine& engine, const std::vector<py::array>& arrays, std::int64_t images) {
  std::vector<std::int64_t> floats;
  for (const faceattr::Output& output : engine.executor().outputs()) {
    floats.push_back(engine.executor().output_floats(output));
  }
  return faceattr::bindings::output_pointers(arrays, floats, images);
}

faceattr::cpu::Pixels to_pixels(const faceattr::bindings::HostPixels& host) {
  faceattr::cpu::Pixels pixels;
  if (host.u8) {
    pixels.u8 = static_cast<const std::uint8_t*>(host.data);
  } else {
    pixels.f32 = static_cast<const float*>(host.data);
  }
  return pixels;
}

// An engine and the side of the images that it takes. The plan's phases move into it.
struct BoundEngine {
  BoundEngine(Plan& plan, const std::string& isa, int threads)
      : size(plan.pixels), engine(std::move(plan), isa, threads) {}
  int size;
  Engine engine;
};

void run(const BoundEngine& self, const py::array& pixels, const std::vector<py::array>& outputs) {
  const auto host = faceattr::bindings::check_pixels(pixels, self.size);
  const auto pointers = to_outputs(self.engine, outputs, host.images);
  py::gil_scoped_release release;
  self.engine.run(to_pixels(host), host.images, pointers.data());
}

py::object run_plain(const BoundEngine& self, const py::array& pixels) {
  const auto host = faceattr::bindings::plain_pixels(pixels, self.size);
  if (!host) return py::none();
  py::list results;
  std::vector<float*> pointers;
  for (const faceattr::Output& output : self.engine.executor().outputs()) {
    std::vector<py::ssize_t> shape = {host->images};
    for (const int side : self.engine.executor().output_shape(output)) shape.push_back(side);
    py::array_t<float> result(std::move(shape));
    pointers.push_back(result.mutable_data());
    results.append(std::move(result));
  }
  {
    py::gil_scoped_release release;
    self.engine.run(to_pixels(*host), host->images, pointers.data());
  }
  return results;
}

// Memory that was freed and that the allocator keeps goes back to the system, where the allocator has a call for it.
void trim_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The C++ engine: runs a plan on the CPU.";

  faceattr::bindings::translate_to_device_error<faceattr::cpu::DeviceError>();

  m.def(
      "detected_isa", [] { return faceattr::cpu::describe_features(faceattr::cpu::detected_features()); },
      "Instruction sets of this machine, such as 'avx2+avx512'.");
  m.def(
      "isa_levels",
      [] {
        std::vector<std::string> names;
        for (const auto& level : faceattr::cpu::isa_levels()) names.emplace_back(level.name);
        return names;
      },
      "Names that FACEATTR_ISA may have, lowest first.");

  m.def("trim_memory", &trim_memory, "Give memory that was freed back to the system, where the allocator keeps it.");

  py::class_<Plan>(m, "Plan", "A list of phases; each call appends one.")
      .def(py::init([](int pixels, const std::array<float, 3>& mean, const std::array<float, 3>& scale) {
             Plan plan;
             plan.pixels = pixels;
             std::copy(mean.begin(), mean.end(), plan.mean);
             std::copy(scale.begin(), scale.end(), plan.scale);
             return plan;
           }),
           py::arg("pixels"), py::arg("mean"), py::arg("scale"))
      .def(
          "tensor",
          [](Plan& plan, int height, int width, int channels, const std::string& floats) {
            plan.tensors.push_back({height, width, channels, float_format(floats)});
            return static_cast<int>(plan.tensors.size()) - 1;
          },
          py::arg("height"), py::arg("width"), py::arg("channels"), py::arg("floats") = "float32",
          "Of floats: float32, bfloat16 or float16. Returns the tensor's index.")
      .def(
          "integer_tensor",
          [](Plan& plan, int height, int width, const FloatArray& scale, int low) {
            plan.tensors.push_back(
                {height, width, static_cast<int>(scale.size()), Format::kInteger, to_vector(scale), low});
            return static_cast<int>(plan.tensors.size()) - 1;
          },
          py::arg("height"), py::arg("width"), py::arg("scale").noconvert(), py::arg("low"),
          "Of integers from low to low + 255, each times the scale of its channel. Returns the tensor's index.")
      .def(
          "stem",
          [](Plan& plan, int dst, const FloatArray& weight, const FloatArray& bias) {
            plan.phases.emplace_back(faceattr::StemPhase{dst, to_vector(weight), to_vector(bias)});
          },
          py::arg("dst"), py::arg("weight").noconvert(), py::arg("bias").noconvert(), "weight: [oc, 7, 7, 3].")
      .def(
          "winograd_stem",
          [](Plan& plan, int dst, const FloatArray& weight, const FloatArray& bias) {
            plan.phases.emplace_back(faceattr::WinogradStemPhase{dst, to_vector(weight), to_vector(bias)});
          },
          py::arg("dst"), py::arg("weight").noconvert(), py::arg("bias").noconvert(),
          "The stem by polyphase tiles of 4x4; weight: [oc, 507].")
      .def(
          "segmented_conv",
          [](Plan& plan, int dst, const std::vector<std::tuple<int, int, int, int, int>>& segments,
             const FloatArray& weight, const FloatArray& bias, bool relu, int residual, int copy) {
            faceattr::SegmentedConvPhase phase{dst, {}, to_vector(weight), to_vector(bias), relu, residual, copy};
            for (const auto& [src, start, count, kernel, stride] : segments) {
              phase.segments.push_back({src, start, count, kernel, stride});
            }
            plan.phases.emplace_back(std::move(phase));
          },
          py::arg("dst"), py::arg("segments"), py::arg("weight").noconvert(), py::arg("bias").noconvert(),
          py::arg("relu"), py::arg("residual"), py::arg("copy") = -1,
          "segments: (src, start, count, kernel, stride); weight: [oc, K], K over segments, ky, kx, channel; copy: a "
          "tensor of bfloat16 or -1.")
      .def(
          "winograd_conv",
          [](Plan& plan, int dst, const std::vector<std::array<int, 3>>& segments, int stride, int tile,
             const FloatArray& weight, const std::vector<std::tuple<int, int, int, int, int>>& direct_segments,
             const FloatArray& direct_weight, const FloatArray& bias, bool relu, int residual, int copy) {
            faceattr::WinogradConvPhase phase;
            phase.direct = {dst, {}, to_vector(direct_weight), to_vector(bias), relu, residual, copy};
            for (const auto& [src, start, count, kernel, stride] : direct_segments) {
              phase.direct.segments.push_back({src, start, count, kernel, stride});
            }
            for (const auto& [src, start, count] : segments) phase.segments.push_back({src, start, count, 3, stride});
            phase.weight = to_vector(weight);
            phase.tile = tile;
            plan.phases.emplace_back(std::move(phase));
          },
          py::arg("dst"), py::arg("segments"), py::arg("stride"), py::arg("tile"), py::arg("weight").noconvert(),
          py::arg("direct_segments"), py::arg("direct_weight").noconvert(), py::arg("bias").noconvert(),
          py::arg("relu"), py::arg("residual"), py::arg("copy") = -1,
          "3x3 segments (src, start, count) by Winograd F(tile x tile) at stride 1, polyphase at 2; weight: [filters, "
          "oc, K]; copy as in segmented_conv.")
      .def(
          "quantized_stem",
          [](Plan& plan, int dst, const Int8Array& weight, const Int32Array& bias, const FloatArray& multiplier) {
            plan.phases.emplace_back(
                faceattr::QuantizedStemPhase{dst, to_vector(weight), to_vector(bias), to_vector(multiplier)});
          },
          py::arg("dst"), py::arg("weight").noconvert(), py::arg("bias").noconvert(), py::arg("multiplier").noconvert(),
          "weight: [oc, 7, 7, 3].")
      .def(
          "quantized_conv",
          [](Plan& plan, int dst, const std::vector<std::tuple<int, int, int, int, int>>& segments,
             const Int8Array& weight, const Int32Array& bias, const FloatArray& multiplier, bool relu, int residual,
             int copy, const FloatArray& inverse, const std::vector<std::array<int, 3>>& transformed,
             const Int16Array& transformed_weight, int tile) {
            faceattr::QuantizedConvPhase phase{
                dst,      {},   to_vector(weight), to_vector(bias), to_vector(multiplier), relu,
                residual, copy, to_vector(inverse)};
            for (const auto& [src, start, count, kernel, stride] : segments) {
              phase.segments.push_back({src, start, count, kernel, stride});
            }
            for (const auto& [src, start, count] : transformed) phase.transformed.push_back({src, start, count, 3, 1});
            phase.transformed_weight = to_vector(transformed_weight);
            phase.tile = tile;
            plan.phases.emplace_back(std::move(phase));
          },
          py::arg("dst"), py::arg("segments"), py::arg("weight").noconvert(), py::arg("bias").noconvert(),
          py::arg("multiplier").noconvert(), py::arg("relu"), py::arg("residual"), py::arg("copy"),
          py::arg("inverse").noconvert(), py::arg("transformed"), py::arg("transformed_weight").noconvert(),
          py::arg("tile") = 2,
          "As segmented_conv; copy: a tensor of integers or -1, inverse: its factors; transformed: stride-1 3x3 "
          "segments (src, start, count) by Winograd F(tile x tile), 2 or 4, their weights [points, oc, K].")
      .def(
          "quantize",
          [](Plan& plan, int dst, int src, const FloatArray& inverse) {
            plan.phases.emplace_back(faceattr::QuantizePhase{dst, src, to_vector(inverse)});
          },
          py::arg("dst"), py::arg("src"), py::arg("inverse").noconvert(), "dst: a tensor of integers of src's shape.")
      .def(
          "shifted_means",
          [](Plan& plan, int dst, int src, int kernel, int stride, int start, int count) {
            plan.phases.emplace_back(faceattr::ShiftedMeansPhase{dst, src, kernel, stride, start, count});
          },
          py::arg("dst"), py::arg("src"), py::arg("kernel"), py::arg("stride"), py::arg("start"), py::arg("count"))
      .def(
          "linear_head",
          [](Plan& plan, int dst, const std::vector<std::pair<int, int>>& inputs, const FloatArray& weight,
             const FloatArray& bias) {
            faceattr::LinearHeadPhase phase{dst, {}, to_vector(weight), to_vector(bias)};
            for (const auto& [src, count] : inputs) phase.inputs.push_back({src, count});
            plan.phases.emplace_back(std::move(phase));
          },
          py::arg("dst"), py::arg("inputs"), py::arg("weight").noconvert(), py::arg("bias").noconvert(),
          "inputs: (vector, first channels of it that are read).")
      .def(
          "half_linear_head",
          [](Plan& plan, int dst, const std::vector<std::pair<int, int>>& inputs, const UInt16Array& weight,
             const FloatArray& scale, const FloatArray& bias) {
            faceattr::LinearHeadPhase phase{dst, {}, {}, to_vector(bias), to_vector(weight), to_vector(scale)};
            for (const auto& [src, count] : inputs) phase.inputs.push_back({src, count});
            plan.phases.emplace_back(std::move(phase));
          },
          py::arg("dst"), py::arg("inputs"), py::arg("weight").noconvert(), py::arg("scale").noconvert(),
          py::arg("bias").noconvert(),
          "As linear_head; weight: bits of float16 numbers, finite, in units of scale, a power of two per output.")
      .def(
          "output",
          [](Plan& plan, int tensor, int start, int count) { plan.outputs.push_back({tensor, start, count}); },
          py::arg("tensor"), py::arg("start"), py::arg("count"));

  py::class_<BoundEngine>(m, "Engine", "A plan with packed weights, threads and memory; callable from any thread.")
      .def(py::init<Plan&, const std::string&, int>(), py::arg("plan"), py::arg("isa"), py::arg("threads"),
           "Takes the phases out of the plan, which is of no use afterwards.")
      .def("run", &run, py::arg("pixels"), py::arg("outputs"))
      .def("run_plain", &run_plain, py::arg("pixels"),
           "Results in new arrays; None where the pixels need a closer look, or a copy.")
      .def(
          "profile",
          [](const BoundEngine& self, const py::array& pixels, const std::vector<py::array>& outputs, bool batched) {
            const auto host = faceattr::bindings::check_pixels(pixels, self.size);
            const auto pointers = to_outputs(self.engine, outputs, host.images);
            py::gil_scoped_release release;
            return self.engine.profile(to_pixels(host), host.images, pointers.data(), batched);
          },
          py::arg("pixels"), py::arg("outputs"), py::arg("batched") = false,
          "Seconds of each phase, summed over the images; batched: over the calling thread's share, images dealt as "
          "run does.")
      .def_property_readonly("kernels", [](const BoundEngine& self) { return self.engine.executor().kernels(); })
      .def_property_readonly(
          "first_grouped", [](const BoundEngine& self) { return self.engine.executor().first_grouped(); },
          "Index of the first phase that a batch runs layer by layer over a group of images; past the last: none.")
      .def_property_readonly(
          "group_images", [](const BoundEngine& self) { return self.engine.executor().group_images(); },
          "Images of such a group, at most.")
      .def_property_readonly("threads", [](const BoundEngine& self) { return self.engine.threads(); })
      .def_property_readonly(
          "isa", [](const BoundEngine& self) { return faceattr::cpu::describe_features(self.engine.features()); })
      .def_property_readonly(
          "weight_bytes",
          [](const BoundEngine& self) { return self.engine.executor().packed_floats() * sizeof(float); })
      .def_property_readonly("arena_bytes", [](const BoundEngine& self) {
        return self.engine.executor().arena_floats(1) * sizeof(float);
      });

#if defined(FACEATTR_CUDA)
  py::module_ cuda = m.def_submodule("_cuda", "The engine of CUDA.");
  faceattr::bindings::bind_cuda(cuda);
#endif
}
