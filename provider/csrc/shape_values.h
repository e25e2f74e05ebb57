// Values of the shape tensors of a graph, as far as they follow from shapes that are known.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "graph.h"

// A dimension: a number, or by its index which one of some tensor's it is, if only a run knows the number.
struct Dimension {
  int64_t value;
  int which = kNone;

  bool operator==(const Dimension& other) const {
    return which == other.which && (which != kNone || value == other.value);
  }
};
using Dimensions = std::vector<Dimension>;

// What a shape tensor is computed as from the shapes of other tensors; adds the nodes that do so. None if it follows
// from something else.
std::optional<Dimensions> shape_values(const GraphView& graph, int tensor, const std::map<int, Dimensions>& known,
                                       std::set<int>& nodes);
