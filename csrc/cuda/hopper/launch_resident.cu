#include "cuda/hopper/launch_resident.cc"  // by nvcc
