"""fp32 graphs rewritten with sparse operators."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from helpers.exports import (
    FAMILIES,
    INPUTS,
    OUTPUTS,
    export_model,
    make_batch,
    make_bert,
    needs_compiler,
    prune_model,
    read_initializers,
)
from sparsification import runtime
from sparsification.runtime.rewrite import rewrite_sparse

ENCODER_LAYER = {"AddNorm": 2, "FloatAttention": 1, "SparseFeedForwardFloat": 1, "SparseLinearFloat": 2}


def _difference(folder: Path, names=INPUTS, pad: int = 0, threads: int = 1) -> float:
    """The largest difference of the sparse file from the dense one at real tokens, over batches of several shapes."""
    dense, sparse = (runtime.load_session(folder / name, threads) for name in ("model.onnx", "model.sparse.onnx"))
    differences = []
    for rows, length in ((1, 7), (3, 24), (2, 64)):
        feed = {name: tensor.numpy() for name, tensor in make_batch(rows, length, names, pad, seed=5).items()}
        real = feed["attention_mask"] == 1
        pairs = zip(dense.run(OUTPUTS, feed), sparse.run(OUTPUTS, feed), strict=True)
        differences += [np.abs(one - other)[real].max() for one, other in pairs]
    return max(differences)


def _prune_all_but(model, *dense) -> None:
    """Prune a model, but leave these modules as they are."""
    kept = [module.weight.data.clone() for module in dense]
    prune_model(model, block=1)
    for module, weight in zip(dense, kept, strict=True):
        module.weight.data = weight


@needs_compiler
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_file_equals_the_dense_one(family, exporter, tmp_path):
    make, names, pad = FAMILIES[family]
    export_model(prune_model(make(), block=1), tmp_path, names, pad, exporter)
    report = rewrite_sparse(tmp_path / "model.onnx")
    assert not report.quantized
    assert all(0.05 < density < 0.15 for density in report.sparse.values())
    assert list(report.dense.values()) == [1.0]  # qa_outputs
    layers = 3 if family == "albert" else 2
    expected = {kind: count * layers for kind, count in ENCODER_LAYER.items()}
    expected["AddNorm"] += 1  # of the embeddings
    if family == "albert":  # its GELU is another one, and its embeddings have a layer
        expected["SparseLinearFloat"] += 2 * expected.pop("SparseFeedForwardFloat") + 1
    assert report.fused == expected
    for threads in (1, 2):
        assert _difference(tmp_path, names, pad, threads) < 1e-5


@needs_compiler
def test_weights_are_stored_once_in_the_smaller_form(tmp_path):
    for block, ndim in ((1, 1), (4, 2)):
        export_model(prune_model(make_bert(), block=block), tmp_path)
        report = rewrite_sparse(tmp_path / "model.onnx")
        arrays = read_initializers(tmp_path / "model.sparse.onnx")
        values = [array for name, array in arrays.items() if name.endswith(".values")]
        assert {array.ndim for array in values} == {ndim}
        assert sum(np.count_nonzero(array) for array in values) == sum(array.size for array in values)
        dense = [
            array for name, array in arrays.items() if "MatMul" in name and array.ndim == 2 and ".values" not in name
        ]
        assert [array.shape for array in dense] == [(32, 2)]  # qa_outputs
        assert report.size_bytes < (tmp_path / "model.onnx").stat().st_size


@needs_compiler
def test_dense_layers_stay_as_they_are_beside_sparse_ones(tmp_path):
    model = make_bert()
    first, second = model.bert.encoder.layer
    _prune_all_but(model, first.attention.self.key, second.intermediate.dense)
    export_model(model, tmp_path, exporter="auto")
    report = rewrite_sparse(tmp_path / "model.onnx")
    assert (len(report.sparse), len(report.dense)) == (10, 3)
    # Attention is one node for both layers; query and value of the first are on their own.
    assert report.fused == {
        "AddNorm": 5,
        "FloatAttention": 2,
        "SparseFeedForwardFloat": 1,
        "SparseLinearFloat": 3 + 2 + 1,
    }
    assert _difference(tmp_path) < 1e-5


@needs_compiler
def test_nothing_of_what_was_fused_is_left(tmp_path):
    export_model(prune_model(make_bert(), block=1), tmp_path, exporter="auto")
    rewrite_sparse(tmp_path / "model.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.sparse.onnx").graph.node}
    assert kinds.isdisjoint({"Erf", "Softmax", "LayerNormalization", "Transpose", "Reshape", "Expand"})


@needs_compiler
def test_outputs_of_the_graph_within_a_layer_are_kept(tmp_path):
    """Where the first layer's output, or the query, is looked at by something else, it is computed."""
    export_model(prune_model(make_bert(1), block=1), tmp_path)
    path = tmp_path / "model.onnx"
    model = onnx.load(path)
    names = [node.output[0] for node in model.graph.node if node.op_type in ("Erf", "Softmax", "Add", "Mul")]
    inside = [name for name in names if "layer.0/intermediate" in name or "self/query/Add" in name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inside)
    onnx.save(model, path)
    rewrite_sparse(path)
    feed = {name: tensor.numpy() for name, tensor in make_batch(2, 24).items()}
    dense, sparse = (
        runtime.load_session(tmp_path / name).run(inside, feed) for name in ("model.onnx", "model.sparse.onnx")
    )
    assert len(inside) > 3
    for one, other in zip(dense, sparse, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)
