// The structures of DLPack (dmlc.github.io/dlpack), as far as they are exchanged here.
#pragma once

#include <cstdint>

namespace faceattr::bindings::dlpack {

enum DeviceType : std::int32_t { kCpu = 1, kCuda = 2 };

struct Device {
  std::int32_t type, index;
};

struct DataType {
  std::uint8_t code;  // 0 signed, 1 unsigned, 2 float
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in items; null: C-contiguous
  std::uint64_t byte_offset;
};

// In a capsule "dltensor".
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

struct Version {
  std::uint32_t major, minor;
};

// In a capsule "dltensor_versioned", from version 1 on.
struct VersionedTensor {
  Version version;
  void* context;
  void (*deleter)(VersionedTensor*);
  std::uint64_t flags;  // bit 0: read-only
  Tensor tensor;
};

}  // namespace faceattr::bindings::dlpack
