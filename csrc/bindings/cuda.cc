#include "bindings/cuda.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/dlpack.h"
#include "cuda/engine.h"
#include "cuda/launch_config.h"

namespace faceattr::bindings {
namespace {

using cuda::CudaEngine;
using cuda::DeviceMemory;
using Memory = std::shared_ptr<DeviceMemory>;

cuda::Stream to_stream(std::uintptr_t stream) { return reinterpret_cast<cuda::Stream>(stream); }
std::uintptr_t to_integer(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

// A tensor on its way to somebody else, and the memory that it keeps alive. Its deleter needs no GIL.
template <class Managed>
struct Exported {
  Memory memory;
  std::vector<std::int64_t> shape;
  Managed managed = {};

  static py::capsule make(const Memory& memory, std::size_t offset, std::vector<std::int64_t> shape,
                          std::int32_t device_type, const char* name) {
    auto exported = std::make_unique<Exported>();
    exported->memory = memory;
    exported->shape = std::move(shape);
    const dlpack::Device device = {device_type, device_type == dlpack::kCpu ? 0 : memory->device()};
    exported->managed.tensor = {memory->data() + offset,
                                device,
                                static_cast<std::int32_t>(exported->shape.size()),
                                {2, 32, 1},  // float32
                                exported->shape.data(),
                                nullptr,
                                0};
    exported->managed.context = exported.get();
    exported->managed.deleter = [](Managed* self) { delete static_cast<Exported*>(self->context); };
    PyObject* capsule = PyCapsule_New(&exported->managed, name, [](PyObject* object) {
      // Whoever took it has renamed it, and calls the deleter.
      const char* name = PyCapsule_GetName(object);
      if (std::string(name).rfind("used_", 0) == 0) return;
      auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(object, name));
      managed->deleter(managed);
    });
    if (capsule == nullptr) throw py::error_already_set();
    (void)exported.release();
    return py::reinterpret_steal<py::capsule>(capsule);
  }
};

py::capsule export_memory(const Memory& memory, std::size_t offset, std::vector<std::int64_t> shape,
                          std::int32_t device_type, bool versioned) {
  if (!versioned) {
    return Exported<dlpack::ManagedTensor>::make(memory, offset, std::move(shape), device_type, "dltensor");
  }
  py::capsule capsule =
      Exported<dlpack::VersionedTensor>::make(memory, offset, std::move(shape), device_type, "dltensor_versioned");
  static_cast<dlpack::VersionedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"))->version = {1, 0};
  return capsule;
}

// (address, device type, device, (code, bits, lanes), shape, strides in items or None, read-only); the capsule keeps
// what it has.
py::tuple read_capsule(const py::object& capsule) {
  const dlpack::Tensor* tensor = nullptr;
  bool read_only = false;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    tensor = &static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->tensor;
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto* versioned = static_cast<dlpack::VersionedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (versioned->version.major != 1) throw py::value_error("unknown version of DLPack");
    tensor = &versioned->tensor;
    read_only = (versioned->flags & 1) != 0;
  } else {
    throw py::type_error("expected a DLPack capsule");
  }
  py::object strides = py::none();
  if (tensor->strides != nullptr) {
    strides = py::tuple(py::cast(std::vector<std::int64_t>(tensor->strides, tensor->strides + tensor->ndim)));
  }
  return py::make_tuple(to_integer(tensor->data) + tensor->byte_offset, tensor->device.type, tensor->device.index,
                        py::make_tuple(tensor->dtype.code, tensor->dtype.bits, tensor->dtype.lanes),
                        py::tuple(py::cast(std::vector<std::int64_t>(tensor->shape, tensor->shape + tensor->ndim))),
                        strides, read_only);
}

// An engine and the side of the images that it takes.
struct BoundCudaEngine {
  BoundCudaEngine(const Plan& plan, int device, cuda::Kernels kernels)
      : engine(plan, device, kernels), size(plan.pixels) {}
  std::vector<std::int64_t> output_floats() const {
    std::vector<std::int64_t> floats;
    for (const Output& output : engine.program().outputs()) floats.push_back(engine.program().output_floats(output));
    return floats;
  }
  std::vector<float*> pointers(const std::vector<std::uintptr_t>& outputs) const {
    if (outputs.size() != engine.program().outputs().size()) throw py::value_error("wrong number of outputs");
    std::vector<float*> result;
    for (const std::uintptr_t output : outputs) result.push_back(reinterpret_cast<float*>(output));
    return result;
  }
  CudaEngine engine;
  int size;
};

}  // namespace

void bind_cuda(py::module_& m) {
  translate_to_device_error<cuda::CudaError>();
  translate_to_device_error<cuda::LaunchError>();

  m.attr("emulated") = cuda::kEmulated;
  m.def(
      "devices",
      [] {
        std::string reason;
        std::vector<std::tuple<std::string, int, int>> devices;
        for (int d = 0, count = cuda::device_count(&reason); d < count; ++d) {
          const cuda::DeviceInfo info = cuda::device_info(d);
          devices.emplace_back(info.name, info.major, info.minor);
        }
        return std::pair(devices, reason);
      },
      "Name and compute capability (major, minor) of each device; where there is none, why.");
  m.def(
      "device_of", [](std::uintptr_t pointer) { return cuda::device_of(reinterpret_cast<const void*>(pointer)); },
      py::arg("pointer"), "The device that owns an address; -1: the host.");
  m.def(
      "order_streams",
      [](int device, std::uintptr_t stream, std::uintptr_t other) {
        cuda::order_streams(device, to_stream(stream), to_stream(other));
      },
      py::arg("device"), py::arg("stream"), py::arg("other"),
      "What stream gets from now on comes after what other has now.");
  m.def("read_capsule", &read_capsule, py::arg("capsule"),
        "Of DLPack: (address, device type, device, (code, bits, lanes), shape, strides in items or None, read-only).");

  py::class_<DeviceMemory, Memory>(m, "Memory", py::module_local(), "Memory of a device, written by work on a stream.")
      .def_property_readonly("pointer", [](const DeviceMemory& self) { return to_integer(self.data()); })
      .def_property_readonly("bytes", &DeviceMemory::bytes)
      .def_property_readonly("device", &DeviceMemory::device)
      .def_property_readonly("stream", [](const DeviceMemory& self) { return to_integer(self.stream()); })
      .def(
          "order_before", [](const DeviceMemory& self, std::uintptr_t stream) { self.order_before(to_stream(stream)); },
          py::arg("stream"), "What stream gets from now on sees the contents.")
      .def(
          "read",
          [](const DeviceMemory& self, std::size_t offset, py::array dst) {
            require_contiguous(dst, "dst");
            void* data = dst.mutable_data();
            const std::size_t bytes = dst.nbytes();
            if (offset > self.bytes() || bytes > self.bytes() - offset) throw py::value_error("beyond the memory");
            py::gil_scoped_release release;
            self.read(data, offset, bytes);
          },
          py::arg("offset"), py::arg("dst"), "Copy to the host, and wait for it.")
      .def(
          "mark_ready", [](DeviceMemory& self, std::uintptr_t stream) { self.mark_ready(to_stream(stream)); },
          py::arg("stream"), "What stream has been given by now writes the contents.")
      .def("dlpack", &export_memory, py::arg("offset"), py::arg("shape"), py::arg("device_type"), py::arg("versioned"),
           "A capsule of float32.");

  py::class_<BoundCudaEngine>(m, "Engine", py::module_local(),
                              "A plan on a device, with its weights; callable from any thread.")
      .def(py::init([](const Plan& plan, int device, const std::string& kernels) {
             const cuda::Kernels allowed = kernels == "v1"   ? cuda::Kernels::kPortable
                                           : kernels == "v2" ? cuda::Kernels::kHopper
                                                             : cuda::Kernels::kBest;
             py::gil_scoped_release release;
             return std::make_unique<BoundCudaEngine>(plan, device, allowed);
           }),
           py::arg("plan"), py::arg("device"), py::arg("kernels"),
           "kernels: 'v1', the portable ones; 'v2', those of Hopper; '', the best.")
      .def(
          "run",
          [](const BoundCudaEngine& self, std::uintptr_t pixels, bool u8, std::int64_t images,
             const std::vector<std::uintptr_t>& outputs, std::uintptr_t stream) {
            const auto pointers = self.pointers(outputs);
            py::gil_scoped_release release;
            self.engine.run({reinterpret_cast<const void*>(pixels), u8}, images, pointers, to_stream(stream));
          },
          py::arg("pixels"), py::arg("u8"), py::arg("images"), py::arg("outputs"), py::arg("stream"),
          "Addresses of the device; returns when the stream has the work.")
      .def(
          "run_host",
          [](const BoundCudaEngine& self, const py::array& pixels, const std::vector<py::array>& outputs) {
            const HostPixels checked = check_pixels(pixels, self.size);
            const auto pointers = output_pointers(outputs, self.output_floats(), checked.images);
            py::gil_scoped_release release;
            self.engine.run_host({checked.data, checked.u8}, checked.images, pointers);
          },
          py::arg("pixels"), py::arg("outputs"), "Arrays of the host; returns when the results are there.")
      .def(
          "profile",
          [](const BoundCudaEngine& self, std::uintptr_t pixels, bool u8, std::int64_t images,
             const std::vector<std::uintptr_t>& outputs, std::uintptr_t stream) {
            const auto pointers = self.pointers(outputs);
            py::gil_scoped_release release;
            return self.engine.profile({reinterpret_cast<const void*>(pixels), u8}, images, pointers,
                                       to_stream(stream));
          },
          py::arg("pixels"), py::arg("u8"), py::arg("images"), py::arg("outputs"), py::arg("stream"),
          "As run; waits, and returns the seconds of each phase, summed over the images.")
      .def(
          "run_into",
          [](const BoundCudaEngine& self, std::uintptr_t pixels, bool u8, std::int64_t images, std::uintptr_t stream) {
            std::vector<std::size_t> offsets;
            py::gil_scoped_release release;
            Memory memory =
                self.engine.run({reinterpret_cast<const void*>(pixels), u8}, images, &offsets, to_stream(stream));
            return std::pair(std::move(memory), std::move(offsets));
          },
          py::arg("pixels"), py::arg("u8"), py::arg("images"), py::arg("stream"),
          "As run, into new memory: it, and the offset of each output.")
      .def(
          "upload",
          [](const BoundCudaEngine& self, const py::array& array, std::uintptr_t stream) {
            require_contiguous(array, "array");
            const void* data = array.data();
            const std::size_t bytes = array.nbytes();
            py::gil_scoped_release release;
            return self.engine.upload(data, bytes, to_stream(stream));
          },
          py::arg("array"), py::arg("stream"), "A copy on the device, in the order of the stream.")
      .def(
          "make_contiguous",
          [](const BoundCudaEngine& self, std::uintptr_t pointer, int item_bytes,
             const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides, std::uintptr_t stream) {
            py::gil_scoped_release release;
            return self.engine.make_contiguous(reinterpret_cast<const void*>(pointer), item_bytes, shape, strides,
                                               to_stream(stream));
          },
          py::arg("pointer"), py::arg("item_bytes"), py::arg("shape"), py::arg("strides"), py::arg("stream"),
          "A C-contiguous copy of four axes, strides in items.")
      .def(
          "kernels", [](const BoundCudaEngine& self, int images) { return self.engine.program().kernels(images); },
          py::arg("images"), "What each phase launches for a batch.")
      .def(
          "workspace_bytes",
          [](const BoundCudaEngine& self, int images) { return self.engine.program().workspace_bytes(images); },
          py::arg("images"))
      .def_property_readonly("max_images",
                             [](const BoundCudaEngine& self) { return self.engine.program().max_images(); })
      .def_property_readonly("weight_bytes",
                             [](const BoundCudaEngine& self) { return self.engine.program().weights().size(); })
      .def_property_readonly("device_name", [](const BoundCudaEngine& self) { return self.engine.info().name; })
      .def_property_readonly(
          "architecture",
          [](const BoundCudaEngine& self) {
            const cuda::DeviceInfo& info = self.engine.info();
            return "sm_" + std::to_string(info.major) + std::to_string(info.minor) +
                   (self.engine.hopper() ? ", v2" : ", v1");
          },
          "Compute capability, and which kernels are used.");
}

}  // namespace faceattr::bindings
