// What Python hands over is checked here, once: arrays of the host, and how errors of devices are raised.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <vector>

namespace faceattr::bindings {

namespace py = pybind11;

// Exceptions of this type become faceattr_fast.DeviceError.
template <class Error>
void translate_to_device_error() {
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const Error& e) {
      const py::object type = py::module_::import("faceattr_fast.errors").attr("DeviceError");
      PyErr_SetString(type.ptr(), e.what());
    }
  });
}

inline std::string shape_text(const py::array& array) {
  return py::str(py::tuple(array.attr("shape"))).cast<std::string>();
}

inline void require_contiguous(const py::array& array, const std::string& name) {
  if ((array.flags() & py::array::c_style) == 0) throw py::value_error(name + " must be C-contiguous");
}

constexpr py::ssize_t kRgb = 3;

struct HostPixels {
  const void* data;
  bool u8;
  std::int64_t images;
};

// uint8 [N, size, size, 3] or float32 [N, 3, size, size], C-contiguous and aligned; nothing for other arrays.
inline std::optional<HostPixels> plain_pixels(const py::array& array, int size) {
  constexpr int kPlain = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((array.flags() & kPlain) != kPlain || array.ndim() != 4) return std::nullopt;
  const bool u8 = py::isinstance<py::array_t<std::uint8_t>>(array);
  if (!u8 && !py::isinstance<py::array_t<float>>(array)) return std::nullopt;
  const py::ssize_t expected[] = {u8 ? size : kRgb, size, u8 ? kRgb : size};
  if (!std::equal(expected, expected + 3, array.shape() + 1)) return std::nullopt;
  return HostPixels{array.data(), u8, array.shape(0)};
}

// The same; other arrays should not come so far.
inline HostPixels check_pixels(const py::array& array, int size) {
  const auto pixels = plain_pixels(array, size);
  if (!pixels) {
    throw py::value_error("pixels must be C-contiguous uint8 [N, size, size, 3] or float32 [N, 3, size, size], got " +
                          py::str(array.dtype()).cast<std::string>() + " " + shape_text(array));
  }
  return *pixels;
}

// One array per output, of `images` times floats[o] values.
inline std::vector<float*> output_pointers(const std::vector<py::array>& arrays,
                                           const std::vector<std::int64_t>& floats, std::int64_t images) {
  if (arrays.size() != floats.size()) {
    throw py::value_error("expected " + std::to_string(floats.size()) + " outputs, got " +
                          std::to_string(arrays.size()));
  }
  std::vector<float*> pointers;
  for (std::size_t o = 0; o < arrays.size(); ++o) {
    py::array array = arrays[o];
    const std::string name = "output " + std::to_string(o);
    require_contiguous(array, name);
    if (!py::isinstance<py::array_t<float>>(array)) throw py::type_error(name + " must be float32");
    if (array.size() != images * floats[o]) {
      throw py::value_error(name + " has the wrong size: " + shape_text(array));
    }
    pointers.push_back(static_cast<float*>(array.mutable_data()));  // raises where it is read-only
  }
  return pointers;
}

}  // namespace faceattr::bindings
