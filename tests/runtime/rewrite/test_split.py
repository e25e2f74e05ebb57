"""Gated feed-forward blocks: the first layer as two, one of them with the GELU."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import ModernBertConfig, ModernBertForQuestionAnswering

from helpers.exports import INPUTS, OUTPUTS, export_model, make_batch, needs_compiler, prune_model, quantize_model
from sparsification import runtime
from sparsification.export.sparse import export_sparse
from sparsification.runtime.graph import attribute
from sparsification.runtime.rewrite import rewrite_sparse

WIDTH, INNER = 16, 24
PRODUCTS = {
    "fp32": ("h = MatMul (x, wi)", "y = MatMul (p, wo)"),
    "int8": (
        "xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z) wid = DequantizeLinear (wi, ws, wz) "
        "h = MatMul (xd, wid)",
        "pq = QuantizeLinear (p, s, z) pd = DequantizeLinear (pq, s, z) wod = DequantizeLinear (wo, ws, wz) "
        "y = MatMul (pd, wod)",
    ),
}
SPLITS = {
    "halves": "a, b = Split <axis=-1, num_outputs=2> (h)",
    "halves of the third axis": "a, b = Split <axis=2, num_outputs=2> (h)",
    "sizes": "a, b = Split <axis=-1> (h, sizes)",
}


def write_block(path: Path, form: str, split: str, gate: str = "Gelu", seed: int = 0, more: str = "") -> Path:
    """Write a gated block; weights are 80 % zero."""
    generator = np.random.default_rng(seed)
    first, second = PRODUCTS[form]
    outputs = f"float[n, t, {WIDTH}] y, float[n, t, i] p{more}"
    text = f'<ir_version: 10, opset_import: ["": 20]> block (float[n, t, {WIDTH}] x) => ({outputs}) '
    model = onnx.parser.parse_model(f"{text} {{ {first} {split} g = {gate} (a) p = Mul (g, b) {second} }}")
    arrays = {"sizes": np.array([INNER, INNER]), "s": np.float32(0.05), "z": np.uint8(120)}
    arrays |= {"ws": np.float32(0.01), "wz": np.int8(0)}
    inner = 2 * INNER if "axis=1" in split else INNER
    for name, shape in (("wi", (WIDTH, 2 * INNER)), ("wo", (inner, WIDTH))):
        kept = generator.random(shape) < 0.2
        whole = generator.integers(-127, 128, shape) * kept
        arrays[name] = whole.astype(np.int8) if form == "int8" else (whole * 0.01).astype(np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items())
    onnx.save(model, path)
    return path


def run(path: Path, output: str, x: np.ndarray) -> np.ndarray:
    return runtime.load_session(path, threads=1).run([output], {"x": x})[0]


def kinds_of(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@needs_compiler
@pytest.mark.parametrize("form", PRODUCTS)
@pytest.mark.parametrize("split", SPLITS)
def test_gated_block_has_a_layer_for_each_half_and_the_same_numbers(form, split, tmp_path):
    for seed in range(3):
        path = write_block(tmp_path / "block.onnx", form, SPLITS[split], seed=seed)
        report = rewrite_sparse(path, always=True)
        assert report.fused == {"SparseLinear" if form == "int8" else "SparseLinearFloat": 3}
        assert len(report.sparse) == 2  # layers of the model
        assert {"Split", "Gelu"}.isdisjoint(kinds_of(report.path))
        x = np.random.default_rng(seed).normal(size=(2, 5, WIDTH)).astype(np.float32)
        (expected, ours) = (
            runtime.load_session(file, threads=1).run(["p"], {"x": x})[0] for file in (path, report.path)
        )
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize(
    ("split", "gate", "more"),
    [
        (SPLITS["halves"], "Tanh", ""),  # nothing to fuse
        ("a, b = Split <axis=1, num_outputs=2> (h)", "Gelu", ""),  # of the tokens
        (SPLITS["halves"], "Gelu", f", float[n, t, {2 * INNER}] h"),  # the whole output is looked at
    ],
)
def test_other_splits_stay_as_they_are(split, gate, more, tmp_path):
    path = write_block(tmp_path / "block.onnx", "fp32", split, gate, more=more)
    report = rewrite_sparse(path, always=True)
    assert report.fused == {"SparseLinearFloat": 2}
    assert "Split" in kinds_of(report.path)
    x = np.random.default_rng(0).normal(size=(2, 6, WIDTH)).astype(np.float32)
    (expected, ours) = (run(file, "y", x) for file in (path, report.path))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_modernbert_has_sparse_layers_with_the_gelu_of_its_gated_blocks(tmp_path):
    size = {"vocab_size": 31, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    config = ModernBertConfig(**size, **special, num_hidden_layers=1, initializer_range=0.2)
    torch.manual_seed(0)
    model = ModernBertForQuestionAnswering(config)
    kept = model.classifier.weight.data.clone()
    prune_model(model).classifier.weight.data = kept
    export_model(quantize_model(model, INPUTS[:2]), tmp_path, INPUTS[:2], exporter="auto")
    report = export_sparse(tmp_path / "model.onnx", [make_batch(3, 24, INPUTS[:2])])  # compares each operator
    # Wqkv, attention's Wo, two halves of Wi, Wo; the head's layer with its GELU.
    assert report.conversion.fused == {"SparseLinear": 6}
    nodes = onnx.load(tmp_path / "model.sparse.onnx").graph.node
    assert sum(attribute(node, "gelu") == 1 for node in nodes) == 2
    dense, sparse = (runtime.load_session(tmp_path / name, 1) for name in ("model.onnx", "model.sparse.onnx"))
    feed = {name: tensor.numpy() for name, tensor in make_batch(1, 12, INPUTS[:2], seed=3).items()}
    for one, other in zip(dense.run(OUTPUTS, feed), sparse.run(OUTPUTS, feed), strict=True):
        assert np.abs(one - other).mean() < 0.02 * one.std()
