// The classes of the CUDA engine, in the module of either runtime.
#pragma once

#include <pybind11/pybind11.h>

namespace faceattr::bindings {

// The module must be linked with that runtime, and _core be imported, which has the class Plan.
void bind_cuda(pybind11::module_& module);

}  // namespace faceattr::bindings
