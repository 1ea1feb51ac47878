#include "cuda/kernels/contiguous.cc"  // by nvcc
