#include "cuda/hopper/launch_wgmma_stem.cc"  // by nvcc
