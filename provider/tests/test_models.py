"""The provider on exported encoders: equal outputs, and the layers that it takes."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported_models import make_model
from random_graphs import LEVELS
from sessions import assert_close, run_cpu, run_provider

import onnxruntime_ep_sparse as sparse
from helpers.exports import (
    CASES,
    FAMILIES,
    ONNXRUNTIME_FORMS,
    make_batch,
    prune_model,
    quantize_by_onnxruntime,
)
from onnxruntime_ep_sparse.explain import explain, layer_reports
from sparsification.runtime import load_session
from sparsification.runtime.overflow import overflows
from sparsification.runtime.rewrite import rewrite_sparse


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_outputs_equal_those_of_the_cpu_provider(tmp_path, family, precision, exporter):
    path, feed = make_model(tmp_path, family, precision, exporter)
    layers = layer_reports(path, always=True)
    kinds = [layer.taken for layer in layers]
    assert len(layers) == 2 * 6 + 1
    assert kinds.count("attention") == 6
    assert kinds.count("feed-forward") == 4
    assert kinds.count("alone") == 3
    for level in LEVELS:
        assert_close(run_provider(path, feed, level, always=True), run_exact(path, feed, level), precision)


@pytest.mark.parametrize("dynamic", [(), (0,), (0, 1)], ids=["static", "batch", "batch and length"])
def test_models_that_pytorch_exports_by_itself(tmp_path, dynamic):
    """Its attention exchanges dimensions by way of three, and tests the probabilities for NaN."""
    make, names, pad = FAMILIES["bert"]
    model, path = prune_model(make()).eval(), tmp_path / "model.onnx"
    batch = make_batch(3, 20, names, pad)
    dimensions = {axis: torch.export.Dim(name) for axis, name in enumerate(("batch", "length")) if axis in dynamic}
    torch.onnx.export(
        model, (), path, kwargs=batch, dynamo=True, dynamic_shapes=dict.fromkeys(names, dimensions), verbose=False
    )
    kinds = [layer.taken for layer in layer_reports(path, always=True)]
    assert [kinds.count(kind) for kind in ("attention", "feed-forward", "alone")] == [6, 4, 3]
    feed = {name: one.numpy() for name, one in batch.items()}
    feed["attention_mask"][1] = 0  # no key at all
    for level in LEVELS:
        assert_close(run_provider(path, feed, level, always=True), run_exact(path, feed, level), "fp32")


def run_exact(path, feed, level=LEVELS[-1]):
    """Outputs with the CPU provider; of integers whose sums this CPU does not compute, in fp32."""
    model = onnx.load(path)
    return load_session(path).run(None, feed) if overflows(model, path.parent) else run_cpu(path, feed, level)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_outputs_are_the_bits_of_the_sparse_file(tmp_path, precision, share):
    path, feed = make_model(tmp_path, precision=precision, share=share)
    rewrite_sparse(path, always=True)
    expected = load_session(tmp_path / "model.sparse.onnx", threads=1).run(None, feed)
    for options in ({"always": True}, {"always": True, "fuse": False}):
        actual = run_provider(path, feed, **options)
        for one, other in zip(actual, expected, strict=True):
            if options == {"always": True}:
                np.testing.assert_array_equal(one, other)
            else:
                assert np.abs(one - other).mean() < 0.02 * other.std()


@pytest.mark.parametrize(
    "case",
    [
        "per channel",
        "4-bit weights",
        "no attention",
        "outputs",
        "symmetric activations",
        "asymmetric weights",
        "asymmetric 3-bit weights",
    ],
)
def test_other_quantization_recipes(tmp_path, case):
    path, feed = make_model(tmp_path, **CASES[case])
    assert sum(bool(layer.taken) for layer in layer_reports(path, always=True)) >= 12
    assert_close(run_provider(path, feed, always=True), run_exact(path, feed))


def test_model_of_integer_operators(tmp_path):
    """SparseML's form: MatMulInteger, Cast and Mul in place of DequantizeLinear and MatMul."""
    path, feed = make_model(tmp_path, target="deepsparse")
    kinds = [layer.taken for layer in layer_reports(path, always=True)]
    assert kinds.count("alone") == 9
    assert kinds.count("feed-forward") == 4
    for level in LEVELS:
        assert_close(run_provider(path, feed, level, always=True), run_exact(path, feed, level))


@pytest.mark.parametrize("form", ONNXRUNTIME_FORMS)
def test_models_that_onnxruntime_has_quantized(tmp_path, form):
    path, feed = make_model(tmp_path, precision="fp32")
    quantize_by_onnxruntime(path, form)
    layers = layer_reports(path, always=True)
    assert [layer.quantization for layer in layers if layer.taken] == [form.partition(",")[0]] * 13
    for level in LEVELS:
        assert_close(run_provider(path, feed, level, always=True), run_exact(path, feed, level))


def test_lengths_and_batches_change_in_one_session(tmp_path):
    path, _ = make_model(tmp_path)
    session = onnxruntime.InferenceSession(path, sparse.session_options(always=True))
    for rows, length in ((1, 1), (2, 7), (5, 33), (1, 64)):
        feed = {name: one.numpy() for name, one in make_batch(rows, length).items()}
        for actual, expected in zip(session.run(None, feed), run_exact(path, feed), strict=True):
            assert actual.shape == (rows, length)
            assert np.abs(actual - expected).mean() <= 0.02 * np.abs(expected).mean()


def test_model_without_zeros_is_left_to_the_cpu_provider(tmp_path, capfd):
    path, feed = make_model(tmp_path, share=0)
    session = onnxruntime.InferenceSession(path, sparse.session_options())
    lines = [line for line in capfd.readouterr().err.splitlines() if "SparseExecutionProvider" in line]
    assert len(lines) == 1
    assert "none of 13 Linear layers has enough zeros: the CPU provider runs the model" in lines[0]
    for actual, expected in zip(session.run(None, feed), run_cpu(path, feed), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("form", ["int8 QDQ", "fp32", "int8 dynamic"])
def test_explain(tmp_path, form):
    path, _ = make_model(tmp_path, precision="int8" if form == "int8 QDQ" else "fp32")
    if form == "int8 dynamic":
        quantize_by_onnxruntime(path, "dynamic")
    lines = explain(path).splitlines()
    assert lines[0].split() == ["layer", "shape", "weight", "zeros", "taken", "expected"]
    assert "12 of 13 Linear layers are sparse; together their products are expected to be" in lines[-1]
    assert sum(f"  {form}  " in line for line in lines) == 13
    assert sum("  attention" in line for line in lines) == (0 if form == "int8 dynamic" else 6)
    assert sum("no: the dense product is faster" in line for line in lines) == 1


def test_reason_why_a_layer_is_not_taken(tmp_path):
    path, _ = make_model(tmp_path, **CASES["weights only"])
    reasons = {layer.reason for layer in layer_reports(path) if layer.form == "int8"}
    assert reasons == {"its input is not quantized"}


def test_model_that_onnxruntime_has_optimized_is_refused_in_words(tmp_path):
    path, _ = make_model(tmp_path, precision="fp32")
    quantize_by_onnxruntime(path, "dynamic")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {layer.reason.split(" in a ")[-1] for layer in layer_reports(tmp_path / "optimized.onnx")}
    end = " of ONNX Runtime's optimizations: use the file that was optimized"
    assert kinds == {"MatMulIntegerToFloat" + end, "DynamicQuantizeMatMul" + end}
    assert explain(tmp_path / "optimized.onnx").splitlines()[-1] == "0 of 13 Linear layers are sparse."


def test_dense_weights_are_released(tmp_path):
    width, layers = 1024, 6
    generator = np.random.default_rng(0)
    nodes, weights = [], []
    for index in range(layers):
        weight = (generator.normal(size=(width, width)) / width**0.5).astype(np.float32)
        weight[generator.random(weight.shape) < 0.9] = 0
        weights.append(onnx.numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(onnx.helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"x{index + 1}"]))
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", width]) for name in ("x0", f"x{layers}")]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    code = f"""
import ctypes, gc, numpy, onnxruntime, onnxruntime_ep_sparse as sparse
def memory():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024
sparse.register()
before = memory()
session = onnxruntime.InferenceSession({str(tmp_path / "model.onnx")!r}, sparse.session_options())
session.run(None, {{"x0": numpy.zeros((4, {width}), numpy.float32)}})
gc.collect(); ctypes.CDLL(None).malloc_trim(0)
print(memory() - before)
"""
    environment = {"PYTHONPATH": str(sparse.__path__[0]) + "/.."}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert int(result.stdout) < 0.75 * layers * width * width * 4 / 2**20


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_load_session_with_the_provider_is_within_the_tolerance_of_the_export(tmp_path, precision):
    path, feed = make_model(tmp_path, precision=precision)
    session = load_session(path, sparse_provider=True)
    assert "SparseExecutionProvider" in session.get_providers()
    for actual, expected in zip(session.run(None, feed), load_session(path).run(None, feed), strict=True):
        if precision == "fp32":
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        else:
            assert np.abs(actual - expected).mean() < 0.25 * expected.std()  # MEAN_LIMIT of the export check
