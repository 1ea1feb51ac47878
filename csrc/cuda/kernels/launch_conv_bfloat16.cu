#include "cuda/kernels/launch_conv_bfloat16.cc"  // by nvcc
