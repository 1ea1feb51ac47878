// cuda_conformance_sm90.cc for a device.
#include "cuda_conformance_sm90.cc"
