"""The provider on random graphs of its patterns, beside numpy."""

import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from random_graphs import FORMS, LEVELS, WEIGHTS, make_graph
from sessions import run_cpu, run_provider

# Shapes of the two terms of a sum, without the last dimension.
TERMS = [
    ((2, 5), (2, 5)),
    ((2, 5), (1, 5)),
    ((5,), (2, 5)),
    ((2, 1), (1, 5)),
    ((1, 1), (2, 5)),
    ((0, 5), (1, 5)),
    ((), (3,)),
]
CASES = st.fixed_dictionaries(
    {
        "inputs": st.integers(1, 140),
        "outputs": st.lists(st.integers(1, 80), min_size=1, max_size=3),  # of layers of one input
        "shape": st.sampled_from([(), (1,), (3,), (0,), (2, 5), (1, 33), (2, 1, 3)]),
        "zeros": st.sampled_from([0.0, 0.5, 0.9, 1.0]),
        "bias": st.booleans(),
        "channel": st.booleans(),
        "form": st.sampled_from(FORMS),
        "weights": st.sampled_from(WEIGHTS),
        "signed": st.booleans(),  # the input, unless it is quantized dynamically
        "signed_output": st.booleans(),
        "shares": st.booleans(),  # one DequantizeLinear or DynamicQuantizeLinear for all layers; a transposed Gemm
        "quantize": st.booleans(),
        "also_output": st.booleans(),  # the graph returns what is before the quantization, too
        "level": st.sampled_from(LEVELS),
        "fuse": st.booleans(),
        "static": st.booleans(),  # shapes are known: ONNX Runtime makes a Gemm of MatMul and Add
        "seed": st.integers(0, 2**32 - 1),
    }
)


def run(model: onnx.ModelProto, feed, level, **options) -> dict[str, np.ndarray]:
    names = [one.name for one in model.graph.output]
    return dict(zip(names, run_provider(model.SerializeToString(), feed, level, **options), strict=True))


@settings(max_examples=300, deadline=None)
@given(CASES)
def test_int8_layers_are_exact(case):
    model, feed, expected = make_graph(case)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        actual = run(model, feed, case["level"], always=True, fuse=case["fuse"], report=report)
        layers = [json.loads(line) for line in report.read_text().splitlines()]
    assert [bool(layer["taken"]) for layer in layers] == [True] * len(case["outputs"]), layers
    # ONNX Runtime makes a Gemm where it knows shapes, and quantizes its bias if a QuantizeLinear follows.
    error = 1e-3 if case["bias"] and case["quantize"] else 1e-6
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape
        if value.dtype == np.float32:
            np.testing.assert_allclose(actual[name], value, rtol=2e-6, atol=error)
        else:  # a quotient that lies halfway between two integers
            assert np.abs(actual[name].astype(int) - value).max(initial=0) <= 1


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 150), st.integers(1, 150), st.integers(1, 70)),
    shape=st.sampled_from([(1,), (0,), (2, 5), (1, 70), (130,)]),
    zeros=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    gelu=st.sampled_from(["", "erf", "Gelu"]),
    level=st.sampled_from(LEVELS),
    seed=st.integers(0, 2**32 - 1),
)
def test_fp32_feed_forward_equals_the_cpu_provider(sizes, shape, zeros, gelu, level, seed):
    generator = np.random.default_rng(seed)
    constants = {}
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weight = generator.normal(size=(inputs, outputs)).astype(np.float32)
        weight[generator.random(weight.shape) < zeros] = 0
        constants |= {f"w{index}": weight, f"b{index}": generator.normal(size=outputs).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["p"]), helper.make_node("Add", ["p", "b0"], ["h"])]
    if gelu == "erf":
        constants |= {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
        nodes += [
            helper.make_node("Div", ["h", "root"], ["quotient"]),
            helper.make_node("Erf", ["quotient"], ["erf"]),
            helper.make_node("Add", ["erf", "one"], ["sum"]),
            helper.make_node("Mul", ["h", "sum"], ["twice"]),
            helper.make_node("Mul", ["twice", "half"], ["g"]),
        ]
    elif gelu:
        nodes.append(helper.make_node("Gelu", ["h"], ["g"]))
    nodes += [
        helper.make_node("MatMul", ["g" if gelu else "h", "w1"], ["q"]),
        helper.make_node("Add", ["q", "b1"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * len(shape) + [sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = generator.normal(size=(*shape, sizes[0])).astype(np.float32)
    (expected,) = run_cpu(model.SerializeToString(), {"x": x})
    np.testing.assert_allclose(run(model, {"x": x}, level, always=True)["y"], expected, rtol=1e-4, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.sampled_from(TERMS),
    size=st.integers(1, 70),
    quantize=st.sampled_from(["no", "yes", "alone"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_of_any_shapes_are_normalized(shapes, size, quantize, seed):
    generator = np.random.default_rng(seed)
    constants = {
        "w": np.eye(size, dtype=np.float32),  # a layer, without which nothing is taken
        "gamma": generator.normal(size=size).astype(np.float32),
        "beta": generator.normal(size=size).astype(np.float32),
        "scale": np.float32(0.05),
        "zero": np.uint8(100),
    }
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["layer"]),
        helper.make_node("Add", ["layer", "b"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "gamma", "beta"], ["y"], epsilon=1e-5),
        helper.make_node("QuantizeLinear", ["y", "scale", "zero"], ["q"]),
    ][: 3 if quantize == "no" else 4]
    results = [] if quantize == "alone" else [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if quantize != "no":
        results.append(helper.make_tensor_value_info("q", TensorProto.UINT8, None))
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(shape) + [size])
            for name, shape in zip("ab", shapes, strict=True)
        ],
        results,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    a, b = (generator.normal(size=(*shape, size)).astype(np.float32) for shape in shapes)
    actual = run(model, {"a": a, "b": b}, LEVELS[1], always=True)
    total = (a + b).astype(np.float64)
    centered = total - total.mean(-1, keepdims=True)
    y = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * constants["gamma"] + constants["beta"]
    if "y" in actual:
        np.testing.assert_allclose(actual["y"], y, rtol=1e-3, atol=1e-3)
    if "q" in actual:
        assert np.abs(actual["q"].astype(int) - np.clip(np.rint(y / 0.05) + 100, 0, 255)).max(initial=0) <= 1
