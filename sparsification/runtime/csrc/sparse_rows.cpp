#include "sparse_rows.h"

#include <stdexcept>

#include "kernels.h"

namespace {

void check(bool right, const char* what) {
  if (!right) throw std::invalid_argument(what);
}

// Rows of slices that any weight may have, and how many more for each row and entry in the file. A weight of 28,672
// inputs and 8,192 outputs has 295 thousand.
constexpr int64_t kFreeCells = int64_t{1} << 20, kCellsPerNumber = 8;

}  // namespace

// Sizes are checked first: nothing is read or allocated before they are consistent.
SparseRows decode_rows(const SparseFile& file) {
  check(file.inputs > 0 && file.inputs <= kMaxInputs, "the weight has no inputs or more than 65536");
  check(file.outputs > 0 && file.outputs < (1 << 28), "the weight has no outputs or too many");
  check(file.entries >= 0 && file.entries < (1 << 28), "the weight has too many entries");
  check(file.width == 1 || file.width == 4, "the weight's entries are neither single weights nor blocks of four");
  int64_t positions = (file.inputs + file.width - 1) / file.width, entries = 0;
  for (int64_t row = 0; row < file.outputs; row++) {
    check(file.counts[row] <= positions, "a row of the weight has more entries than there are inputs for");
    entries += file.counts[row];
  }
  check(entries == file.entries, "the rows' entries are not as many as the weight's");
  SparseRows rows{file.inputs, file.outputs, file.width, {0}, {}};
  rows.starts.reserve(file.outputs + 1);
  rows.positions.reserve(entries);
  const uint8_t* gap = file.gaps;
  for (int64_t row = 0; row < file.outputs; row++) {
    int64_t position = -1;
    for (uint32_t index = 0; index < file.counts[row]; index++) {
      position += 1 + *gap++;
      check(position < positions, "an entry of the weight lies beyond its inputs");
      rows.positions.push_back((uint16_t)position);
    }
    rows.starts.push_back((int64_t)rows.positions.size());
  }
  return rows;
}

void check_slices(const SparseRows& rows, int64_t slices) {
  check(slices * rows.outputs <= kFreeCells + kCellsPerNumber * (rows.outputs + (int64_t)rows.positions.size()),
        "the weight has too few entries for as many inputs and outputs");
}
