#include "cuda/kernels/launch_conv_integer8.cc"  // by nvcc
