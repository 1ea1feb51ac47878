#include "cpu/dispatch.h"

#include "cpu/cpu_features.h"

namespace faceattr::cpu {

#define FA_KERNEL(family, features, symbol) extern const family##Kernel symbol;
#include "cpu/kernel_list.inc"
#undef FA_KERNEL

const KernelLists& kernel_lists() {
  static const KernelLists lists = [] {
    KernelLists all;
#define FA_KERNEL(family, features, symbol) all.family.push_back({features, &symbol});
#include "cpu/kernel_list.inc"
#undef FA_KERNEL
    return all;
  }();
  return lists;
}

}  // namespace faceattr::cpu
