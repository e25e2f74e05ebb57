"""A sparse file equals the file that it is made from; otherwise no file is written. From the command line, too."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import run_qa
from helpers.command_lines import squad_command
from helpers.exports import (
    FAMILIES,
    NO_COMPILER,
    export_model,
    make_batch,
    make_bert,
    needs_compiler,
    prune_model,
    quantize_model,
)
from helpers.models import save_model
from helpers.recipes import PRUNE_BLOCKS_QUANTIZE
from sparsification.export import sparse as export
from sparsification.export.sparse import export_sparse, subgraph_differences
from sparsification.export.verify import ExportError
from sparsification.runtime.build import BuildError
from sparsification.runtime.rewrite import SPARSE_FILE, SparseGraphError
from sparsification.runtime.rewrite.linear import DOMAIN


@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_what_our_operators_make_is_what_the_int8_graph_makes(family, tmp_path):
    make, names, pad = FAMILIES[family]
    export_model(quantize_model(prune_model(make()), names, pad), tmp_path, names, pad)
    report = export_sparse(
        tmp_path / "model.onnx", [make_batch(4, 24, names, pad), make_batch(2, 9, names, pad, seed=1)]
    )
    assert report.conversion.path == tmp_path / SPARSE_FILE
    assert report.conversion.path.exists()
    assert 0 <= report.subgraph_difference < 5e-3
    assert 0 <= report.mean_difference < 0.02
    assert not list(tmp_path.glob(".*"))


@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_outputs_are_those_of_the_dense_file(family, tmp_path):
    make, names, pad = FAMILIES[family]
    export_model(prune_model(make(), block=1), tmp_path, names, pad)
    batches = [make_batch(4, 24, names, pad), make_batch(2, 9, names, pad, seed=1)]
    report = export_sparse(tmp_path / "model.onnx", batches)
    assert report.conversion.path == tmp_path / SPARSE_FILE
    assert report.subgraph_difference is None
    assert 0 < report.max_difference < 1e-5
    assert 0 < report.mean_difference < 1e-5
    assert not list(tmp_path.glob(".*"))


def _spoil(monkeypatch, change):
    """Change the sparse graph between its conversion and the check."""
    rewrite = export.rewrite_sparse

    def spoilt(source, target):
        report = rewrite(source, target)
        model = onnx.load(target)
        change(model.graph, {tensor.name: tensor for tensor in model.graph.initializer})
        onnx.save(model, target)
        return report

    monkeypatch.setattr(export, "rewrite_sparse", spoilt)


def _times(name: str, factor: float):
    """A fault: an input of the last sparse layer that has one of this name is some times as large."""

    def change(graph, tensors):
        layers = [node for node in graph.node if node.op_type.startswith("Sparse")]
        tensor = [tensors[used] for node in layers for used in node.input if used.endswith(f".{name}")][-1]
        array = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))

    return change


def _attribute_times(op_type: str, name: str, factor: float):
    """A fault: an attribute of the last node of a type is some times as large."""

    def change(graph, tensors):
        node = [node for node in graph.node if node.op_type == op_type][-1]
        attribute = next(attribute for attribute in node.attribute if attribute.name == name)
        attribute.f *= factor

    return change


FAULTS = {
    "scale 20 % off": _times("scale", 1.2),
    "next layer's scale 20 % off": _times("output_scale", 1.2),
    "NaN": _times("bias", np.nan),
    "attention's scale 20 % off": _attribute_times("QuantizedAttention", "context_scale", 1.2),
    "norm's scale 20 % off": _attribute_times("AddNormQuantize", "scale", 1.2),
}


@needs_compiler
@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_sparse_file_is_refused_and_the_older_one_kept(fault, monkeypatch, tmp_path):
    export_model(quantize_model(prune_model(make_bert())), tmp_path)
    (tmp_path / SPARSE_FILE).write_bytes(b"older")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    _spoil(monkeypatch, FAULTS[fault])
    with pytest.raises(ExportError, match=r"differs from it: .* allowed is 0.01. model.sparse.onnx was not"):
        export_sparse(tmp_path / "model.onnx", [make_batch(4, 24)])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


FLOAT_FAULTS = {
    "a bias 1 % off": _times("bias", 1.01),
    "weights 0.1 % off": _times("values", 1.001),
    "NaN": _times("bias", np.nan),
    "attention's scale 20 % off": _attribute_times("FloatAttention", "score_scale", 1.2),
}


@needs_compiler
@pytest.mark.parametrize("fault", FLOAT_FAULTS)
def test_faulty_fp32_file_is_refused_and_the_older_one_kept(fault, monkeypatch, tmp_path):
    model = prune_model(make_bert(), block=1)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.dense.bias.normal_()
    export_model(model, tmp_path)
    (tmp_path / SPARSE_FILE).write_bytes(b"older")
    _spoil(monkeypatch, FLOAT_FAULTS[fault])
    # NaN in one batch is not forgotten in the next one.
    batches = [make_batch(4, 24), make_batch(2, 24)]
    with pytest.raises(ExportError, match=r"_logits differs by .* at most, .* allowed is 0.0001. model.sparse.onnx"):
        export_sparse(tmp_path / "model.onnx", batches)
    assert (tmp_path / SPARSE_FILE).read_bytes() == b"older"


@needs_compiler
def test_wrong_outputs_of_right_pieces_are_refused(monkeypatch, tmp_path):
    export_model(quantize_model(prune_model(make_bert())), tmp_path)
    monkeypatch.setattr(export, "subgraph_differences", lambda *args: {"none": 0.0})
    _spoil(monkeypatch, _times("scale", 10.0))
    with pytest.raises(ExportError, match=r"_logits differs by .* allowed is 0.25"):
        export_sparse(tmp_path / "model.onnx", [make_batch(4, 24)])


@needs_compiler
def test_every_node_of_ours_is_in_a_piece(tmp_path):
    export_model(quantize_model(prune_model(make_bert())), tmp_path)
    export_sparse(tmp_path / "model.onnx", [make_batch(4, 24)])
    graph = onnx.load(tmp_path / SPARSE_FILE).graph
    makers = {name: node for node in graph.node for name in node.output}
    subgraphs = subgraph_differences(tmp_path / "model.onnx", tmp_path / SPARSE_FILE, make_batch(1, 24))
    seen, waiting = set(), list(subgraphs)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in seen:
            seen.add(node.name)
            waiting += [name for name in node.input if name not in subgraphs]
    assert {node.name for node in graph.node if node.domain == DOMAIN} <= seen


def test_new_int8_file_takes_the_sparse_one_of_the_old_away(tmp_path):
    (tmp_path / SPARSE_FILE).write_bytes(b"older")
    export_model(make_bert(1), tmp_path)
    assert not (tmp_path / SPARSE_FILE).exists()


# The command line


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_squad):
    """A trained BERT, pruned and quantized in one shot: output directory, export directory, metrics."""
    folder = tmp_path_factory.mktemp("sparse")
    save_model(folder / "bert", layers=2, hidden_size=32, intermediate_size=64)
    (folder / "recipe.yaml").write_text(PRUNE_BLOCKS_QUANTIZE, encoding="utf-8")
    train = ("--do_train", "--num_train_epochs", 30, "--learning_rate", 5e-3, "--save_strategy", "no")
    run_qa.main(
        squad_command(tiny_squad, *train, "--model_name_or_path", folder / "bert", "--output_dir", folder / "dense")
    )
    metrics = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", folder / "dense", "--recipe", folder / "recipe.yaml", "--one_shot"),
            *("--validation_file", tiny_squad / "train.json", "--do_eval", "--output_dir", folder / "out"),
            *("--onnx_export_path", folder / "onnx", "--onnx_target", "onnxruntime-sparse", "--onnx_exporter", "auto"),
        )
    )
    return folder / "out", folder / "onnx", metrics


@needs_compiler
def test_sparse_file_scores_as_the_int8_file_does(saved):
    out, exported, metrics = saved
    assert metrics["eval_onnx_f1"] > 5  # there is something to lose
    for name in ("exact_match", "f1"):
        assert metrics[f"eval_onnx_sparse_{name}"] == pytest.approx(metrics[f"eval_onnx_{name}"], abs=0.1)
    assert metrics["eval_onnx_sparse_samples"] == metrics["eval_samples"]
    assert metrics["eval_onnx_sparse_samples_per_second"] > 0
    kept = json.loads((out / "eval_onnx_sparse_results.json").read_text())
    assert kept["eval_onnx_sparse_f1"] == metrics["eval_onnx_sparse_f1"]
    assert (out / "eval_onnx_sparse_predictions.json").exists()
    models = {model["name"]: model for model in json.loads((out / "report.json").read_text())["models"]}
    assert models["ONNX sparse"]["scores"]["F1"] == metrics["eval_onnx_sparse_f1"]
    assert models["ONNX sparse"]["size"] == (exported / SPARSE_FILE).stat().st_size
    assert {"model.onnx", SPARSE_FILE, "tokenizer.json", "config.json"} <= {path.name for path in exported.iterdir()}
    nodes = onnx.load(exported / SPARSE_FILE).graph.node
    assert [node.domain for node in nodes].count(DOMAIN) >= 10


@needs_compiler
@pytest.mark.parametrize("target", ["onnxruntime-sparse", "all"])
def test_model_that_is_not_quantized_has_a_sparse_file_of_the_same_scores(target, saved, tiny_squad, tmp_path):
    pruning, *_ = PRUNE_BLOCKS_QUANTIZE.partition("quantization_modifiers")
    (tmp_path / "recipe.yaml").write_text(pruning, encoding="utf-8")
    metrics = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", saved[0].parent / "dense", "--recipe", tmp_path / "recipe.yaml", "--one_shot"),
            *("--validation_file", tiny_squad / "train.json", "--do_eval", "--output_dir", tmp_path / "out"),
            *("--onnx_export_path", tmp_path / "onnx", "--onnx_target", target),
        )
    )
    assert metrics["eval_onnx_f1"] > 5  # there is something to lose
    for name in ("exact_match", "f1"):
        assert metrics[f"eval_onnx_sparse_{name}"] == metrics[f"eval_onnx_{name}"] == metrics[f"eval_{name}"]
    kinds = [node.op_type for node in onnx.load(tmp_path / "onnx" / SPARSE_FILE).graph.node]
    assert kinds.count("SparseLinearFloat") == 4


@needs_compiler
def test_all_writes_three_files(saved, tiny_squad, tmp_path):
    out, _, metrics = saved
    again = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", out, "--validation_file", tiny_squad / "train.json", "--do_eval"),
            *("--output_dir", tmp_path / "out", "--onnx_export_path", tmp_path / "onnx", "--onnx_target", "all"),
        )
    )
    files = sorted(path.relative_to(tmp_path / "onnx").as_posix() for path in (tmp_path / "onnx").rglob("*.onnx"))
    assert files == ["deepsparse/model.onnx", "model.onnx", SPARSE_FILE]
    assert again["eval_onnx_sparse_f1"] == metrics["eval_onnx_sparse_f1"]


@needs_compiler
@pytest.mark.parametrize("target", ["onnxruntime-sparse", "all"])
def test_dense_model_has_no_sparse_file_and_one_line_says_why(target, tiny_model_dir, tiny_squad, tmp_path, caplog):
    arguments = squad_command(
        tiny_squad,
        *("--model_name_or_path", tiny_model_dir, "--do_eval", "--output_dir", tmp_path / "out"),
        *("--onnx_export_path", tmp_path / "onnx", "--onnx_target", target),
    )
    reason = "): the dense file is the faster one"
    if target == "all":
        metrics = run_qa.main(arguments)
        assert f"There is no {SPARSE_FILE}: " in caplog.text and reason in caplog.text
        assert "eval_onnx_f1" in metrics and "eval_onnx_sparse_f1" not in metrics
    else:
        with pytest.raises(SparseGraphError, match=re.escape(reason)):
            run_qa.main(arguments)
    assert (tmp_path / "onnx" / "model.onnx").exists()
    assert not (tmp_path / "onnx" / SPARSE_FILE).exists()


def _without_compiler(monkeypatch, tmp_path):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_missing_compiler_is_an_error_before_anything_is_done(tmp_path, monkeypatch):
    _without_compiler(monkeypatch, tmp_path)
    with pytest.raises(BuildError, match="install g.. or clang, or set CXX"):
        run_qa.main(
            [
                *("--model_name_or_path", "nowhere", "--train_file", "nothing.json", "--do_train", "--output_dir"),
                *(str(tmp_path / "out"), "--onnx_export_path", str(tmp_path), "--onnx_target", "onnxruntime-sparse"),
            ]
        )


@needs_compiler
def test_without_a_compiler_all_writes_the_other_files(saved, tiny_squad, tmp_path, monkeypatch, caplog):
    out, _, _ = saved
    _without_compiler(monkeypatch, tmp_path)
    metrics = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", out, "--do_eval", "--output_dir", tmp_path / "out"),
            *("--onnx_export_path", tmp_path / "onnx", "--onnx_target", "all"),
        )
    )
    assert f"There is no {SPARSE_FILE}: {NO_COMPILER}" in caplog.text
    assert "eval_onnx_f1" in metrics and "eval_onnx_sparse_f1" not in metrics
    assert len(list((tmp_path / "onnx").rglob("model.onnx"))) == 2
