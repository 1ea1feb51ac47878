// The module _cuda_emulated: the CUDA engine with its kernels on the host emulator.
#include "bindings/cuda.h"

PYBIND11_MODULE(_cuda_emulated, m) {
  m.doc() = "The engine of CUDA on an emulated device, for tests.";
  pybind11::module_::import("faceattr_fast._core");  // Plan
  faceattr::bindings::bind_cuda(m);
}
