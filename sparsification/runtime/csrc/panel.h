// Panels of tokens: transposed into the lanes of vectors, and back. Shared by the kernels; see kernels.h for the layout.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace {

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Panel: out[group][token] = x[token][4 * group .. + 3], for the lanes of one vector; zeros where there is nothing.
// x: its first token; out: `stride` bytes from group to group.
void transpose_tokens(const uint8_t* x, int64_t x_stride, int64_t tokens, int64_t inputs, uint8_t* out,
                      int64_t stride) {
  int64_t groups = (inputs + 3) / 4;
  for (int64_t group = 0; group < groups; group += kLanes) {
    int64_t bytes = least(inputs - 4 * group, 4 * kLanes);
    Ints rows[kLanes];
    for (int token = 0; token < kLanes; token++) {
      rows[token] = Ints{};
      if (token >= tokens) continue;
      const uint8_t* from = x + token * x_stride + 4 * group;
      if (bytes == 4 * kLanes) {
        rows[token] = load(from);
      } else {
        memcpy(&rows[token], from, bytes);
      }
    }
    transpose(rows);
    int64_t count = least(groups - group, kLanes);
    for (int lane = 0; lane < count; lane++) store(out + (group + lane) * stride, rows[lane]);
  }
}

// Bytes of 16 rows for the tokens of one vector, to output[token][row]. integers[row]: one in each lane, 0..255.
INLINE void store_bytes(const Ints integers[16], uint8_t* output, int64_t stride, int64_t tokens, int64_t count) {
  Ints packed[4];
  for (int i = 0; i < 4; i++)
    packed[i] = integers[4 * i] | integers[4 * i + 1] << 8 | integers[4 * i + 2] << 16 | integers[4 * i + 3] << 24;
  exchange<1>(packed[0], packed[1]);
  exchange<1>(packed[2], packed[3]);
  exchange<2>(packed[0], packed[2]);
  exchange<2>(packed[1], packed[3]);
  // Now each quarter of a vector is one token's 16 bytes.
  alignas(64) uint8_t bytes[kLanes][16];
  for (int i = 0; i < 4; i++) {
    alignas(64) uint8_t quarters[kLanes / 4][16];
    store(quarters, packed[i]);
    for (int quarter = 0; quarter < kLanes / 4; quarter++) memcpy(bytes[4 * quarter + i], quarters[quarter], 16);
  }
  if (count == 16) {
    for (int64_t token = 0; token < tokens; token++) memcpy(output + token * stride, bytes[token], 16);
  } else {
    for (int64_t token = 0; token < tokens; token++) memcpy(output + token * stride, bytes[token], count);
  }
}

}  // namespace
