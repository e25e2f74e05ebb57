"""The sparse operators compute what numpy computes, on every instruction set, whatever a file holds."""

import math
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from helpers.exports import needs_compiler
from helpers.operators import each_instruction_set, gelu, make_model, make_session, pack, property_test, replaced
from sparsification.runtime.build import build

# One Linear layer


def _linear_case(tokens: int, inputs: int, outputs: int, density: float, seed: int, width: int = 4) -> dict:
    """A random layer; of the entries of its weight so many are kept, in blocks or in single weights."""
    generator = np.random.default_rng(seed)
    weight = generator.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    keep = generator.random((outputs, -(-inputs // width))) < density * generator.uniform(0.5, 1.5, (outputs, 1))
    weight *= keep.repeat(width, axis=1)[:, :inputs]
    return {
        "x": generator.integers(0, 256, (tokens, inputs)).astype(np.uint8),
        "weight": weight,
        "width": width,
        "scale": (generator.uniform(0.5, 1.5, outputs) * 0.03 / math.sqrt(inputs)).astype(np.float32),
        "bias": generator.normal(size=outputs).astype(np.float32),
        "zero_point": int(generator.integers(0, 256)),
        "output_scale": generator.uniform(0.01, 0.05, outputs).astype(np.float32),
        "output_zero_point": generator.integers(0, 256, outputs).astype(np.uint8),
    }


def _linear_session(case: dict, gelu: bool = False, quantized: bool = False, threads: int = 1, **spoilt):
    constants = pack(case["weight"], case["width"]) | {"scale": case["scale"], "bias": case["bias"]}
    if quantized:
        constants |= {name: case[name] for name in ("output_scale", "output_zero_point")}
    attributes = {"inputs": case["weight"].shape[1], "zero_point": case["zero_point"], "gelu": int(gelu)}
    for name, change in spoilt.items():
        place = constants if name in constants else attributes
        place[name] = change(place[name])
    op, output = ("SparseLinearQuantized", TensorProto.UINT8) if quantized else ("SparseLinear", TensorProto.FLOAT)
    return make_session(op, {"x": case["x"]}, constants, {"y": output}, attributes, threads)


def _exact(case: dict) -> np.ndarray:
    """A layer's output, its sums in integers."""
    sums = (case["x"].astype(np.int64) - case["zero_point"]) @ case["weight"].T.astype(np.int64)
    return sums.astype(np.float32) * case["scale"] + case["bias"]


def _quantized(x: np.ndarray, scale, zero_point) -> np.ndarray:
    """QuantizeLinear, by its definition."""
    return np.clip(np.rint(x / scale) + np.float32(zero_point), 0, 255).astype(np.uint8)


linear_cases = st.builds(
    _linear_case,
    tokens=st.integers(1, 70),
    inputs=st.one_of(st.integers(1, 70), st.sampled_from([384, 801, 1640])),
    outputs=st.one_of(st.integers(1, 40), st.sampled_from([64, 130])),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([1, 4]),
)


@needs_compiler
@property_test
@given(linear_cases)
def test_linear_equals_numpy_to_the_last_bit(case):
    expected = _exact(case)
    for _ in each_instruction_set():
        numbers, integers = _linear_session(case), _linear_session(case, quantized=True)
        np.testing.assert_array_equal(numbers.run(None, {"x": case["x"]})[0], expected)
        params = case["output_scale"], case["output_zero_point"]
        np.testing.assert_array_equal(integers.run(None, {"x": case["x"]})[0], _quantized(expected, *params))


@needs_compiler
@property_test
@given(linear_cases)
def test_gelu_is_that_of_erf_and_the_same_everywhere(case):
    expected = gelu(_linear_session(case).run(None, {"x": case["x"]})[0])
    results = [
        [_linear_session(case, gelu=True, quantized=kind).run(None, {"x": case["x"]})[0] for kind in (False, True)]
        for _ in each_instruction_set()
    ]
    np.testing.assert_allclose(results[0][0], expected, rtol=1e-7, atol=1.5e-7)
    params = case["output_scale"], case["output_zero_point"]
    np.testing.assert_array_equal(results[0][1], _quantized(results[0][0], *params))
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


@needs_compiler
def test_gelu_is_exact_wherever_it_is_not_a_line():
    x = np.concatenate([np.linspace(-12, 12, 4001), [-1e30, -0.0, 1e-30, 1e30, np.inf, np.nan]]).astype(np.float32)
    case = _linear_case(1, 4, len(x), 0.0, 0, 1) | {"bias": x}
    for _ in each_instruction_set():
        actual = _linear_session(case, gelu=True).run(None, {"x": case["x"]})[0][0]
        np.testing.assert_allclose(actual, gelu(x), rtol=1e-7, atol=1.5e-7)


@needs_compiler
def test_extreme_sums_do_not_saturate():
    """Where there is no VNNI, pairs of such products overflow 16 bits."""
    for value in (-128, 127):
        case = _linear_case(33, 65536, 3, 1.0, 0) | {"zero_point": 0}
        case["x"][:], case["weight"][:], case["scale"][:], case["bias"][:] = 255, value, 1.0, 0.0
        for _ in each_instruction_set():
            assert (_linear_session(case).run(None, {"x": case["x"]})[0] == np.float32(255 * value * 65536)).all()


@needs_compiler
def test_outputs_out_of_range_saturate():
    case = _linear_case(3, 4, 4, 0.0, 0)
    case["bias"] = np.array([np.inf, -np.inf, 3e38, -3e38], np.float32)
    for _ in each_instruction_set():
        assert (_linear_session(case, quantized=True).run(None, {"x": case["x"]})[0] == [255, 0, 255, 0]).all()


@needs_compiler
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("length", [15, 100])  # few tiles, which threads share, and many
def test_batches_and_threads_change_nothing(width, length):
    case = _linear_case(6 * length, 1640, 200, 0.2, 0, width)
    expected = _exact(case).reshape(2, 3, length, 200)
    case["x"] = case["x"].reshape(2, 3, length, 1640)
    session = _linear_session(case, threads=2)
    np.testing.assert_array_equal(session.run(None, {"x": case["x"]})[0], expected)
    results = []
    workers = [threading.Thread(target=lambda: results.append(session.run(None, {"x": case["x"]})[0])) for _ in "1234"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, expected)
    assert session.run(None, {"x": case["x"][:, :0]})[0].shape == (2, 0, length, 200)


_PER_OUTPUT = ("counts", "scale", "bias", "output_scale", "output_zero_point")
HOSTILE = [
    ("more entries than there are inputs", {"counts": replaced(0, 30)}),
    ("rows' entries are not as many", {"counts": replaced(0, 0)}),
    ("has no outputs", dict.fromkeys(_PER_OUTPUT, lambda array: array[:0])),
    ("beyond its inputs", {"gaps": replaced(-1, 25)}),
    ("of input parameter .gaps.", {"gaps": lambda array: array.astype(np.int32)}),
    ("not one or four for each gap", {"values": lambda array: array[:-1]}),
    ("scale does not have a number for each", {"scale": lambda array: array[:-1]}),
    ("bias does not have a number for each", {"bias": lambda array: np.append(array, array)}),
    ("output_scale is no positive number", {"output_scale": replaced(3, 0.0)}),
    ("output_scale is no positive number", {"output_scale": replaced(3, np.nan)}),
    ("output_scale is no positive number", {"output_scale": replaced(3, -1.0)}),
    ("output_zero_point does not have", {"output_zero_point": lambda array: array[:5]}),
    ("inputs is out of range", {"inputs": lambda value: 2**40}),
    ("more entries than there are inputs", {"inputs": lambda value: 12}),
    ("zero_point is out of range", {"zero_point": lambda value: 256}),
]


@needs_compiler
@pytest.mark.parametrize(("message", "change"), HOSTILE)
def test_hostile_weight_is_refused_when_the_session_is_made(message, change):
    case = _linear_case(2, 100, 20, 0.5, 0)
    with pytest.raises(Exception, match=message):
        _linear_session(case, quantized=True, **change)


LOAD = """
import resource, sys, time, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.register_custom_ops_library(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
except Exception as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@needs_compiler
@pytest.mark.parametrize(
    ("message", "per_output"),
    [
        ("scale does not have a number", {"scale": 1, "bias": 1}),
        ("output_zero_point does not have", {"output_zero_point": 1}),
        ("too few entries for as many inputs and outputs", {}),
    ],
)
def test_weight_of_sizes_that_do_not_fit_is_refused_before_memory_is_taken(message, per_output, tmp_path):
    """Packed, these 2 million rows of 82 slices each would take 700 MB."""
    rows = 2**21
    constants = {
        "counts": np.zeros(rows, np.uint32),
        "gaps": np.zeros(0, np.uint8),
        "values": np.zeros((0, 4), np.int8),
        "scale": np.ones(per_output.get("scale", rows), np.float32),
        "bias": np.ones(per_output.get("bias", rows), np.float32),
        "output_scale": np.ones(rows, np.float32),
        "output_zero_point": np.zeros(per_output.get("output_zero_point", rows), np.uint8),
    }
    attributes = {"inputs": 65536, "zero_point": 0, "gelu": 0}
    feeds, outputs = {"x": np.zeros((1, 65536), np.uint8)}, {"y": TensorProto.UINT8}
    path = tmp_path / "model.onnx"
    onnx.save(make_model("SparseLinearQuantized", feeds, constants, outputs, attributes), path)
    command = [sys.executable, "-c", LOAD, str(build()), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    said, grown = result.stdout.rsplit("\n", 2)[:2]
    assert message in said
    # ONNX Runtime itself has the file two or three times: as it is read, as messages, as tensors.
    assert int(grown) < 4 * path.stat().st_size + 16e6


@needs_compiler
@pytest.mark.parametrize(("inputs", "outputs"), [(28672, 8192), (768, 250002), (65536, 64)])
def test_weight_of_zeros_alone_is_taken_in_the_sizes_that_models_have(inputs, outputs):
    x, bias = np.zeros((1, inputs), np.uint8), np.arange(outputs, dtype=np.float32)
    constants = {
        "counts": np.zeros(outputs, np.uint32),
        "gaps": np.zeros(0, np.uint8),
        "values": np.zeros((0, 4), np.int8),
        "scale": np.ones(outputs, np.float32),
        "bias": bias,
    }
    attributes = {"inputs": inputs, "zero_point": 0, "gelu": 0}
    session = make_session("SparseLinear", {"x": x}, constants, {"y": TensorProto.FLOAT}, attributes)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0][0], bias)


@needs_compiler
def test_weight_that_is_no_constant_is_refused():
    case = _linear_case(2, 100, 20, 0.5, 0)
    constants = pack(case["weight"]) | {"scale": case["scale"], "bias": case["bias"]}
    feeds = {"x": case["x"], "counts": constants.pop("counts")}
    attributes = {"inputs": 100, "zero_point": 0, "gelu": 0}
    with pytest.raises(Exception, match="counts is no constant"):
        make_session("SparseLinear", feeds, constants, {"y": TensorProto.FLOAT}, attributes)


@needs_compiler
def test_input_of_another_width_is_refused():
    case = _linear_case(2, 100, 20, 0.5, 0)
    session = _linear_session(case)
    for width in (0, 99, 101):
        with pytest.raises(Exception, match="not as wide as the weight"):
            session.run(None, {"x": np.zeros((2, width), np.uint8)})


# Attention


@st.composite
def attention_cases(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, heads = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    length = draw(st.one_of(st.integers(1, 40), st.just(130)))
    size = draw(st.one_of(st.integers(1, 40), st.just(64)))
    signed, symmetric, kind = (
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(["none", "padding", "any"])),
    )
    shape = batch, length, heads * size
    mask = np.zeros((batch, 1, length if kind == "any" else 1, length), np.float32)
    if kind != "none":
        mask[generator.random(mask.shape) < 0.3] = np.finfo(np.float32).min
    return {
        "query": generator.integers(0, 256, shape).astype(np.uint8),
        "key": generator.integers(-128, 128, shape).astype(np.int8),
        "value": generator.integers(-128, 128, shape).astype(np.int8),
        "mask": mask,
        "signed": signed,
        "attributes": {
            "heads": heads,
            "head_size": size,
            "query_offset": 0,
            "key_offset": 0,
            "value_offset": 0,
            "query_zero_point": int(generator.integers(0, 256)),
            "key_zero_point": 0 if symmetric else int(generator.integers(-128, 128)),
            "value_zero_point": 0 if symmetric else int(generator.integers(-128, 128)),
            "score_scale": float(np.float32(2e-4 / math.sqrt(size))),
            "probability_scale": float(np.float32(1 / 251.7)),
            "probability_zero_point": 0 if symmetric else 2,
            "context_scale": float(np.float32(0.01 / 251.7)),
            "output_scale": float(np.float32(0.004)),
            "output_zero_point": int(generator.integers(64, 192)),
        },
    }


def _attention(case: dict) -> np.ndarray:
    """The output by the definition, in float64 where the operator has fp32."""
    values = case["attributes"]
    heads, size = values["heads"], values["head_size"]
    batch, length, width = case["query"].shape

    def cut(name):
        integers = case[name].astype(np.int64) - values[f"{name}_zero_point"]
        return integers.reshape(batch, length, heads, size).transpose(0, 2, 1, 3)

    scores = (cut("query") @ cut("key").transpose(0, 1, 3, 2)) * values["score_scale"]
    # Added in fp32: so little beside the mask's least number that hidden keys are all alike.
    scores = (scores.astype(np.float32) + case["mask"]).astype(float)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities = powers / powers.sum(-1, keepdims=True)
    zero_point = values["probability_zero_point"]
    integers = np.clip(np.rint(probabilities / values["probability_scale"]) + zero_point, 0, 255) - zero_point
    context = (integers @ cut("value")) * values["context_scale"]
    context = context.transpose(0, 2, 1, 3).reshape(batch, length, width)
    return np.clip(np.rint(context / values["output_scale"]) + values["output_zero_point"], 0, 255)


def _attention_run(case: dict, threads: int = 1) -> np.ndarray:
    feeds = {name: case[name] for name in ("query", "key", "value", "mask")}
    if not case["signed"]:
        feeds |= {name: (case[name].astype(np.int16) + 128).astype(np.uint8) for name in ("key", "value")}
    session = make_session("QuantizedAttention", feeds, {}, {"y": TensorProto.UINT8}, case["attributes"], threads)
    return session.run(None, feeds)[0]


@needs_compiler
@property_test
@given(attention_cases())
def test_attention_is_that_of_numpy_and_the_same_everywhere(case):
    results = [_attention_run(case) for _ in each_instruction_set()]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    # fp32 and float64 round a few probabilities to different integers; each moves the output by a fraction of a step.
    steps = np.abs(results[0] - _attention(case))
    assert steps.max() <= 1
    assert (steps != 0).mean() <= 0.02 + 2 / steps.size


@needs_compiler
def test_one_tensor_of_query_key_and_value_gives_the_same():
    generator = np.random.default_rng(0)
    case = {name: generator.integers(0, 256, (2, 20, 32)).astype(np.uint8) for name in ("query", "key", "value")}
    feeds = case | {"mask": np.zeros((1, 1, 1, 20), np.float32)}
    attributes = {f"{name}_zero_point": 0 for name in ("query", "key", "value", "probability", "output")}
    attributes |= {"heads": 2, "head_size": 16, "score_scale": 1e-4, "context_scale": 1e-4}
    attributes |= {"probability_scale": 0.004, "output_scale": 0.01}
    offsets = {"query_offset": 0, "key_offset": 0, "value_offset": 0}
    outputs = {"y": TensorProto.UINT8}
    apart = make_session("QuantizedAttention", feeds, {}, outputs, attributes | offsets).run(None, feeds)[0]
    feeds = dict.fromkeys(("query", "key", "value"), np.concatenate(list(case.values()), -1)) | {"mask": feeds["mask"]}
    offsets = {"query_offset": 0, "key_offset": 32, "value_offset": 64}
    session = make_session("QuantizedAttention", feeds, {}, outputs, attributes | offsets)
    np.testing.assert_array_equal(session.run(None, feeds)[0], apart)
    wrong = {
        "too narrow": {"value": feeds["value"][..., :-1]},
        "differ in batch or length": {"key": feeds["key"][:, :-1]},
        "mask is no": {"mask": np.zeros((1, 1, 1, 19), np.float32)},
        "mask is no.*": {"mask": np.zeros((2, 1, 2, 20), np.float32)},
    }
    for message, change in wrong.items():
        with pytest.raises(Exception, match=message):
            session.run(None, feeds | change)


# Residual sum and LayerNormalization


@needs_compiler
@property_test
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 90), st.booleans(), st.integers(0, 2**32 - 1))
def test_norm_is_that_of_numpy_and_the_same_everywhere(batch, length, size, shared, seed):
    generator = np.random.default_rng(seed)
    a, b = (generator.normal(1, 2, (n, length, size)).astype(np.float32) for n in (batch, 1 if shared else batch))
    constants = {name: generator.normal(size=size).astype(np.float32) for name in ("gamma", "beta")}
    attributes = {"epsilon": 1e-5, "scale": float(np.float32(0.02)), "zero_point": int(generator.integers(0, 256))}
    outputs = {"y": TensorProto.FLOAT, "q": TensorProto.UINT8}
    session = make_session("AddNormQuantize", {"a": a, "b": b}, constants, outputs, attributes)
    x = a.astype(float) + b
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    expected = expected * constants["gamma"] + constants["beta"]
    first = None
    for _ in each_instruction_set():
        numbers, integers = session.run(None, {"a": a, "b": b})
        swapped = session.run(None, {"a": b, "b": a})
        first = first or (numbers.tobytes(), integers.tobytes())
        assert (numbers.tobytes(), integers.tobytes()) == first == tuple(array.tobytes() for array in swapped)
        np.testing.assert_array_equal(integers, _quantized(numbers, np.float32(0.02), attributes["zero_point"]))
        if size > 8:  # of a few numbers that are nearly equal, the deviation is all rounding
            np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-5)


# Whole models


# The library
