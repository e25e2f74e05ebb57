"""An exported ONNX file equals the PyTorch model; otherwise no file is written."""

import errno
import logging
import os
import resource
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForQuestionAnswering,
    AutoConfig,
    BertConfig,
    BertForQuestionAnswering,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    ElectraConfig,
    ElectraForQuestionAnswering,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from helpers.exports import INPUTS, OUTPUTS, make_batch
from sparsification.export import onnx as export
from sparsification.export import prepare
from sparsification.export import verify as export_check
from sparsification.export.onnx import export_onnx
from sparsification.export.targets import TORCHSCRIPT
from sparsification.export.verify import ExportError, OnnxModel

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
MAX_LENGTH = 64
SIZE = {
    "vocab_size": 31,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    # With the usual 0.02 all logits are near zero and most errors too small to see.
    "initializer_range": 0.5,
}


def _bert(**changes) -> BertForQuestionAnswering:
    torch.manual_seed(0)
    return BertForQuestionAnswering(BertConfig(**SIZE | {"max_position_embeddings": MAX_LENGTH} | changes))


def _distilbert() -> DistilBertForQuestionAnswering:
    # The config maps the usual names to DistilBERT's own, except for the one of intermediate_size.
    size = SIZE | {"hidden_dim": 64, "max_position_embeddings": MAX_LENGTH}
    return DistilBertForQuestionAnswering(DistilBertConfig(**size))


def _roberta() -> RobertaForQuestionAnswering:
    size = SIZE | {"max_position_embeddings": MAX_LENGTH + 2, "type_vocab_size": 1, "pad_token_id": 1}
    return RobertaForQuestionAnswering(RobertaConfig(**size))


def _electra() -> ElectraForQuestionAnswering:
    size = SIZE | {"max_position_embeddings": MAX_LENGTH, "embedding_size": 16}
    return ElectraForQuestionAnswering(ElectraConfig(**size))


def _albert() -> AlbertForQuestionAnswering:
    size = SIZE | {"max_position_embeddings": MAX_LENGTH, "embedding_size": 16, "num_hidden_layers": 6}
    return AlbertForQuestionAnswering(AlbertConfig(**size | {"initializer_range": 0.1}))


def _export(
    model, output_dir, tokenizer=None, names=INPUTS, outputs=OUTPUTS, batches=None, exporter=TORCHSCRIPT, **options
):
    """Export by the faster exporter; "auto" is the default exporter."""
    batches = [make_batch(3, 17, names)] if batches is None else batches
    given = {"input_names": names, "output_names": outputs, "check_batches": batches, "exporter": exporter}
    return export_onnx(model, output_dir, tokenizer, **given, **options)


def _run(path, batch) -> list[np.ndarray]:
    """ONNX Runtime by itself, without the code under test."""
    session = onnxruntime.InferenceSession(str(path))
    return session.run(OUTPUTS, {name: tensor.numpy() for name, tensor in batch.items()})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny BERT, the directory it was exported to, and the report."""
    directory = tmp_path_factory.mktemp("exported")
    model = _bert()
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(VOCABULARY)})
    return model, directory, _export(model, directory, tokenizer, exporter="auto")


FAMILIES = {
    "bert": (_bert, INPUTS, 0),
    "distilbert": (_distilbert, INPUTS[:2], 0),
    "roberta": (_roberta, INPUTS[:2], 1),
    "electra": (_electra, INPUTS, 0),
    "albert": (_albert, INPUTS, 0),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_equals_torch_on_every_batch_size_and_length(family, tmp_path):
    make, names, pad = FAMILIES[family]
    model = make()
    # Checked by the export on one shape only; compared here, with padding, on others.
    path = _export(model, tmp_path, names=names, batches=[make_batch(2, 9, names, pad)]).path
    for rows in (1, 3):
        for length in (8, 17, MAX_LENGTH):
            batch = make_batch(rows, length, names, pad, seed=length)
            with torch.no_grad():
                expected = model.eval()(**batch)
            for name, actual in zip(OUTPUTS, _run(path, batch), strict=True):
                real = batch["attention_mask"].numpy() == 1
                np.testing.assert_allclose(actual[real], expected[name].numpy()[real], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_opset_is_the_one_asked_for(opset, tmp_path):
    report = _export(_bert(num_hidden_layers=1), tmp_path, opset=opset)
    versions = [entry.version for entry in onnx.load(report.path).opset_import if entry.domain == ""]
    assert versions == [opset] == [report.opset]


def test_report_tells_what_was_checked(exported, caplog, tmp_path):
    _, directory, report = exported
    assert report.path == directory / "model.onnx"
    assert report.size_bytes == report.path.stat().st_size
    assert 0 < report.max_difference < 1e-4
    assert report.num_features == 3
    with caplog.at_level(logging.INFO, logger="sparsification.export.onnx"):
        report = _export(_bert(), tmp_path, batches=iter([make_batch(3, 17), make_batch(2, 8), make_batch(1, 30)]))
    assert report.num_features == 6
    assert "on 6 features, max difference" in caplog.text


def test_names_and_dynamic_axes_of_the_graph(exported):
    graph = onnx.load(exported[2].path).graph
    axes = {
        value.name: [d.dim_param for d in value.type.tensor_type.shape.dim] for value in (*graph.input, *graph.output)
    }
    assert list(axes) == [*INPUTS, *OUTPUTS]
    assert all(names == ["batch", "sequence"] for names in axes.values())


def test_config_and_tokenizer_stand_beside_the_model(exported):
    _, directory, _ = exported
    config = AutoConfig.from_pretrained(directory)
    assert config.architectures == ["BertForQuestionAnswering"]
    assert config.num_hidden_layers == 3
    assert config.dtype == torch.float32
    assert BertTokenizer.from_pretrained(directory)("a b")["input_ids"] == [2, 5, 6, 3]
    assert sorted(os.listdir(directory)) == ["config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"]


def test_layer_dropped_model_exports_with_its_true_number_of_layers(tmp_path):
    model = _bert(num_hidden_layers=4)
    model.bert.encoder.layer = nn.ModuleList(model.bert.encoder.layer[index] for index in (0, 3))
    model.config.num_hidden_layers = 2
    path = _export(model, tmp_path).path
    softmaxes = [node for node in onnx.load(path).graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 2 == AutoConfig.from_pretrained(tmp_path).num_hidden_layers


def test_zeros_of_a_pruned_model_are_the_zeros_of_the_file(tmp_path):
    model = _bert()
    linears = [module for module in model.bert.encoder.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for index, linear in enumerate(linears):
            linear.weight[torch.rand(linear.weight.shape, generator=torch.Generator().manual_seed(index)) < 0.8] = 0.0
            linear.weight[0, 0] = 1e-30  # Not a zero, however small.
    path = _export(model, tmp_path).path
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    by_content = {(array.shape, array.tobytes()) for array in arrays}
    for linear in linears:
        transposed = np.ascontiguousarray(linear.weight.detach().numpy().T)
        assert (transposed.shape, transposed.tobytes()) in by_content


@pytest.mark.parametrize("make", [_bert, _albert])
def test_each_weight_is_stored_once(make, tmp_path):
    model = make()
    initializers = onnx.load(_export(model, tmp_path).path).graph.initializer
    stored = sum(numpy_helper.to_array(tensor).size for tensor in initializers)
    # ALBERT runs one layer six times. (Equal tensors, such as biases of zeros, are merged: hence "at most".)
    assert stored <= sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_export_leaves_the_model_as_it_was(training, tmp_path):
    model = _bert().train(training)
    model.bert.embeddings.requires_grad_(False)
    model.config.architectures = None
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    identities = [id(parameter) for parameter in model.parameters()]
    config, attention = model.config.to_dict(), model.config._attn_implementation
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    _export(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert [module.training for module in model.modules()] == modes
    assert (model.config.to_dict(), model.config._attn_implementation) == (config, attention)
    assert attention == "sdpa"
    assert torch.equal(torch.get_rng_state(), random_state)


def test_half_precision_model_exports_in_fp32_and_stays_half(tmp_path):
    model = _bert().to(torch.bfloat16)
    path = _export(model, tmp_path).path
    assert {tensor.data_type for tensor in onnx.load(path).graph.initializer} == {onnx.TensorProto.FLOAT}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    batch = make_batch(2, 12)
    expected = _bert()
    expected.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    with torch.no_grad():
        logits = expected.eval()(**batch).start_logits.numpy()
    real = batch["attention_mask"].numpy() == 1
    np.testing.assert_allclose(_run(path, batch)[0][real], logits[real], atol=1e-4, rtol=1e-4)


def test_forward_wrapped_by_mixed_precision_does_not_reach_the_export(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    model = _bert()
    wrapped = accelerate.utils.operations.convert_outputs_to_fp32(
        torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    )
    model._original_forward, model.forward = model.forward, wrapped
    assert _export(model, tmp_path).max_difference < 1e-4
    assert model.forward is wrapped


def test_no_warning_and_no_print_on_the_way(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _export(_bert(), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_onnx_model_gives_each_batch_its_outputs_in_the_order_asked_for(exported):
    model, _, report = exported
    batches = [make_batch(2, 8) | {"start_positions": torch.zeros(2)}, make_batch(1, 20)]
    onnx_model = OnnxModel(report.path, ["end_logits", "start_logits"])
    results = [onnx_model(batch) for batch in batches]
    assert [result[0].shape for result in results] == [(2, 8), (1, 20)]
    with torch.no_grad():
        expected = model.eval()(**batches[1])
    np.testing.assert_allclose(results[1][0], expected.end_logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(results[1][1], expected.start_logits.numpy(), atol=1e-4)


def test_padding_does_not_count_in_the_comparison(monkeypatch, tmp_path):
    batch = make_batch(2, 10)
    real = OnnxModel.__call__

    def nonsense_at_padding(onnx_model, batch):
        padding = batch["attention_mask"].numpy() == 0
        return tuple(np.where(padding, 1e6, output) for output in real(onnx_model, batch))

    monkeypatch.setattr(OnnxModel, "__call__", nonsense_at_padding)
    assert _export(_bert(), tmp_path, batches=[batch]).max_difference < 1e-4


# What goes wrong leaves no file, and keeps the one that was there.


@pytest.fixture(params=["empty directory", "an older export there"])
def target(request, tmp_path):
    """A directory, and a function that asserts that it still holds what it held."""
    directory = tmp_path / "onnx"
    directory.mkdir()
    if request.param == "an older export there":
        for name in ("model.onnx", "config.json"):
            (directory / name).write_bytes(b"older")

    def unchanged():
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    before = unchanged()
    yield directory
    assert unchanged() == before


def test_difference_over_tolerance_is_an_error(target):
    with pytest.raises(ExportError, match=r"start_logits differ from PyTorch's by up to .* allowed is 0"):
        _export(_bert(), target, tolerance=0.0)


def test_graph_with_other_weights_is_an_error(target, monkeypatch):
    write = export.write

    def spoilt(model, path, *args):
        write(model, path, *args)
        proto = onnx.load(path)
        (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name.endswith("qa_outputs.bias")]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.01), tensor.name))
        onnx.save(proto, path)

    monkeypatch.setattr(export, "write", spoilt)
    with pytest.raises(ExportError, match="differ from PyTorch's by up to 1.00e-02"):
        _export(_bert(), target)


def test_tolerance_grows_with_the_logits(tmp_path):
    expected, mask = torch.tensor([[1000.0, 1.0]]), torch.ones(1, 2)
    assert export_check.largest_difference("x", expected, expected + 0.05, mask, 1e-4) == pytest.approx(0.05, rel=1e-2)
    with pytest.raises(ExportError):
        export_check.largest_difference("x", expected / 1000, expected / 1000 + 0.05, mask, 1e-4)


def test_nan_is_an_error(target):
    model = _bert()
    with torch.no_grad():
        model.qa_outputs.bias[0] = float("nan")
    with pytest.raises(ExportError, match="by up to nan"):
        _export(model, target)


def test_other_shape_is_an_error(target, monkeypatch):
    real = OnnxModel.__call__
    monkeypatch.setattr(OnnxModel, "__call__", lambda *args: tuple(array[:, :-1] for array in real(*args)))
    with pytest.raises(ExportError, match=r"gives start_logits the shape \(1, 7\), PyTorch \(1, 8\)"):
        _export(_bert(), target)


def test_complaint_of_the_checker_is_an_error(target, monkeypatch):
    def complain(path, full_check):
        raise onnx.checker.ValidationError("no such operator")

    monkeypatch.setattr(onnx.checker, "check_model", complain)
    with pytest.raises(ExportError, match="no valid ONNX: no such operator"):
        _export(_bert(), target)


def test_file_that_onnx_runtime_cannot_load_is_an_error(target, monkeypatch):
    monkeypatch.setattr(export, "write", lambda model, path, *args: path.write_bytes(b"no protobuf"))
    with pytest.raises(ExportError, match="ONNX Runtime cannot (load|run)"):
        _export(_bert(), target)


def test_frozen_sequence_axis_is_an_error_even_if_all_batches_are_alike(target, monkeypatch):
    real = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *args, dynamic_axes, **options: real(*args, **options))
    with pytest.raises(ExportError, match="ONNX Runtime cannot (load|run)"):
        _export(_bert(), target, batches=[make_batch(2, 16)])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("opset", [6, 99])
def test_impossible_opset_is_an_error(target, opset):
    with pytest.raises(ExportError, match=f"opset {opset}"):
        _export(_bert(), target, opset=opset)


def test_full_disk_while_writing(target):
    """The kernel itself refuses to write more than so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ExportError, match="cannot export to .*File too large"):
            _export(_bert(), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_while_renaming(target, monkeypatch):
    def full(source, destination):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(destination))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ExportError, match="cannot export to .*No space left on device"):
        _export(_bert(), target)


def test_ctrl_c_leaves_nothing(target, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _export(_bert(), target)


def test_missing_names_and_features_are_named(target):
    model = _bert()
    with pytest.raises(ExportError, match="lack the model's input 'token_type_ids'; they have .'attention_mask'"):
        _export(model, target, batches=[make_batch(1, 8, INPUTS[:2])])
    with pytest.raises(ExportError, match="has no output 'logits'; it has .'start_logits', 'end_logits'."):
        _export(model, target, batches=[make_batch(1, 8)], outputs=["logits"])
    with pytest.raises(ExportError, match="no feature to check"):
        _export(model, target, batches=[])


def test_model_of_more_than_two_gigabytes_is_refused(target, monkeypatch):
    monkeypatch.setattr(prepare, "MAX_FILE_BYTES", 2**16)
    with pytest.raises(ExportError, match="GiB of fp32 weights; a single ONNX file holds at most"):
        _export(_bert(), target)


def test_output_directory_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "onnx").write_text("mine")
    with pytest.raises(ExportError, match="cannot export to"):
        _export(_bert(), tmp_path / "onnx")
    assert (tmp_path / "onnx").read_text() == "mine"
