#include "block.h"

#include <algorithm>
#include <stdexcept>

using ort::check;

namespace {

size_t add(std::vector<std::string>& names, const std::string& name) {
  auto place = std::find(names.begin(), names.end(), name);
  if (place == names.end()) place = names.insert(place, name);
  return (size_t)(place - names.begin());
}

}  // namespace

size_t Plan::add_input(const std::string& name) { return add(input_names_, name); }
size_t Plan::add_output(const std::string& name) { return add(output_names_, name); }

void Plan::connect(const std::vector<std::string>& inputs, const std::vector<std::string>& outputs) {
  for (const std::string& name : input_names_) {
    auto place = std::find(inputs.begin(), inputs.end(), name);
    check(place != inputs.end(), "ONNX Runtime has made a node without the input '" + name + "'");
    input_places_.push_back((size_t)(place - inputs.begin()));
  }
  for (const std::string& name : output_names_) {
    auto place = std::find(outputs.begin(), outputs.end(), name);
    output_places_.push_back(place == outputs.end() ? kNowhere : (size_t)(place - outputs.begin()));
  }
}

bool Plan::computes_one_of(const std::vector<std::string>& outputs) const {
  return std::find_first_of(output_names_.begin(), output_names_.end(), outputs.begin(), outputs.end()) !=
         output_names_.end();
}

void flip(const uint8_t* from, uint8_t* to, int64_t count) {
  for (int64_t index = 0; index < count; index++) to[index] = from[index] ^ 0x80;
}

const uint8_t* unsigned_integers(const ort::Tensor& tensor, std::vector<uint8_t>& memory) {
  if (tensor.type != ort::kInt8) return tensor.as<uint8_t>();
  memory.resize((size_t)tensor.count());
  flip(tensor.as<uint8_t>(), memory.data(), tensor.count());
  return memory.data();
}

std::vector<int64_t> reshaped(const std::vector<int64_t>& shape, std::vector<int64_t> wanted) {
  int64_t count = ort::count(shape), known = 1;
  int64_t* open = nullptr;  // the dimension that follows from the others
  for (size_t i = 0; i < wanted.size(); i++) {
    if (wanted[i] == 0 && i < shape.size()) wanted[i] = shape[i];
    if (wanted[i] == -1 && !open) {
      open = &wanted[i];
      continue;
    }
    check(wanted[i] >= 0 && (wanted[i] == 0 || known <= ort::kMaxElements / wanted[i]), "a Reshape does not fit");
    known *= wanted[i];
  }
  if (open) {
    check(known > 0, "a Reshape does not fit");
    known *= *open = count / known;
  }
  check(known == count, "a Reshape does not fit the tensor");
  return wanted;
}

const float* broadcast(const ort::Tensor& tensor, const std::vector<int64_t>& shape, std::vector<float>& memory) {
  size_t rank = shape.size(), missing = rank - tensor.shape.size();
  check(tensor.shape.size() <= rank, "a tensor has more dimensions than its result");
  if (missing == 0 && tensor.shape == shape) return tensor.as<float>();
  std::vector<int64_t> strides(rank, 0);
  int64_t stride = 1, count = 1;
  for (size_t i = rank; i-- > 0;) {
    int64_t own = i < missing ? 1 : tensor.shape[i - missing];
    check(own == 1 || own == shape[i], "shapes of tensors do not fit");
    strides[i] = own == 1 ? 0 : stride;
    stride *= own;
    count *= shape[i];
  }
  memory.resize((size_t)count);
  std::vector<int64_t> at(rank, 0);
  int64_t from = 0;
  for (int64_t index = 0; index < count; index++) {
    memory[index] = tensor.as<float>()[from];
    for (size_t i = rank; i-- > 0;) {
      from += strides[i];
      if (++at[i] < shape[i]) break;
      from -= strides[i] * shape[i];
      at[i] = 0;
    }
  }
  return memory.data();
}
