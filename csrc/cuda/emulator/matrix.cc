#include "cuda/emulator/matrix.h"

#include "cuda/emulator/numbers.h"

namespace faceattr::cuda::emulator {
namespace {

const MatrixArguments& matrix_lane(const void* const* lanes, int lane) {
  return *static_cast<const MatrixArguments*>(lanes[lane]);
}

}  // namespace

void load_matrices(Machine& machine, const void* const* lanes, int count, bool transposed) {
  for (int i = 0; i < count; ++i) {
    uint16_t matrix[8][8];
    for (int r = 0; r < 8; ++r) {
      const SharedAddress row = matrix_lane(lanes, 8 * i + r).row;
      std::memcpy(matrix[r], machine.shared(machine.block(), row, 16, "load_matrix"), 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = 2 * (lane % 4);
      const uint16_t low = transposed ? matrix[t][g] : matrix[g][t];
      const uint16_t high = transposed ? matrix[t + 1][g] : matrix[g][t + 1];
      matrix_lane(lanes, lane).registers[i] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}

void store_matrices(Machine& machine, const void* const* lanes, int count, bool transposed) {
  for (int i = 0; i < count; ++i) {
    uint16_t matrix[8][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = 2 * (lane % 4);
      const uint32_t pair = matrix_lane(lanes, lane).registers[i];
      (transposed ? matrix[t][g] : matrix[g][t]) = static_cast<uint16_t>(pair);
      (transposed ? matrix[t + 1][g] : matrix[g][t + 1]) = static_cast<uint16_t>(pair >> 16);
    }
    for (int r = 0; r < 8; ++r) {
      const SharedAddress row = matrix_lane(lanes, 8 * i + r).row;
      std::memcpy(machine.shared(machine.block(), row, 16, "store_matrix"), matrix[r], 16);
    }
  }
}

template <class T>
void multiply_16x8x16(const void* const* lanes) {
  float a[16][16], b[16][8], sum[16][8] = {};
  for (int lane = 0; lane < 32; ++lane) {
    const MmaArguments& in = *static_cast<const MmaArguments*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      float* const at = &a[g + 8 * (i % 2)][2 * t + 8 * (i / 2)];
      at[0] = Format<T>::value(static_cast<uint16_t>(in.a[i]));
      at[1] = Format<T>::value(static_cast<uint16_t>(in.a[i] >> 16));
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = Format<T>::value(static_cast<uint16_t>(in.b[i]));
      b[2 * t + 8 * i + 1][g] = Format<T>::value(static_cast<uint16_t>(in.b[i] >> 16));
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) sum[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* const acc = static_cast<float*>(static_cast<const MmaArguments*>(lanes[lane])->acc);
    for (int i = 0; i < 4; ++i) acc[i] += sum[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}
template void multiply_16x8x16<Float16>(const void* const* lanes);
template void multiply_16x8x16<Bfloat16>(const void* const* lanes);

template <class A>
void multiply_16x8x32(const void* const* lanes) {
  int32_t a[16][32], b[32][8], sum[16][8] = {};
  for (int lane = 0; lane < 32; ++lane) {
    const MmaArguments& in = *static_cast<const MmaArguments*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int byte = 0; byte < 4; ++byte) {
      for (int i = 0; i < 4; ++i) {
        a[g + 8 * (i % 2)][4 * t + 16 * (i / 2) + byte] = static_cast<A>(in.a[i] >> 8 * byte);
      }
      for (int i = 0; i < 2; ++i) b[4 * t + 16 * i + byte][g] = static_cast<int8_t>(in.b[i] >> 8 * byte);
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 32; ++k) {
      for (int n = 0; n < 8; ++n) sum[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    int32_t* const acc = static_cast<int32_t*>(static_cast<const MmaArguments*>(lanes[lane])->acc);
    for (int i = 0; i < 4; ++i) {  // wraps, as the device's
      acc[i] = static_cast<int32_t>(static_cast<uint32_t>(acc[i]) +
                                    static_cast<uint32_t>(sum[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]));
    }
  }
}
template void multiply_16x8x32<int8_t>(const void* const* lanes);
template void multiply_16x8x32<uint8_t>(const void* const* lanes);

}  // namespace faceattr::cuda::emulator
