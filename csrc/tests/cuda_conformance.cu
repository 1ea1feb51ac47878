// cuda_conformance.cc for a device.
#include "cuda_conformance.cc"
