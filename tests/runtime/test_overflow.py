"""int8 graphs whose sums overflow without VNNI are computed in fp32 there, and all others as everywhere."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.exports import CASES, OUTPUTS, export_model, make_batch, make_bert, quantize_model
from sparsification import runtime
from sparsification.runtime import overflow

INPUTS, NEURONS, ROWS = 256, 16, 8


@pytest.fixture(autouse=True)
def no_vnni(monkeypatch):
    monkeypatch.setattr(overflow, "has_vnni", lambda: False)
    runtime._warn_of_overflow.cache_clear()


def integer_product(folder: Path, largest: int, zero_points: int) -> tuple[Path, np.ndarray, np.ndarray]:
    """A file with a product of uint8 inputs and a weight whose values are +-``largest``; inputs and the right sums."""
    generator = np.random.default_rng(0)
    weight = (largest * generator.choice([-1, 1], (INPUTS, NEURONS))).astype(np.int8)
    x = generator.integers(200, 256, (ROWS, INPUTS)).astype(np.uint8)
    scalars = [("a", np.uint8(3)), ("b", np.int8(0))][:zero_points]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in [("w", weight), *scalars]]
    node = helper.make_node("MatMulInteger", ["x", "w", *(name for name, _ in scalars)], ["y"])
    values = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, [None, INPUTS]),
        helper.make_tensor_value_info("y", TensorProto.INT32, [None, NEURONS]),
    ]
    graph = helper.make_graph([node], "product", values[:1], values[1:], tensors)
    path = folder / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path, x, (x.astype(np.int64) - (3 if scalars else 0)) @ weight.astype(np.int64)


@pytest.mark.parametrize("zero_points", [0, 1, 2])
def test_large_weights_are_multiplied_exactly(zero_points, tmp_path, caplog):
    path, x, expected = integer_product(tmp_path, 127, zero_points)
    assert overflow.overflows(onnx.load(path), tmp_path)
    np.testing.assert_array_equal(runtime.load_session(path).run(None, {"x": x})[0], expected)
    runtime.load_session(path)
    assert caplog.text.count("This CPU has no VNNI") == 1


def test_external_weights_are_multiplied_exactly(tmp_path):
    path, x, expected = integer_product(tmp_path, 127, 2)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert overflow.overflows(onnx.load(path, load_external_data=False), tmp_path)
    np.testing.assert_array_equal(runtime.load_session(path).run(None, {"x": x})[0], expected)


def test_weights_of_seven_bits_stay_integers(tmp_path, caplog, monkeypatch):
    path, x, expected = integer_product(tmp_path, 64, 2)
    assert not overflow.overflows(onnx.load(path), tmp_path)
    np.testing.assert_array_equal(runtime.load_session(path).run(None, {"x": x})[0], expected)
    assert not caplog.records
    path, _, _ = integer_product(tmp_path, 127, 2)
    monkeypatch.setattr(overflow, "has_vnni", lambda: None)
    assert not overflow.overflows(onnx.load(path), tmp_path)


@pytest.mark.parametrize(("case", "expected"), [("per channel", True), ("reduce_range, per channel", False)])
@pytest.mark.parametrize("target", ["onnxruntime", "deepsparse"])
def test_exports_overflow_unless_their_range_is_reduced(case, expected, target, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        report = export_model(quantize_model(make_bert(1), **CASES[case]), tmp_path, target=target)
    assert overflow.overflows(onnx.load(report.path), tmp_path) is expected
    assert ("computed in fp32" in caplog.text) is expected


def test_narrow_weights_alone_leave_the_products_of_activations(tmp_path):
    report = export_model(quantize_model(make_bert(1), weight_bits=4), tmp_path)
    assert overflow.overflows(onnx.load(report.path), tmp_path)


def test_graph_in_fp32_gives_the_outputs_of_the_integers(tmp_path, monkeypatch):
    """Of a graph that does not overflow, on any CPU."""
    model = quantize_model(make_bert(1), **CASES["reduce_range, per channel"])
    report = export_model(model, tmp_path, target="deepsparse")
    feed = {name: tensor.numpy() for name, tensor in make_batch(3, 17).items()}
    integers = runtime.load_session(report.path).run(OUTPUTS, feed)
    monkeypatch.setattr(overflow, "LARGEST", 1)
    for one, other in zip(integers, runtime.load_session(report.path).run(OUTPUTS, feed), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-2)
