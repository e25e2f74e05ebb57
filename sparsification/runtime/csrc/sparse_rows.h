// The non-zero weights of a Linear layer, row after row: how a file stores them, and the same after all checks.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

// As a file has it; the contents are untrusted. An entry is a weight, or a block of four adjacent ones. Its position in
// its row is the one before it + 1 + gap, from -1 on; a longer run of zeros is bridged by entries that are 0.
struct SparseFile {
  int64_t inputs, outputs, entries;
  int width;               // weights of an entry: 1 or 4
  const uint32_t* counts;  // [outputs] entries of each row
  const uint8_t* gaps;     // [entries]
};

struct SparseRows {
  int64_t inputs, outputs;
  int width;
  std::vector<int64_t> starts;      // [outputs + 1] where a row's entries begin
  // [entries] ascending in a row; times `width`, the first input of an entry. Entries at one input are added up.
  std::vector<uint16_t> positions;
};

// Calls take(input, value) for each weight of a row that is not 0, in order. values: [entries][rows.width].
template <typename Take>
inline void each_weight(const SparseRows& rows, const int8_t* values, int64_t row, const Take& take) {
  // Bytes may alias anything: what is copied is not read anew.
  const uint16_t* positions = rows.positions.data();
  const int64_t end = rows.starts[row + 1], inputs = rows.inputs;
  auto each = [&](auto width) {
    for (int64_t entry = rows.starts[row]; entry < end; entry++)
      for (int index = 0; index < width; index++) {
        int64_t input = (int64_t)positions[entry] * width + index;
        if (int8_t value = values[entry * width + index]; value != 0 && input < inputs) take((int32_t)input, value);
      }
  };
  if (rows.width == 1) {
    each(std::integral_constant<int, 1>());
  } else {
    each(std::integral_constant<int, 4>());
  }
}

// All positions lie within the inputs, each occurs once in its row, and memory is proportional to the file.
// Throws std::invalid_argument, with what is wrong.
SparseRows decode_rows(const SparseFile& file);

// Refuses a weight that is stored in so many slices of its inputs that the table of their rows would be much larger
// than the file. Throws std::invalid_argument.
void check_slices(const SparseRows& rows, int64_t slices);
