#include "window_weight.h"

#include <algorithm>
#include <cstdint>
#include <new>
#include <numeric>

#include "cpu.h"

namespace {

// A window at the beginning of a cache line is read in half of the time on AMD Zen 5, where this saves 10 to 20 % of a
// layer; elsewhere it costs 3 % more steps.
constexpr int kLineWorth = 2;
constexpr int kEach = kWindowBytes / kWindowLanes;  // weights that a step takes of an output, at most

// The weights that are not 0, output after output. Behind those of each output are kEach that lie beyond all inputs:
// whoever reads kEach weights needs no test for the last one.
struct Weights {
  static constexpr int32_t kBeyond = INT32_MAX;
  size_t room;
  std::unique_ptr<int32_t[]> inputs;
  std::unique_ptr<int8_t[]> values;
  std::vector<size_t> starts;

  Weights(const SparseRows& rows, const int8_t* given, int64_t padded_outputs)
      : room((size_t)rows.starts.back() * rows.width + (size_t)padded_outputs * kEach),
        inputs(new int32_t[room]),
        values(new int8_t[room]()) {
    size_t at = 0;
    int32_t* to_inputs = inputs.get();
    int8_t* to_values = values.get();
    for (int64_t row = 0; row < padded_outputs; row++) {
      starts.push_back(at);
      if (row < rows.outputs)
        each_weight(rows, given, row, [&](int32_t input, int8_t value) {
          to_inputs[at] = input;
          to_values[at++] = value;
        });
      for (int index = 0; index < kEach; index++) to_inputs[at++] = kBeyond;
    }
    starts.push_back(at);
  }
  size_t count(uint32_t row) const { return starts[row + 1] - starts[row] - kEach; }
};

}  // namespace

PackedWindows::PackedWindows(const SparseRows& rows, const int8_t* values) : bytes_(nullptr, free_aligned) {
  WindowWeight& view = view_;
  view.inputs = rows.inputs;
  view.outputs = rows.outputs;
  view.slices = (rows.inputs + kWindowSliceInputs - 1) / kWindowSliceInputs;
  view.slice_inputs = (rows.inputs + view.slices - 1) / view.slices;
  view.groups = (rows.outputs + kWindowLanes - 1) / kWindowLanes;
  check_slices(rows, view.slices);

  const Weights weights(rows, values, padded_outputs());
  order_.resize(padded_outputs());
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.begin() + rows.outputs,
                   [&](uint32_t a, uint32_t b) { return weights.count(a) > weights.count(b); });
  for (uint32_t row : order_) {
    int32_t sum = 0;
    for (size_t at = 0; at < weights.count(row); at++) sum += weights.values[weights.starts[row] + at];
    row_sums_.push_back(sum);
  }

  std::vector<uint8_t> picks, factors;
  picks.reserve(2 * weights.room);  // usually more than are needed
  factors.reserve(2 * weights.room);
  std::vector<size_t> next = weights.starts;  // of an output's weights, the first that no step has taken
  for (int64_t slice = 0; slice < view.slices; slice++) {
    int64_t begin = slice * view.slice_inputs, end = std::min(begin + view.slice_inputs, rows.inputs);
    for (int64_t group = 0; group < view.groups; group++) {
      first_.push_back((uint32_t)windows_.size());
      const uint32_t* lanes = &order_[group * kWindowLanes];
      for (;;) {
        // The next weights of each output; a step takes those in its window. Loops over all of them, without branches
        // that cannot be foreseen, take a third of the time.
        int32_t inputs[kWindowBytes];
        int8_t values[kWindowBytes];
        for (int lane = 0; lane < kWindowLanes; lane++) {
          std::copy_n(weights.inputs.get() + next[lanes[lane]], kEach, inputs + lane * kEach);
          std::copy_n(weights.values.get() + next[lanes[lane]], kEach, values + lane * kEach);
        }
        auto taken = [&](int32_t limit) {
          int slots = 0;
          for (int32_t input : inputs) slots += input < limit;
          return slots;
        };
        // A window begins at the first input that any output still waits for.
        int64_t window = end;
        for (int lane = 0; lane < kWindowLanes; lane++) window = std::min<int64_t>(window, inputs[lane * kEach]);
        if (window == end) break;
        int64_t line = begin + (window - begin) / kWindowBytes * kWindowBytes;
        window = std::max(begin, std::min(window, end - kWindowBytes));
        auto limit = [&](int64_t first) { return (int32_t)std::min(first + kWindowBytes, end); };
        if (kLineWorth * taken(limit(line)) >= taken(limit(window))) window = line;
        windows_.push_back((uint16_t)(window - begin));
        size_t slot = picks.size();
        picks.resize(slot + kWindowBytes);
        factors.resize(slot + kWindowBytes);
        uint8_t *pick = picks.data() + slot, *factor = factors.data() + slot;
        int32_t first_input = (int32_t)window, beyond = limit(window);
        for (int index = 0; index < kWindowBytes; index++) {
          int takes = inputs[index] < beyond;
          pick[index] = (uint8_t)((inputs[index] - first_input) & -takes);
          factor[index] = (uint8_t)(values[index] & -takes);
        }
        for (int lane = 0; lane < kWindowLanes; lane++)
          for (int index = 0; index < kEach; index++) next[lanes[lane]] += inputs[lane * kEach + index] < beyond;
      }
    }
  }
  first_.push_back((uint32_t)windows_.size());
  size_t half = picks.size();
  bytes_.reset((uint8_t*)allocate_aligned(64, std::max<size_t>(2 * half, 64)));
  if (!bytes_) throw std::bad_alloc();
  std::copy(picks.begin(), picks.end(), bytes_.get());
  std::copy(factors.begin(), factors.end(), bytes_.get() + half);
  view.order = std::is_sorted(order_.begin(), order_.end()) ? nullptr : order_.data();
  view.row_sums = row_sums_.data();
  view.first = first_.data();
  view.windows = windows_.data();
  view.picks = bytes_.get();
  view.values = (const int8_t*)bytes_.get() + half;
}
