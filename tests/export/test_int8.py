"""An exported int8 graph equals the fake-quantized PyTorch model; otherwise no file is written."""

import functools
import logging
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
)

from helpers.exports import (
    CASES,
    FAMILIES,
    INPUTS,
    OUTPUTS,
    SIZE,
    export_model,
    make_batch,
    make_bert,
    quantize_model,
    read_initializers,
)
from sparsification.export import verify as export_check
from sparsification.export import write as export_write
from sparsification.export.onnx import export_onnx
from sparsification.export.recorder import ActivationRecorder
from sparsification.export.verify import ExportError, OnnxModel
from sparsification.quantization.fake_quantize import FakeQuantize, QuantizationArgs
from sparsification.quantization.modules import enable_fake_quant, quantizers
from sparsification.runtime import load_session

TARGETS = ["onnxruntime", "deepsparse"]
WEIGHT = "bert.encoder.layer.0.intermediate.dense"


def _mean_difference(model, run, batch) -> float:
    """The worst output's mean difference at real tokens, in standard deviations."""
    with torch.no_grad():
        expected = model(**batch)
    actual = run(OUTPUTS, {name: tensor.numpy() for name, tensor in batch.items()})
    real = batch["attention_mask"].numpy() == 1
    pairs = [(array[real], expected[name].numpy()[real]) for name, array in zip(OUTPUTS, actual, strict=True)]
    return max(np.abs(ours - theirs).mean() / theirs.std() for ours, theirs in pairs)


def _count(path, kind: str) -> int:
    return sum(node.op_type == kind for node in onnx.load(path).graph.node)


@pytest.fixture(scope="module")
def export_case(tmp_path_factory):
    """One exported layer, and its report, by case and target; each is made once."""

    @functools.cache
    def make(case: str, target: str = "onnxruntime"):
        model = quantize_model(make_bert(1), **CASES[case])
        # Key and value get numbers outside of their range, which 7 bits have to end where 8 bits would not.
        for name, quantizer in quantizers(model).items():
            if name.endswith((".key", ".value")):
                quantizer.set_range(quantizer.min_val / 2, quantizer.max_val / 2)
        return model, export_model(model, tmp_path_factory.mktemp("case"), target=target, opset=18, exporter="auto")

    return make


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_int8_graph_equals_fake_quantized_torch(case, target, export_case):
    model, report = export_case(case, target)
    assert (report.quantized, report.target) == (True, target)
    # ONNX's own evaluator, in numpy: it has these operators from opset 19 on, where they mean the same.
    proto = onnx.load(report.path)
    proto.opset_import[0].version = 19
    assert _mean_difference(model, ReferenceEvaluator(proto).run, make_batch(3, 17, seed=3)) < 1e-2
    exported = OnnxModel(report.path, OUTPUTS)
    for shape in ((3, 17), (2, 40)):
        assert _mean_difference(model, lambda _, batch: exported(batch), make_batch(*shape, seed=3)) < 5e-2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_exports(family, target, tmp_path):
    make, names, pad = FAMILIES[family]
    model = quantize_model(make(), names, pad)
    report = export_model(model, tmp_path, names, pad, target=target)
    assert report.mean_difference < 0.1
    run = load_session(report.path).run
    assert _mean_difference(model, run, make_batch(3, 30, names, pad, seed=4)) < 0.1
    kind = "MatMulInteger" if target == "deepsparse" else "MatMul"
    runs = 3 if family == "albert" else 2
    projection = family == "albert"  # of the small embeddings
    assert _count(report.path, kind) == 8 * runs + 1 + projection


@pytest.mark.parametrize("opset", [13, 14, 17])  # and 18 above
@pytest.mark.parametrize("target", TARGETS)
def test_opsets(target, opset, tmp_path):
    model = quantize_model(make_bert(1), **CASES["per channel"])
    report = export_model(model, tmp_path, target=target, opset=opset)
    proto = onnx.load(report.path)
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [opset]
    assert proto.ir_version <= 9


# Structure


@pytest.fixture(scope="module", params=TARGETS)
def exported(request, tmp_path_factory):
    """A quantized BERT with pruned weights, and the report of its export."""
    model = make_bert()
    with torch.no_grad():
        for index, module in enumerate(model.bert.encoder.modules()):
            if isinstance(module, nn.Linear):
                module.weight[torch.rand(module.weight.shape, generator=torch.Generator().manual_seed(index)) < 0.8] = 0
    model = quantize_model(model)
    return model, export_model(model, tmp_path_factory.mktemp("exported"), target=request.param, exporter="auto")


def test_no_quantized_weight_is_left_in_fp32(exported):
    _, report = exported
    arrays = read_initializers(report.path)
    assert all(array.ndim < 2 for array in arrays.values() if array.dtype == np.float32)
    # 6 Linear layers in each of 2 layers, the head and 3 embeddings
    assert sum(array.ndim == 2 for array in arrays.values() if array.dtype == np.int8) == 16


def test_integers_and_scales_are_those_of_the_formula(exported):
    """Computed by numpy from the weights alone: symmetric, 127.5 steps to the largest."""
    model, report = exported
    arrays = read_initializers(report.path)
    for name, linear in model.named_modules():
        if not isinstance(linear, nn.Linear):
            continue
        weight = linear.weight.detach().numpy()
        scale = np.abs(weight).max() / np.float32(127.5)
        expected = np.clip(np.rint(weight / scale), -128, 127).astype(np.int8).T
        stored = arrays[f"model.{name}.weight"]
        assert stored.shape == expected.shape
        assert (stored != expected).mean() < 0.01  # a tie may go either way
        assert np.abs(stored.astype(int) - expected).max() <= 1
        assert (stored[weight.T == 0] == 0).all()
        if report.target == "onnxruntime":
            np.testing.assert_allclose(arrays[f"model.{name}.weight_quantizer.scale"], scale, rtol=1e-6)
            assert arrays[f"model.{name}.weight"].shape == (linear.in_features, linear.out_features)


def test_nodes_are_those_of_the_target(exported):
    _, report = exported
    graph = onnx.load(report.path).graph
    producer = {name: node for node in graph.node for name in node.output}
    consumers = {
        name: [node for node in graph.node if name in node.input] for node in graph.node for name in node.output
    }
    constants = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "MatMulInteger")]
    assert len(products) == 2 * 8 + 1
    for node in products:
        left, right = (producer.get(name) for name in node.input[:2])
        if report.target == "onnxruntime":
            assert node.op_type == "MatMul"
            assert left.op_type == "DequantizeLinear"
            assert producer[left.input[0]].op_type == "QuantizeLinear"
            assert right.op_type in ("DequantizeLinear", "Transpose")
        else:
            assert node.op_type == "MatMulInteger"
            assert set(node.input[2:]) <= constants
            assert left.op_type == "QuantizeLinear"
            assert right is None or right.op_type in ("QuantizeLinear", "Transpose")
            (cast,) = consumers[node.output[0]]
            (scale,) = consumers[cast.output[0]]
            assert (cast.op_type, scale.op_type) == ("Cast", "Mul")
            assert set(scale.input) & constants
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert set(node.input[1:]) <= constants
    # The embeddings' rows, not their tables, become numbers.
    assert (
        sum(
            producer[n.input[0]].op_type == "Gather"
            for n in graph.node
            if n.op_type == "DequantizeLinear" and n.input[0] in producer
        )
        == 3
    )
    assert "Identity" not in {node.op_type for node in graph.node}
    # Query, key and value share one; so in each layer: it, 4 factors of attention and the inputs of 3 Linear layers.
    assert _count(report.path, "QuantizeLinear") == 2 * 8 + 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", ["per tensor", "symmetric activations", "asymmetric weights"])
def test_left_factors_are_unsigned_and_right_ones_signed(case, target, export_case):
    path = export_case(case, target)[1].path
    arrays = read_initializers(path)
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "QuantizeLinear"]
    dtypes = [arrays[node.input[2]].dtype for node in nodes]
    assert dtypes.count(np.dtype(np.int8)) == 2  # key and value
    assert dtypes.count(np.dtype(np.uint8)) == len(dtypes) - 2


@pytest.mark.parametrize(
    ("case", "ends"), [("4-bit weights", (-8, 7)), ("reduce_range", (-64, 63)), ("asymmetric 3-bit weights", (-4, 3))]
)
def test_weights_of_few_bits_are_small_integers(case, ends, export_case):
    arrays = read_initializers(export_case(case)[1].path)
    weights = [array for array in arrays.values() if array.dtype == np.int8 and array.ndim == 2]
    assert (min(array.min() for array in weights), max(array.max() for array in weights)) == ends


def test_per_channel_scales_belong_to_the_outputs(export_case):
    path = export_case("per channel")[1].path
    assert read_initializers(path)[f"model.{WEIGHT}.weight_quantizer.scale"].shape == (64,)
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "DequantizeLinear"]
    assert {attribute.i for node in nodes for attribute in node.attribute if attribute.name == "axis"} == {1}


def test_model_that_does_not_quantize_yet_is_exported_in_fp32(tmp_path):
    model = quantize_model(make_bert(1))
    enable_fake_quant(model, False)
    for target in TARGETS:
        report = export_model(model, tmp_path, target=target)
        assert not report.quantized
        assert report.max_difference < 1e-4
        assert report.mean_difference < 1e-4
        assert _count(report.path, "QuantizeLinear") == 0
        assert np.float32 in {array.dtype.type for array in read_initializers(report.path).values() if array.ndim == 2}


def test_export_leaves_the_quantized_model_as_it_was_and_says_nothing(tmp_path, capfd):
    model = quantize_model(make_bert(1))
    kinds = [type(module) for module in model.modules()]
    with torch.no_grad():
        before = model(**make_batch(2, 9)).start_logits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_model(model, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [type(module) for module in model.modules()] == kinds
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(**make_batch(2, 9)).start_logits, before)


def test_int8_file_is_small(tmp_path):
    model = BertForQuestionAnswering(BertConfig(**SIZE | {"hidden_size": 256, "vocab_size": 3000}, num_hidden_layers=1))
    plain = export_model(model, tmp_path / "fp32").size_bytes
    assert export_model(quantize_model(model), tmp_path / "int8").size_bytes < 0.28 * plain


# The check


def _spoil(monkeypatch, change):
    """Change the graph between its export and the check."""
    write = export_write.write

    def spoilt(model, path, *args):
        write(model, path, *args)
        proto = onnx.load(path)
        tensors = {tensor.name: tensor for tensor in proto.graph.initializer}

        def put(name, array):
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

        change(proto.graph, {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}, put)
        onnx.save(proto, path)

    monkeypatch.setattr(export_write, "write", spoilt)


def _product_scale(graph, weight: str) -> str:
    """The initializer with which a MatMulInteger's sums are multiplied."""
    (product,) = [node for node in graph.node if node.op_type == "MatMulInteger" and node.input[1] == weight]
    (cast,) = [node for node in graph.node if product.output[0] in node.input]
    (scale,) = [node for node in graph.node if cast.output[0] in node.input]
    return scale.input[1]


FAULTS = {
    "weight scale 20 % off": lambda graph, arrays, put: put(
        f"model.{WEIGHT}.weight_quantizer.scale", arrays[f"model.{WEIGHT}.weight_quantizer.scale"] * np.float32(1.2)
    ),
    "input scale 20 % off": lambda graph, arrays, put: put(
        f"model.{WEIGHT}.input_quantizer.scale", arrays[f"model.{WEIGHT}.input_quantizer.scale"] * np.float32(1.2)
    ),
    "zero point 64 off": lambda graph, arrays, put: put(
        f"model.{WEIGHT}.input_quantizer.zero_point",
        arrays[f"model.{WEIGHT}.input_quantizer.zero_point"] + np.uint8(64),
    ),
    "weight transposed": lambda graph, arrays, put: put(
        "model.bert.encoder.layer.1.attention.output.dense.weight",
        arrays["model.bert.encoder.layer.1.attention.output.dense.weight"].T,
    ),
    "embedding scale 20 % off": lambda graph, arrays, put: put(
        "model.bert.embeddings.word_embeddings.weight_quantizer.scale",
        arrays["model.bert.embeddings.word_embeddings.weight_quantizer.scale"] * np.float32(1.2),
    ),
    "value scale 20 % off": lambda graph, arrays, put: put(
        "model.bert.encoder.layer.1.attention.self.matmul_quantizers.value.scale",
        arrays["model.bert.encoder.layer.1.attention.self.matmul_quantizers.value.scale"] * np.float32(1.2),
    ),
    "NaN": lambda graph, arrays, put: put(
        "model.qa_outputs.bias", arrays["model.qa_outputs.bias"] * np.float32(np.nan)
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_graph_is_refused(fault, monkeypatch, tmp_path):
    model = quantize_model(make_bert())
    _spoil(monkeypatch, FAULTS[fault])
    with pytest.raises(ExportError, match=r"differs from the fake-quantized one by .* allowed is 1e-03"):
        export_model(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layer", [f"bert.encoder.layer.1.{name}" for name in ("intermediate.dense", "output.dense")])
def test_faulty_scale_of_a_product_in_integers_is_refused_and_named(layer, monkeypatch, tmp_path):
    model = quantize_model(make_bert())

    def change(graph, arrays, put):
        # The exporter's Identity nodes are still there; these weights are not behind one.
        name = _product_scale(graph, f"model.{layer}.weight")
        put(name, arrays[name] * np.float32(1.2))

    _spoil(monkeypatch, change)
    with pytest.raises(ExportError, match=rf"{layer} differs .* by 2\.\d\de-01"):
        export_model(model, tmp_path, target="deepsparse")


def test_output_that_the_model_changes_in_place_is_recorded_as_the_module_gave_it():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            output = self.linear(x)
            output.view(-1).div_(2)
            return {"logits": output}

    model, x = Halves(), torch.ones(1, 3)
    with torch.no_grad():
        expected = model.linear(x)
        ActivationRecorder(model, {"linear": model.linear})
        recorded = model(x)
    assert torch.equal(recorded["linear:output"], expected)
    assert torch.equal(recorded["logits"], expected / 2)


@pytest.mark.parametrize("target", TARGETS)
def test_wrong_outputs_of_right_modules_are_refused(target, monkeypatch, tmp_path):
    model = quantize_model(make_bert())
    real = OnnxModel.__call__

    def swapped(exported, batch):
        outputs = real(exported, batch)
        return outputs[::-1] if len(outputs) == 2 else outputs

    monkeypatch.setattr(OnnxModel, "__call__", swapped)
    monkeypatch.setattr(export_write, "module_differences", lambda *args: {})
    with pytest.raises(ExportError, match=r"_logits differ .* in the mean; allowed is 0.25"):
        export_model(model, tmp_path, target=target)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_refused(spoilt, monkeypatch, tmp_path):
    model = quantize_model(make_bert(1))
    real = OnnxModel.__call__
    monkeypatch.setattr(OnnxModel, "__call__", lambda *args: tuple(x + spoilt for x in real(*args)))
    monkeypatch.setattr(export_write, "module_differences", lambda *args: {})
    with pytest.raises(ExportError, match="differ"):
        export_model(model, tmp_path)


def test_mean_difference_is_that_of_numpy():
    expected, actual = np.random.default_rng(0).normal(size=(2, 100))
    sums = sum(
        export_check.difference_sums(torch.from_numpy(expected[part]), torch.from_numpy(actual[part]))
        for part in (slice(30), slice(30, 100))
    )
    assert export_check.mean_difference(*sums) == pytest.approx(np.abs(actual - expected).mean() / expected.std())
    assert export_check.mean_difference(3, 0.0, 3.0, 3.0) == 0.0
    assert export_check.mean_difference(3, 0.1, 3.0, 3.0) == np.inf


# Errors


def test_ranges_that_still_move_are_an_error(tmp_path):
    model = quantize_model(make_bert(1), finalize=False)
    with pytest.raises(
        ExportError, match=r"still follow the data \(bert.* more\): .*disable_quantization_observer_epoch"
    ):
        export_model(model, tmp_path)


def test_quantizers_without_data_are_named(tmp_path):
    model = quantize_model(make_bert(1), batches=0)
    with pytest.raises(ExportError, match=r"quantizer bert\.embeddings.* and \d+ more have seen no data .* calibrate"):
        export_model(model, tmp_path)
    model = quantize_model(make_bert(1))
    model.qa_outputs.input_quantizer.observed = False
    with pytest.raises(ExportError, match=r"the quantizer qa_outputs.input_quantizer has seen no data"):
        export_model(model, tmp_path)


def test_impossible_opsets_and_targets_are_errors(tmp_path):
    plain, model = make_bert(1), quantize_model(make_bert(1))
    with pytest.raises(ExportError, match="opset 12 cannot hold a quantized model: it needs 13 or more"):
        export_model(model, tmp_path, opset=12)
    with pytest.raises(ExportError, match="opset 21 is too new: PyTorch's exporter knows 20 and less"):
        export_model(model, tmp_path, opset=21)
    for either in (plain, model):
        with pytest.raises(ExportError, match="opset 19 is too new: DeepSparse loads 18 and less"):
            export_model(either, tmp_path, opset=19, target="deepsparse")
        with pytest.raises(ExportError, match="no target 'tensorrt', only onnxruntime, deepsparse"):
            export_model(either, tmp_path, target="tensorrt")


def test_missing_output_is_named_without_what_the_check_records(tmp_path):
    with pytest.raises(ExportError, match=r"no output 'logits'; it has .'start_logits', 'end_logits'.$"):
        export_onnx(
            quantize_model(make_bert(1)),
            tmp_path,
            input_names=INPUTS,
            output_names=["logits"],
            check_batches=[make_batch(1, 8)],
        )


def test_cpu_without_vnni_is_warned_about_with_reduce_range(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(export_check, "has_vnni", lambda: False)
    model = quantize_model(make_bert(1))
    reduced = [quantize_model(make_bert(1), **CASES[name]) for name in ("reduce_range", "reduce_range, per channel")]
    with caplog.at_level(logging.WARNING, logger="sparsification.export.onnx"):
        report = export_model(model, tmp_path)
    assert "This CPU has no VNNI" in report.cpu_note
    assert report.cpu_note in caplog.text
    assert "reduce_range: true in the recipe's QuantizationModifier" in report.cpu_note
    assert [export_model(one, tmp_path).cpu_note for one in reduced] == ["", ""]
    assert export_model(make_bert(1), tmp_path).cpu_note == ""
    monkeypatch.undo()
    monkeypatch.setattr(export_check, "has_vnni", lambda: None)
    assert export_model(model, tmp_path).cpu_note == ""


def test_ties_are_compared_as_engines_round_them(tmp_path):
    """x / scale and x * (1 / scale) fall on two sides of a half: torch does the one, ONNX Runtime the other."""
    quantizer = FakeQuantize(QuantizationArgs(symmetric=False))
    quantizer.set_range(torch.tensor(-1.0), torch.tensor(1.3))
    ties = (torch.arange(-110, 140) + 0.5) * quantizer.scale
    scale, zero_point = quantizer.scale.numpy(), quantizer.zero_point.numpy().astype(np.uint8)
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [None])]
    node = onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero_point"], ["y"])
    constants = [
        onnx.numpy_helper.from_array(array, name) for name, array in (("scale", scale), ("zero_point", zero_point))
    ]
    graph = onnx.helper.make_graph([node], "ties", inputs, outputs, constants)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)]), tmp_path / "ties.onnx")
    (integers,) = OnnxModel(tmp_path / "ties.onnx")({"x": ties})
    engine = (torch.from_numpy(integers).float() - quantizer.zero_point) * quantizer.scale
    assert not torch.equal(quantizer.fake_quantize(ties), engine)
    quantizer.divides = True
    assert torch.equal(quantizer.fake_quantize(ties), engine)
