"""Both of PyTorch's exporters write files that pass the same checks, and dynamo is the default."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import (
    BertForSequenceClassification,
    BertForTokenClassification,
    MBartConfig,
    MBartForQuestionAnswering,
    XLNetConfig,
    XLNetForQuestionAnsweringSimple,
)

from helpers.exports import (
    CASES,
    FAMILIES,
    INPUTS,
    OUTPUTS,
    export_model,
    make_batch,
    make_bert,
    prune_model,
    quantize_model,
)
from helpers.models import BART
from sparsification.export import exporters
from sparsification.export.exporters import choose_exporter, default_opset
from sparsification.export.onnx import export_onnx
from sparsification.export.verify import ExportError
from sparsification.runtime.rewrite import rewrite_sparse


def _optimized(path, target) -> list[str]:
    """Types of the nodes that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(target).graph.node]


@pytest.mark.parametrize(
    ("exporter", "model_type", "opset", "target", "expected"),
    [
        ("auto", "bert", 14, "onnxruntime", "torchscript"),
        ("auto", "bert", 17, "onnxruntime", "torchscript"),
        ("auto", "bert", 18, "onnxruntime", "dynamo"),
        ("auto", "bert", 18, "deepsparse", "torchscript"),
        ("auto", "xlnet", 18, "onnxruntime", "torchscript"),
        ("auto", "mbart", 18, "onnxruntime", "torchscript"),
        ("auto", "bert", 23, "onnxruntime", "dynamo"),
        ("auto", "bert", 24, "onnxruntime", "torchscript"),
        ("torchscript", "bert", 20, "onnxruntime", "torchscript"),
        ("dynamo", "bert", 18, "deepsparse", "dynamo"),
    ],
)
def test_auto_is_dynamo_where_it_passes_the_checks(exporter, model_type, opset, target, expected):
    assert choose_exporter(exporter, model_type, opset, target) == expected


@pytest.mark.parametrize(
    ("exporter", "target", "expected"),
    [
        ("auto", "onnxruntime", (18, "dynamo")),
        ("torchscript", "onnxruntime", (18, "torchscript")),
        ("auto", "deepsparse", (14, "torchscript")),
        ("dynamo", "deepsparse", (18, "dynamo")),
    ],
)
def test_default_opset_is_dynamos_oldest_and_an_older_one_for_deepsparse(exporter, target, expected):
    opset = default_opset(exporter, target)
    assert (opset, choose_exporter(exporter, "bert", opset, target)) == expected


def test_impossible_choices_are_errors(tmp_path):
    with pytest.raises(ExportError, match="opset must be 18 to 23 for the dynamo exporter, got 17"):
        export_model(make_bert(1), tmp_path, opset=17, exporter="dynamo")
    with pytest.raises(ExportError, match="exporter must be one of auto, dynamo, torchscript, got 'onnx'"):
        export_model(make_bert(1), tmp_path, exporter="onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A BERT and the report of its export by default."""
    model = make_bert()
    return model, export_model(model, tmp_path_factory.mktemp("plain"), exporter="auto")


def test_dynamo_file_equals_torch_on_every_batch_size_and_length(plain):
    model, report = plain
    assert report.exporter == "dynamo"
    session = onnxruntime.InferenceSession(str(report.path))
    for rows, length in ((1, 1), (1, 8), (3, 17), (2, 64)):
        batch = make_batch(rows, length, seed=length)
        with torch.no_grad():
            expected = model.eval()(**batch)
        real = batch["attention_mask"].numpy() == 1
        actual = session.run(OUTPUTS, {name: tensor.numpy() for name, tensor in batch.items()})
        for name, array in zip(OUTPUTS, actual, strict=True):
            np.testing.assert_allclose(array[real], expected[name].numpy()[real], atol=1e-4, rtol=1e-4)


def test_dynamo_file_has_named_axes_and_nothing_of_the_machine(plain):
    proto = onnx.load(plain[1].path)
    assert [entry.version for entry in proto.opset_import] == [18]
    assert proto.ir_version == 8  # ONNX 1.13, which brought opset 18
    axes = [
        [d.dim_param for d in value.type.tensor_type.shape.dim] for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert axes == [["batch", "sequence"]] * 5
    assert {value.name for value in proto.graph.input} == set(INPUTS)
    assert b".py" not in proto.SerializeToString()
    assert "model.bert.embeddings.word_embeddings.weight" in {tensor.name for tensor in proto.graph.initializer}


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize(
    ("kind", "axes"),
    [
        (BertForSequenceClassification, ["batch", 2]),
        (BertForTokenClassification, ["batch", "sequence", 2]),
    ],
)
def test_logits_are_declared_with_the_axes_that_they_have(kind, axes, exporter, tmp_path):
    batch = make_batch(3, 12)
    model = kind(make_bert(1).config)
    path = export_onnx(
        model, tmp_path, input_names=list(batch), output_names=["logits"], check_batches=[batch], exporter=exporter
    ).path
    (logits,) = onnx.load(path).graph.output
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == axes


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_onnx_runtime_fuses_gelu_and_leaves_layer_norm_as_it_is(exporter, plain, tmp_path):
    model, dynamo = plain
    report = dynamo if exporter == "dynamo" else export_model(model, tmp_path, exporter=exporter)
    assert report.exporter == exporter
    kinds = _optimized(report.path, tmp_path / "optimized.onnx")
    assert (kinds.count("BiasGelu"), kinds.count("Erf")) == (2, 0)
    assert "SkipLayerNormalization" not in kinds


def test_dynamo_exporter_says_nothing_and_leaves_the_model_and_the_log_as_they_were(tmp_path, capfd):
    model, level = make_bert(1), exporters.REGISTRATION_LOGGER.level
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_model(model, tmp_path, exporter="auto")
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert exporters.REGISTRATION_LOGGER.level == level


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_file_and_its_sparse_form_are_the_same_from_both(family, tmp_path):
    make, names, pad = FAMILIES[family]
    model = quantize_model(prune_model(make()), names, pad)
    fused, weights = {}, {}
    for exporter in ("dynamo", "torchscript"):
        report = export_model(model, tmp_path / exporter, names, pad, exporter)
        assert report.mean_difference < 0.1
        fused[exporter] = rewrite_sparse(report.path).fused
        tensors = onnx.load(report.path).graph.initializer
        weights[exporter] = {
            tensor.name: tensor.raw_data
            for tensor in tensors
            if tensor.name.endswith((".weight", "weight_quantizer.scale"))
        }
    assert fused["dynamo"] == fused["torchscript"]
    assert weights["dynamo"] == weights["torchscript"]


@pytest.mark.parametrize("target", ["onnxruntime", "deepsparse"])
def test_quantized_outputs_are_recorded_by_the_dynamo_exporter(target, tmp_path):
    """An output quantizer's tensor is the next layer's input: one object in PyTorch, two in the exporter's run."""
    model = quantize_model(make_bert(1), **CASES["outputs"])
    report = export_model(model, tmp_path, target=target, exporter="dynamo")
    assert report.exporter == "dynamo"
    kinds = [node.op_type for node in onnx.load(report.path).graph.node]
    assert ("MatMulInteger" in kinds) == (target == "deepsparse")


def test_model_that_only_torchscript_exports_says_so_in_one_line(tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64, "vocab_size": 31}
    model = XLNetForQuestionAnsweringSimple(XLNetConfig(**sizes)).eval()
    with pytest.raises(
        ExportError, match="dynamo exporter cannot export .*, try --onnx_exporter torchscript: "
    ) as raised:
        export_model(model, tmp_path, INPUTS[:2], exporter="dynamo")
    assert "\n" not in str(raised.value)
    report = export_model(model, tmp_path, INPUTS[:2], exporter="auto")
    assert (report.exporter, report.opset) == ("torchscript", 18)


def test_mbart_is_exported_with_one_row_too(tmp_path):
    torch.manual_seed(0)
    model = MBartForQuestionAnswering(MBartConfig(**BART | {"vocab_size": 31})).eval()
    batches = [make_batch(rows, 24, INPUTS[:2], pad=1) for rows in (4, 1)]
    report = export_model(model, tmp_path, INPUTS[:2], exporter="auto", batches=batches)
    assert (report.exporter, report.num_features) == ("torchscript", 5)
