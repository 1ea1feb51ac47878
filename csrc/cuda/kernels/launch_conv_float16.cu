#include "cuda/kernels/launch_conv_float16.cc"  // by nvcc
