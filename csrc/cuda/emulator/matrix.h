// What the emulated matrix instructions compute, once all threads that take part have come.
#pragma once

#include "cuda/emulator/machine.h"

namespace faceattr::cuda::emulator {

struct MatrixArguments {  // of one lane
  SharedAddress row;
  uint32_t* registers;
};

struct MmaArguments {  // of one lane
  void* acc;           // float[4] or int32_t[4]
  const uint32_t *a, *b;
};

// `lanes` are 32 pointers to the structs above.
void load_matrices(Machine& machine, const void* const* lanes, int count, bool transposed);
void store_matrices(Machine& machine, const void* const* lanes, int count, bool transposed);
template <class T>
void multiply_16x8x16(const void* const* lanes);
template <class A>
void multiply_16x8x32(const void* const* lanes);

struct WgmmaArguments {  // of one thread
  void* acc;
  uint64_t a, b;
  bool accumulate;
};

// By a whole warpgroup.
void issue_product(Machine& machine, Element element, int n, const WgmmaArguments& arguments);
void commit_products(Machine& machine);
void finish_products(Machine& machine, int groups_left);

}  // namespace faceattr::cuda::emulator
