#include "cuda/kernels/launch_others.cc"  // by nvcc
