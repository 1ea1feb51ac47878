#include "cuda/hopper/launch_row_conv.cc"  // by nvcc
