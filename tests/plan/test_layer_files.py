"""Files of one layer compute what the layer computes, by the operators of an exported model."""

import numpy as np
import onnx
import onnxruntime

from sparsification.plan.layer_files import write_float_layer, write_layer


def test_dense_layer_runs_as_it_does_in_an_exported_model(tmp_path):
    path = write_layer(np.ones((16, 8), np.int8), tmp_path / "layer.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert nodes == ["MatMulIntegerToFloat", "Add"]


def test_float_layer_is_the_product_with_its_weight(tmp_path):
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(16, 8)).astype(np.float32)
    x = generator.normal(size=(1, 3, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(write_float_layer(weight, tmp_path / "layer.onnx")))
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weight.T, rtol=1e-5, atol=1e-6)
