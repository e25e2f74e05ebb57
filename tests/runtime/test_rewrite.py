"""Int8 graphs rewritten with sparse operators."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from helpers.damaged_files import assert_survives
from helpers.exports import (
    CASES,
    FAMILIES,
    INPUTS,
    OUTPUTS,
    export_model,
    make_batch,
    make_bert,
    needs_compiler,
    prune_model,
    quantize_model,
    read_initializers,
)
from sparsification import runtime
from sparsification.runtime.build import BuildError
from sparsification.runtime.rewrite import SparseGraphError, rewrite_sparse


def _compare(folder: Path, rows: int = 3, length: int = 24, names=INPUTS, pad: int = 0) -> float:
    """The mean difference of the sparse file from the int8 one at real tokens, in standard deviations."""
    sessions = [runtime.load_session(folder / name, threads=1) for name in ("model.onnx", "model.sparse.onnx")]
    batch = make_batch(rows, length, names, pad, seed=5)
    feed = {name: tensor.numpy() for name, tensor in batch.items()}
    real = feed["attention_mask"] == 1
    pairs = zip(*(session.run(OUTPUTS, feed) for session in sessions), strict=True)
    return max(np.abs(one[real] - other[real]).mean() / one[real].std() for one, other in pairs)


@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_file_equals_the_int8_file(family, tmp_path):
    make, names, pad = FAMILIES[family]
    export_model(quantize_model(prune_model(make()), names, pad), tmp_path, names, pad)
    report = rewrite_sparse(tmp_path / "model.onnx")
    assert report.path == tmp_path / "model.sparse.onnx"
    assert all(density < 0.2 for density in report.sparse.values())
    assert "model.qa_outputs.weight" in report.dense
    layers = 3 if family == "albert" else 2
    assert report.fused["QuantizedAttention"] == layers
    assert report.fused["AddNormQuantize"] >= 2 * layers
    # Attention's output and the feed-forward one give numbers, the others integers.
    assert report.fused["SparseLinear"] >= 2 * layers
    for rows, length in ((1, 7), (3, 24), (2, 40)):
        assert _compare(tmp_path, rows, length, names, pad) < 0.02


# The opset and the exporter, which is dynamo from 18 on, change patterns, not quantization parameters.
RECIPES = [(name, 14) for name in CASES if "only" not in name and name != "attention alone"]
RECIPES += [("per channel", opset) for opset in (17, 18, 20)]


@needs_compiler
@pytest.mark.parametrize(("case", "opset"), RECIPES)
def test_every_recipe_gives_the_same_numbers_or_a_reason(case, opset, tmp_path):
    export_model(quantize_model(prune_model(make_bert(1)), **CASES[case]), tmp_path, opset=opset, exporter="auto")
    if case == "asymmetric weights":  # no zero of such a weight is an integer of 0
        with pytest.raises(SparseGraphError, match="has no Linear layer in fp32, nor in int8 with symmetric weights"):
            rewrite_sparse(tmp_path / "model.onnx")
        return
    report = rewrite_sparse(tmp_path / "model.onnx")
    if case != "asymmetric 3-bit weights":  # some of these have no zero point
        assert len(report.sparse) == 6
    assert _compare(tmp_path) < 0.02
    if case in ("per tensor", "per channel"):
        kinds = {"AddNormQuantize": 3, "QuantizedAttention": 1, "SparseLinear": 2, "SparseLinearQuantized": 2}
        assert report.fused == kinds


@needs_compiler
def test_nothing_of_what_was_fused_is_left(tmp_path):
    export_model(quantize_model(prune_model(make_bert())), tmp_path)
    rewrite_sparse(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.sparse.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert kinds.isdisjoint({"Erf", "Softmax", "ReduceMean", "Transpose", "Reshape", "QuantizeLinear", "Expand"})
    arrays = read_initializers(tmp_path / "model.sparse.onnx")
    values = [array for name, array in arrays.items() if name.endswith(".values")]
    assert all(block.any(-1).all() for block in values)
    # Nor is a weight there twice.
    assert not any(name.endswith("dense.weight") for name in arrays)


@needs_compiler
def test_dense_layers_stay_as_they_are_beside_sparse_ones(tmp_path):
    model = make_bert()
    dense = [model.bert.encoder.layer[0].attention.self.key, model.bert.encoder.layer[1].intermediate.dense]
    kept = [module.weight.data.clone() for module in dense]
    prune_model(model)
    for module, weight in zip(dense, kept, strict=True):
        module.weight.data = weight
    export_model(quantize_model(model), tmp_path)
    report = rewrite_sparse(tmp_path / "model.onnx")
    assert (len(report.sparse), len(report.dense)) == (10, 3)
    assert report.fused["QuantizedAttention"] == 2
    assert _compare(tmp_path) < 0.02


@needs_compiler
def test_unstructured_zeros_take_two_bytes_each(tmp_path):
    export_model(quantize_model(prune_model(make_bert(), 0.9, block=1)), tmp_path, exporter="auto")
    report = rewrite_sparse(tmp_path / "model.onnx")
    assert 0.09 < np.mean(list(report.sparse.values())) < 0.11
    assert _compare(tmp_path) < 0.02
    arrays = read_initializers(tmp_path / "model.sparse.onnx")
    for name in [name for name in arrays if name.endswith(".values")]:
        assert arrays[name].ndim == 1 and arrays[name].size == arrays[name.replace(".values", ".gaps")].size


@needs_compiler
def test_all_layers_become_sparse_where_that_is_asked_for(tmp_path):
    export_model(quantize_model(make_bert(1)), tmp_path)
    with pytest.raises(SparseGraphError):
        rewrite_sparse(tmp_path / "model.onnx")
    assert not rewrite_sparse(tmp_path / "model.onnx", always=True).dense
    assert _compare(tmp_path) < 0.02


def test_dense_file_is_refused_and_nothing_is_written(tmp_path):
    export_model(quantize_model(make_bert()), tmp_path)
    with pytest.raises(SparseGraphError, match=r"product is faster \(the sparsest has \d%\): the dense file is"):
        rewrite_sparse(tmp_path / "model.onnx")
    export_model(make_bert(), tmp_path)
    with pytest.raises(SparseGraphError, match=r"product is faster \(the sparsest has \d%\): the dense file is"):
        rewrite_sparse(tmp_path / "model.onnx")
    assert not list(tmp_path.glob("*sparse*"))


@needs_compiler
def test_load_takes_the_sparse_file_of_a_folder_and_the_dense_one_where_it_is_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match="has neither model.sparse.onnx nor model.onnx"):
        runtime.load_session(tmp_path)
    export_model(quantize_model(prune_model(make_bert())), tmp_path)
    feed = {name: tensor.numpy() for name, tensor in make_batch(2, 9).items()}
    dense = runtime.load_session(tmp_path).run(OUTPUTS, feed)
    rewrite_sparse(tmp_path / "model.onnx")
    sparse = runtime.load_session(tmp_path)
    assert [node.name for node in sparse.get_outputs()] == OUTPUTS
    for one, other in zip(dense, sparse.run(OUTPUTS, feed), strict=True):
        assert np.abs(one - other).mean() < 0.02 * one.std()
    two = runtime.load_session(tmp_path, threads=2)
    for one, other in zip(sparse.run(OUTPUTS, feed), two.run(OUTPUTS, feed), strict=True):
        np.testing.assert_array_equal(one, other)


@needs_compiler
def test_load_without_a_compiler_still_loads_what_needs_none(tmp_path, monkeypatch):
    export_model(quantize_model(prune_model(make_bert(1))), tmp_path)
    rewrite_sparse(tmp_path / "model.onnx")
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="install g.. or clang, or set CXX"):
        runtime.load_session(tmp_path)
    assert runtime.load_session(tmp_path / "model.onnx").get_outputs()
    with pytest.raises(FileNotFoundError):
        runtime.load_session(tmp_path / "nothing.onnx")


@needs_compiler
@pytest.mark.parametrize("seed", [0, 1], ids=["int8", "fp32"])
def test_damaged_files_do_not_crash(tmp_path, seed):
    """Random constants, shapes and attributes of the sparse operators, and of those around them."""
    assert_survives("operators", tmp_path, seed)
