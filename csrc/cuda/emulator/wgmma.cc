// Warpgroup products: operands are checked when issued, and again when waited for, which is when they are computed.
#include "cuda/emulator/matrix.h"
#include "cuda/emulator/numbers.h"

namespace faceattr::cuda::emulator {
namespace {

struct Operand {
  SharedAddress start;
  uint32_t k_stride, row_stride;

  explicit Operand(uint64_t descriptor)
      : start(static_cast<uint32_t>(descriptor & 0x3fff) << 4),
        k_stride(static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4),
        row_stride(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4) {}

  // Of 16 bytes of K: the first or second.
  SharedAddress chunk(int row, int k) const {
    return start + static_cast<uint32_t>(k) * k_stride + static_cast<uint32_t>(row / 8) * row_stride +
           static_cast<uint32_t>(row % 8) * 16;
  }
};

// Of both operands' bytes, which are in bounds. `fenced`: ends the launch if one of them is not.
uint64_t checksum(Machine& machine, const Product& product, bool fenced) {
  uint64_t sum = 0xcbf29ce484222325u;  // FNV-1a, by words
  const auto add = [&](const Operand& operand, int rows) {
    for (int row = 0; row < rows; ++row) {
      for (int k = 0; k < 2; ++k) {
        const SharedAddress at = operand.chunk(row, k);
        const uint8_t* const bytes = machine.shared(machine.block(), at, 16, "wgmma's operand");
        if (fenced) machine.check_fenced(machine.block(), at, 16, "wgmma reads");
        uint64_t words[2];
        std::memcpy(words, bytes, 16);
        for (const uint64_t word : words) sum = (sum ^ word) * 0x100000001b3u;
      }
    }
  };
  add(Operand(product.a), 64);
  add(Operand(product.b), product.n);
  return sum;
}

template <class Value>
Value value_of(Element element, const uint8_t* chunk, int i) {
  uint16_t half;
  std::memcpy(&half, chunk + 2 * (i % 8), sizeof half);
  switch (element) {
    case Element::kFloat16:
      return static_cast<Value>(float16_value(half));
    case Element::kBfloat16:
      return static_cast<Value>(bfloat16_value(half));
    case Element::kFloat8E4m3:
      return static_cast<Value>(float8_e4m3_value(chunk[i]));
    case Element::kInt8:
      return static_cast<Value>(static_cast<int8_t>(chunk[i]));
    case Element::kUint8:
      return static_cast<Value>(chunk[i]);
  }
  return {};
}

// Sums in float32, or modulo 2^32.
template <class Value>
void compute(Machine& machine, const Product& product) {
  const bool wide = product.element == Element::kFloat16 || product.element == Element::kBfloat16;
  const int per_chunk = wide ? 8 : 16, depth = 2 * per_chunk, n = product.n;
  const bool integers = product.element == Element::kInt8 || product.element == Element::kUint8;
  static thread_local Value a[64][32], b[32][256];
  const auto read = [&](uint64_t descriptor, int rows, Element element, auto put) {
    const Operand operand(descriptor);
    for (int row = 0; row < rows; ++row) {
      for (int k = 0; k < 2; ++k) {
        const uint8_t* const chunk = machine.shared(machine.block(), operand.chunk(row, k), 16, "wgmma's operand");
        for (int i = 0; i < per_chunk; ++i) put(row, k * per_chunk + i, value_of<Value>(element, chunk, i));
      }
    }
  };
  read(product.a, 64, product.element, [&](int row, int k, Value value) { a[row][k] = value; });
  read(product.b, n, integers ? Element::kInt8 : product.element, [&](int row, int k, Value v) { b[k][row] = v; });
  for (int m = 0; m < 64; ++m) {
    Value sum[256] = {};
    for (int k = 0; k < depth; ++k) {
      const Value factor = a[m][k];
      for (int j = 0; j < n; ++j) sum[j] += factor * b[k][j];
    }
    for (int t = 0; t < 4; ++t) {  // the lanes that hold this row
      Value* const acc = static_cast<Value*>(product.acc[m / 16 * 32 + m % 8 * 4 + t]) + m % 16 / 8 * 2;
      for (int j = 0; j < n / 8; ++j) {
        for (int i = 0; i < 2; ++i) {
          const Value value = sum[8 * j + 2 * t + i];
          acc[4 * j + i] = product.accumulate ? acc[4 * j + i] + value : value;
        }
      }
    }
  }
}

}  // namespace

void issue_product(Machine& machine, Element element, int n, const WgmmaArguments& arguments) {
  Warpgroup& group = machine.warpgroup();
  if (!group.fenced) machine.fail("wgmma before any wgmma_fence");
  Product product{element, n, arguments.a, arguments.b, arguments.accumulate, 0, {}};
  for (int i = 0; i < 128; ++i) {
    const WgmmaArguments& other = *static_cast<const WgmmaArguments*>(group.collective.arguments[i]);
    if (other.a != arguments.a || other.b != arguments.b || other.accumulate != arguments.accumulate) {
      machine.fail("wgmma whose descriptors or accumulate differ between threads, of which one is %d of the warpgroup",
                   i);
    }
    product.acc[i] = other.acc;
  }
  product.checksum = checksum(machine, product, true);
  group.open.push_back(product);
}

void commit_products(Machine& machine) {
  Warpgroup& group = machine.warpgroup();
  group.groups.push_back(std::move(group.open));
  group.open.clear();
}

void finish_products(Machine& machine, int groups_left) {
  Warpgroup& group = machine.warpgroup();
  while (group.groups.size() > static_cast<size_t>(groups_left)) {
    for (const Product& product : group.groups.front()) {
      if (checksum(machine, product, false) != product.checksum) {
        machine.fail("wgmma's operands changed between its issue and wgmma_wait (a at shared_base() + %u, b at + %u)",
                     Operand(product.a).start - kSharedBase, Operand(product.b).start - kSharedBase);
      }
      if (product.element == Element::kInt8 || product.element == Element::kUint8) {
        compute<uint32_t>(machine, product);
      } else {
        compute<float>(machine, product);
      }
    }
    group.groups.erase(group.groups.begin());
  }
}

}  // namespace faceattr::cuda::emulator
