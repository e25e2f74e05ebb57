// Runs the kernels of every instruction set here, over random and hostile input, on memory of the exact size. Built
// with the address and undefined-behaviour sanitizers by runtime/test_build.py; prints "ok", how many weights were
// refused, and the names of the instruction sets.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "block_weight.h"
#include "cpu.h"
#include "float_weight.h"
#include "window_weight.h"

static std::mt19937 generator(0);

static int64_t random_between(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(generator);
}
static float random_number() { return std::normal_distribution<float>()(generator); }

// Memory whose ends the sanitizer watches: a vector's spare room it would not.
template <typename T>
struct Exact {
  std::unique_ptr<T[]> data;
  size_t size;
  explicit Exact(size_t size) : data(new T[size]()), size(size) {}
  T& operator[](size_t index) { return data[index]; }
  T* get() { return data.get(); }
};

static void fail(const char* what) {
  std::printf("%s: %s\n", kernels().name, what);
  std::exit(1);
}

struct RandomWeight {
  int64_t inputs, outputs;
  int width;
  Exact<uint32_t> counts;
  Exact<uint8_t> gaps;
  Exact<int8_t> values;

  // Gaps of one density: as many entries as fit into a row.
  RandomWeight(int64_t inputs, int64_t outputs, int width)
      : inputs(inputs), outputs(outputs), width(width), counts(outputs), gaps(0), values(0) {
    int64_t positions = (inputs + width - 1) / width, widest = random_between(0, 20);
    std::vector<uint8_t> all;
    for (int64_t row = 0; row < outputs; row++)
      for (int64_t at = random_between(0, widest); at < positions; counts[row]++) {
        all.push_back((uint8_t)(counts[row] ? at - last_ - 1 : at));
        last_ = at;
        at += 1 + random_between(0, random_between(0, 50) ? widest : 255);
        if (at - last_ > 256) at = last_ + 256;
      }
    gaps = Exact<uint8_t>(all.size());
    std::copy(all.begin(), all.end(), gaps.get());
    values = Exact<int8_t>(width * all.size());
    for (size_t index = 0; index < values.size; index++) values[index] = (int8_t)random_between(-128, 127);
  }

  SparseFile file() {
    return {inputs, outputs, (int64_t)gaps.size, width, counts.get(), gaps.get()};
  }
  std::vector<int> dense() {
    std::vector<int> weight(outputs * inputs);
    size_t entry = 0;
    for (int64_t row = 0; row < outputs; row++) {
      int64_t position = -1;
      for (uint32_t index = 0; index < counts[row]; index++, entry++) {
        position += 1 + gaps[entry];
        for (int i = 0; i < width && position * width + i < inputs; i++)
          weight[row * inputs + position * width + i] = values[entry * width + i];
      }
    }
    return weight;
  }

 private:
  int64_t last_ = 0;
};

// What a Linear layer is called with, and what it must give.
struct LinearCase {
  RandomWeight weight;
  std::vector<int> dense;
  int64_t tokens, size;  // of the arrays for each output
  std::vector<float> scale, bias;
  std::vector<QuantParams> params;
  bool gelu;
  int input_zero;
  Exact<uint8_t> x, integers;
  Exact<float> numbers;

  LinearCase()
      : weight(random_between(1, random_between(0, 4) ? 200 : 2000), random_between(1, 150),
               random_between(0, 1) ? 1 : 4),
        dense(weight.dense()), tokens(random_between(1, 150)), size((weight.outputs + kPartRows - 1) / kPartRows * kPartRows),
        scale(size), bias(size), params(size, make_quant_params(1.0f, 0)), gelu(random_between(0, 1)),
        input_zero((int)random_between(0, 255)), x(tokens * weight.inputs), integers(tokens * weight.outputs),
        numbers(tokens * weight.outputs) {
    for (int64_t row = 0; row < weight.outputs; row++) {
      scale[row] = 1e-3f * random_number();
      bias[row] = random_number();
      params[row] = make_quant_params(std::exp(random_number()), (int)random_between(0, 255));
    }
    for (size_t index = 0; index < x.size; index++) x[index] = (uint8_t)random_between(0, 255);
  }

  // Tiles of tokens, the outputs in several pieces; work(tile, first part, end, 64-byte aligned memory).
  template <typename Room, typename Work>
  void run(int64_t tile, int64_t parts, const Room& room, const Work& work) {
    int64_t pieces = random_between(1, parts);
    for (int64_t index = 0; index * tile < tokens; index++)
      for (int64_t piece = 0; piece < pieces; piece++) {
        int64_t first = parts * piece / pieces, end = parts * (piece + 1) / pieces;
        Exact<uint8_t> memory(room(end - first) + 64);
        work(index, first, end, memory.get() + (64 - (uintptr_t)memory.get() % 64));
      }
  }

  void check() {
    for (int64_t row = 0; row < weight.outputs; row++)
      for (int64_t token = 0; token < tokens; token++) {
        int64_t sum = 0;
        for (int64_t k = 0; k < weight.inputs; k++)
          sum += (x[token * weight.inputs + k] - input_zero) * dense[row * weight.inputs + k];
        volatile float product = (float)sum * scale[row];
        float expected = product + bias[row], actual = numbers[token * weight.outputs + row];
        if (!gelu && actual != expected) fail("a Linear layer's output is wrong");
        float integer = std::nearbyint(actual / params[row].scale) + params[row].zero;
        if (integers[token * weight.outputs + row] != std::fmin(std::fmax(integer, 0.0f), 255.0f))
          fail("a Linear layer's integer is wrong");
      }
  }
};

static void test_linear() {
  LinearCase given;
  PackedBlocks packed(decode_rows(given.weight.file()), given.weight.values.get());
  const SparseWeight& view = packed.view();
  Linear linear{view, {given.scale.data(), given.bias.data(), given.gelu, nullptr}, given.input_zero};
  Linear quantized = linear;
  quantized.epilogue.output_params = given.params.data();
  given.run(
      kTokens, view.parts, [&](int64_t parts) { return panel_size(view) + sums_size(parts); },
      [&](int64_t tile, int64_t first, int64_t end, uint8_t* memory) {
        int32_t* sums = (int32_t*)(memory + panel_size(view));
        kernels().linear_panel(view, given.x.get(), given.tokens, tile, memory);
        kernels().linear(linear, memory, given.tokens, tile, first, end, given.numbers.get(), sums);
        kernels().linear(quantized, memory, given.tokens, tile, first, end, given.integers.get(), sums);
      });
  given.check();
}

static void test_window_linear() {
  if (!kernels().window_linear) return;
  LinearCase given;
  PackedWindows packed(decode_rows(given.weight.file()), given.weight.values.get());
  const WindowWeight& view = packed.view();
  std::vector<float> scale, reciprocal, low, high;
  std::vector<int32_t> zero;
  for (const QuantParams& params : given.params) {
    scale.push_back(params.scale);
    reciprocal.push_back(params.reciprocal);
    low.push_back(params.low);
    high.push_back(params.high);
    zero.push_back(params.zero);
  }
  WindowLinear linear{view, {given.scale.data(), given.bias.data(), given.gelu, nullptr, nullptr, nullptr, nullptr, nullptr}, given.input_zero};
  WindowLinear quantized = linear;
  quantized.epilogue = {given.scale.data(), given.bias.data(), given.gelu, scale.data(),
                        reciprocal.data(),  low.data(),        high.data(), zero.data()};
  int64_t parts = view.order ? 1 : view.groups, each = view.groups / parts;
  given.run(
      kWindowTokens, parts, [&](int64_t count) { return window_scratch(view, count * each); },
      [&](int64_t tile, int64_t first, int64_t end, void* memory) {
        first *= each;
        end *= each;
        kernels().window_linear(linear, given.x.get(), given.tokens, tile, first, end, given.numbers.get(), memory);
        kernels().window_linear(quantized, given.x.get(), given.tokens, tile, first, end, given.integers.get(), memory);
      });
  given.check();
}

static void test_float_linear() {
  RandomWeight weight(random_between(1, 300), random_between(1, 150), random_between(0, 1) ? 1 : 4);
  int64_t inputs = weight.inputs, outputs = weight.outputs, tokens = random_between(1, 140);
  Exact<float> values(weight.values.size), x(tokens * inputs), y(tokens * outputs);
  for (size_t index = 0; index < values.size; index++) values[index] = weight.values[index];
  for (size_t index = 0; index < x.size; index++) x[index] = random_number();
  PackedFloats packed(decode_rows(weight.file()), values.get());
  const FloatWeight& view = packed.view();
  Exact<float> bias(packed.padded_outputs());
  for (int64_t row = 0; row < outputs; row++) bias[row] = random_number();
  bool gelu = random_between(0, 1);
  FloatLinear linear{view, bias.get(), gelu};
  int64_t pieces = random_between(1, view.parts);
  for (int64_t tile = 0; tile * kFloatTokens < tokens; tile++) {
    int64_t token = tile * kFloatTokens, count = std::min(tokens - token, (int64_t)kFloatTokens);
    Exact<float> panel(float_panel_size(view));
    for (int64_t slice = 0; slice < view.slices; slice++)
      kernels().float_panel(x.get(), inputs, tokens, tile, slice, panel.get());
    for (int64_t piece = 0; piece < pieces; piece++) {
      int64_t first = view.parts * piece / pieces, end = view.parts * (piece + 1) / pieces, row = first * kFloatPartRows;
      Exact<float> sums(float_sums_size(end - first));
      kernels().float_linear(linear, panel.get(), count, first, end, sums.get());
      kernels().float_output(sums.get(), count, std::min(end * kFloatPartRows, outputs) - row,
                             y.get() + token * outputs + row, outputs);
    }
  }
  std::vector<int> dense = weight.dense();
  for (int64_t row = 0; row < outputs && !gelu; row++)
    for (int64_t token = 0; token < tokens; token++) {
      float sum = bias[row];
      for (int64_t k = 0; k < inputs; k++) sum = std::fma(x[token * inputs + k], (float)dense[row * inputs + k], sum);
      if (y[token * outputs + row] != sum) fail("an fp32 Linear layer's output is wrong");
    }
}

static bool test_hostile_weight() {
  RandomWeight weight(random_between(1, 100), random_between(1, 100), random_between(0, 1) ? 1 : 4);
  SparseFile file = weight.file();
  switch (random_between(0, 5)) {
    case 0: weight.counts[random_between(0, weight.outputs - 1)] += (uint32_t)random_between(1, 1 << 30); break;
    case 1:
      if (file.entries) weight.gaps[random_between(0, file.entries - 1)] = (uint8_t)random_between(0, 255);
      break;
    case 2: file.entries -= file.entries ? random_between(0, file.entries) : 0; break;
    case 3: file.inputs = random_between(-10, weight.inputs); break;
    case 4: file.outputs = random_between(-10, weight.outputs); break;
    case 5: for (int64_t row = 0; row < weight.outputs; row++) weight.counts[row] = (uint32_t)random_between(0, 65535);
  }
  try {
    SparseRows rows = decode_rows(file);
    PackedBlocks blocks(rows, weight.values.get());
    PackedWindows windows(rows, weight.values.get());
    std::vector<float> values(weight.values.size);
    PackedFloats floats(rows, values.data());
    return false;
  } catch (const std::invalid_argument&) {
    return true;
  }
}

// Sizes alone are refused: there is no memory behind these.
static void test_hostile_sizes() {
  const int64_t sizes[][3] = {{65536, int64_t{1} << 28, 0}, {1, 1, int64_t{1} << 40}, {int64_t{1} << 40, 1, 1}};
  for (auto& size : sizes) {
    try {
      decode_rows({size[0], size[1], size[2], 4, nullptr, nullptr});
      fail("a weight that is too large was read");
    } catch (const std::invalid_argument&) {
    }
  }
}

static void test_attention() {
  Attention a{};
  int64_t batch = random_between(1, 3);
  a.length = random_between(1, 70);
  a.heads = random_between(1, 3);
  a.head_size = random_between(1, 40);
  int64_t width = a.heads * a.head_size;
  a.query_stride = width + random_between(0, 5);
  a.key_stride = width + random_between(0, 5);
  a.value_stride = width + random_between(0, 5);
  // The last row ends with the last head.
  Exact<uint8_t> query((batch * a.length - 1) * a.query_stride + width);
  Exact<uint8_t> key((batch * a.length - 1) * a.key_stride + width);
  Exact<uint8_t> value((batch * a.length - 1) * a.value_stride + width);
  for (auto* tensor : {&query, &key, &value})
    for (size_t index = 0; index < tensor->size; index++) (*tensor)[index] = (uint8_t)random_between(0, 255);
  bool each = random_between(0, 1);
  Exact<float> mask(batch * (each ? a.length : 1) * a.length);
  for (size_t index = 0; index < mask.size; index++) mask[index] = random_between(0, 1) ? 0.0f : -3.402823466e38f;
  a.query = query.get();
  a.key = key.get();
  a.value = value.get();
  a.key_flip = random_between(0, 1) ? 0x80 : 0;
  a.value_flip = random_between(0, 1) ? 0x80 : 0;
  a.mask = mask.get();
  a.mask_query_stride = each ? a.length : 0;
  a.mask_batch_stride = (each ? a.length : 1) * a.length;
  a.query_zero = (int)random_between(0, 255);
  a.key_zero = (int)random_between(-128, 127);
  a.value_zero = (int)random_between(-128, 127);
  a.score_scale = 1e-4f;
  a.probability_params = make_quant_params(1.0f / 255, (int)random_between(0, 3));
  a.context_scale = 1e-4f;
  a.output_params = make_quant_params(0.01f, (int)random_between(0, 255));
  Exact<uint8_t> output(batch * a.length * width);
  a.output = output.get();
  Exact<uint8_t> room(attention_scratch(a) + 64);
  void* memory = room.get() + (64 - (uintptr_t)room.get() % 64);
  for (int64_t row = 0; row < batch; row++)
    for (int64_t head = 0; head < a.heads; head++) kernels().attention(a, row, head, memory);
}

static void test_float_attention() {
  FloatAttention a{};
  int64_t batch = random_between(1, 2);
  a.length = random_between(1, 140);
  a.heads = random_between(1, 3);
  a.head_size = random_between(1, 40);
  int64_t width = a.heads * a.head_size;
  bool each = random_between(0, 1);
  Exact<float> mask(batch * (each ? a.length : 1) * a.length);
  for (size_t index = 0; index < mask.size; index++) mask[index] = random_between(0, 1) ? 0.0f : -3.402823466e38f;
  a.mask = mask.get();
  a.mask_query_stride = each ? a.length : 0;
  a.mask_batch_stride = (each ? a.length : 1) * a.length;
  const float** tensors[] = {&a.query, &a.key, &a.value};
  int64_t* strides[] = {&a.query_stride, &a.key_stride, &a.value_stride};
  std::vector<Exact<float>> memory;
  for (int i = 0; i < 3; i++) {
    *strides[i] = width + random_between(0, 5);
    memory.emplace_back((batch * a.length - 1) * *strides[i] + width);
    for (size_t index = 0; index < memory[i].size; index++) memory[i][index] = random_number();
    *tensors[i] = memory[i].get();
  }
  Exact<float> output(batch * a.length * width), room(float_attention_scratch(a) / sizeof(float));
  a.output = output.get();
  for (int64_t row = 0; row < batch; row++)
    for (int64_t head = 0; head < a.heads; head++) kernels().float_attention(a, row, head, room.get());
}

static void test_add_norm() {
  int64_t rows = random_between(1, 5), size = random_between(1, 100), rest = random_between(1, rows);
  Exact<float> a(rows * size), b(rest * size), gamma(size), beta(size), output(rows * size);
  Exact<uint8_t> integers(rows * size);
  for (auto* tensor : {&a, &b, &gamma, &beta})
    for (size_t index = 0; index < tensor->size; index++) (*tensor)[index] = random_number();
  if (!random_between(0, 9)) a[0] = NAN;
  if (!random_between(0, 9)) a[0] = INFINITY;
  AddNorm norm{a.get(), b.get(), rest, gamma.get(), beta.get(), size, 1e-12f, output.get(),
               random_between(0, 1) ? integers.get() : nullptr, make_quant_params(0.02f, 120)};
  kernels().add_norm(norm, 0, rows);
}

int main() {
  int refused = 0;
  std::string names = available_kernels();
  for (size_t start = 0, end; (end = names.find(' ', start)) != std::string::npos; start = end + 1) {
    if (!select_kernels(names.substr(start, end - start).c_str())) fail("cannot be selected");
    for (int round = 0; round < 10; round++) {
      test_linear();
      test_window_linear();
      test_attention();
      test_float_linear();
      test_float_attention();
      test_add_norm();
      test_hostile_sizes();
      for (int weight = 0; weight < 30; weight++) refused += test_hostile_weight();
    }
  }
  std::printf("ok %d %s\n", refused, names.c_str());
}
