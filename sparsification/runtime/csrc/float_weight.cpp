#include "float_weight.h"

#include <algorithm>
#include <numeric>

PackedFloats::PackedFloats(const SparseRows& rows, const float* values) {
  FloatWeight& view = view_;
  view.inputs = rows.inputs;
  view.outputs = rows.outputs;
  view.slices = (rows.inputs + kFloatSlice - 1) / kFloatSlice;
  view.parts = (rows.outputs + kFloatPartRows - 1) / kFloatPartRows;
  check_slices(rows, view.slices);
  // Positions ascend in a row: each slice goes on where the one before it ended.
  std::vector<int64_t> next(rows.starts.begin(), rows.starts.end() - 1);
  next.resize(padded_outputs());
  struct Row {
    int count;
    uint16_t offsets[kFloatSlice];
    float values[kFloatSlice];
  };
  std::vector<Row> part_rows(kFloatPartRows);
  for (int64_t slice = 0; slice < view.slices; slice++) {
    for (int64_t part = 0; part < view.parts; part++) {
      for (int index = 0; index < kFloatPartRows; index++) {
        Row& row = part_rows[index];
        row = {};
        int64_t output = part * kFloatPartRows + index;
        int64_t end = output < rows.outputs ? rows.starts[output + 1] : 0;
        for (int64_t& entry = next[output]; entry < end; entry++) {
          int64_t first = (int64_t)rows.positions[entry] * rows.width;
          if (first >= (slice + 1) * kFloatSlice) break;
          for (int64_t input = first; input < std::min(first + rows.width, rows.inputs); input++) {
            float value = values[entry * rows.width + input - first];
            if (value == 0.0f) continue;
            row.offsets[row.count] = (uint16_t)(input % kFloatSlice * kFloatTokens * sizeof(float));
            row.values[row.count++] = value;
          }
        }
      }
      int order[kFloatPartRows];
      std::iota(order, order + kFloatPartRows, 0);
      std::stable_sort(order, order + kFloatPartRows,
                       [&](int a, int b) { return part_rows[a].count > part_rows[b].count; });
      order_.insert(order_.end(), order, order + kFloatPartRows);
      first_.push_back((uint32_t)(values_.size() / 2));
      for (int pair = 0; pair < kFloatPartRows; pair += 2) {
        int count = part_rows[order[pair]].count;
        counts_.push_back((uint8_t)count);
        for (int index = 0; index < count; index++) {
          for (int which = 0; which < 2; which++) {
            const Row& row = part_rows[order[pair + which]];
            offsets_.push_back(row.offsets[index]);
            values_.push_back(row.values[index]);
          }
        }
      }
    }
  }
  offsets_.shrink_to_fit();
  values_.shrink_to_fit();
  view.order = order_.data();
  view.counts = counts_.data();
  view.first = first_.data();
  view.offsets = offsets_.data();
  view.values = values_.data();
}
