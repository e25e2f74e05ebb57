"""Quantization-aware training; tests/parity compares it with SparseML."""

import copy

import pytest
import torch
from golden_run import load_model
from torch.nn import functional as F
from transformers import AutoModelForQuestionAnswering, BertConfig, RobertaConfig

from helpers.quantized import RECIPE, batch, quantized_model
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.quantization.modules import (
    fake_quant_enabled,
    fake_quantized_modules,
    quantizers,
)
from sparsification.quantization.scheme import SCHEMES, Scheme
from sparsification.recipe.loader import RecipeError


def test_only_inputs_and_weights_are_quantized_by_default():
    model, _ = quantized_model()
    kinds = {name.rsplit(".", 1)[1] for name in quantizers(model)}
    assert kinds == {"weight_quantizer", "input_quantizer", "query", "key", "probabilities", "value"}
    asked, _ = quantized_model(RECIPE.format(start=0, frozen=1) + "      quantize_linear_activations: True\n")
    assert "qa_outputs.output_quantizer" in quantizers(asked)
    assert not any("embeddings" in name for name in set(quantizers(asked)) - set(quantizers(model)))


def quantized_tensors(keys: str) -> set[str]:
    """Names of the fake quantizers that a recipe inserts into BERT."""
    model = load_model("model_student")
    ScheduledModifierManager.from_yaml(f"modifiers:\n  - !QuantizationModifier {{{keys}}}\n").initialize(model)
    return set(quantizers(model))


def test_embeddings_outside_of_submodules_are_not_quantized():
    assert not any("embeddings" in name for name in quantized_tensors("submodules: [bert.encoder]"))
    assert "bert.embeddings.word_embeddings.weight_quantizer" in quantized_tensors("submodules: [bert.embeddings]")


def test_tensorrt_quantizes_no_outputs_of_linear_layers_and_embeddings_as_in_sparseml():
    outputs = {
        name
        for name in quantized_tensors("tensorrt: True, quantize_outputs: True, quantize_linear_activations: True")
        if name.endswith("output_quantizer")
    }
    assert outputs and all("LayerNorm" in name for name in outputs)


def test_outputs_of_embeddings_are_quantized_without_their_tables_as_in_sparseml():
    names = quantized_tensors("quantize_outputs: True, quantize_embeddings: False, submodules: [bert.embeddings]")
    kinds = {name.rpartition(".")[2] for name in names if "word_embeddings" in name}
    assert kinds == {"output_quantizer"}


def test_reduced_range_takes_a_bit_of_all_8_bit_weights_and_second_factors_in_both_forms_of_a_recipe():
    def bits(keys: str) -> dict[str, int]:
        model = load_model("model_student")
        text = f"modifiers:\n  - !QuantizationModifier {{reduce_range: true, {keys}}}\n"
        ScheduledModifierManager.from_yaml(text).initialize(model)
        return {name: quantizer.qargs.bits for name, quantizer in quantizers(model).items()}

    for keys in ("weight_bits: 8", "scheme: default", "scheme: {input_activations: {num_bits: 8}, weights: {}}"):
        found = bits(keys)
        seven = {name for name in found if name.endswith(("weight_quantizer", "quantizers.key", "quantizers.value"))}
        assert {name for name, number in found.items() if number == 7} == seven and set(found.values()) == {7, 8}, keys
    assert bits("weight_bits: 4")["qa_outputs.weight_quantizer"] == 4
    overridden = bits('scheme_overrides: {qa_outputs: {weights: {}}, "re:.*query": {weights: {num_bits: 4}}}')
    assert overridden["qa_outputs.weight_quantizer"] == 7
    assert {number for name, number in overridden.items() if name.endswith("query.weight_quantizer")} == {4}


def test_before_its_start_the_model_is_the_plain_one_bit_by_bit():
    plain, model = load_model("model_student"), load_model("model_student")
    manager = ScheduledModifierManager.from_yaml(RECIPE.format(start=1, frozen=2))
    manager.initialize(model)
    manager.on_train_begin(TrainingStep(0, 10))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(**batch()).start_logits, model(**batch()).start_logits)
    assert list(plain.state_dict()) == list(model.state_dict())
    assert model.config._attn_implementation == plain.config._attn_implementation


def test_switches_are_functions_of_the_step_alone():
    seen = {}
    for start in range(25):
        model = load_model("model_student")
        manager = ScheduledModifierManager.from_yaml(RECIPE.format(start=0.5, frozen=1))
        manager.initialize(model)
        manager.on_train_begin(TrainingStep(start, 10))
        for step in range(start, 25):
            now = fake_quant_enabled(model), next(iter(quantizers(model).values())).observer_enabled
            assert seen.setdefault(step, now) == now
            manager.update(TrainingStep(step, 10), None)
    assert next(step for step, (quantizing, _) in seen.items() if quantizing) == 6
    assert [step for step, (_, observing) in seen.items() if observing] == [6, 7, 8, 9, 10]


@pytest.mark.parametrize("frozen", [0.5, 0.55])
def test_at_least_one_step_is_observed_however_short_the_run(frozen):
    model = load_model("model_student")
    manager = ScheduledModifierManager.from_yaml(RECIPE.format(start=0.5, frozen=frozen))
    manager.initialize(model)
    manager.on_train_begin(TrainingStep(0, 10))
    seen = []
    for step in range(10):
        seen.append(next(iter(quantizers(model).values())).observer_enabled)
        manager.update(TrainingStep(step, 10), None)
    assert seen == [step == 6 for step in range(10)]


def test_ranges_are_constant_in_evaluation_and_after_freezing():
    model, manager = quantized_model()
    ranges = copy.deepcopy(manager.state_dict())
    assert ranges
    for training in (False, True):
        model.train(training)(**batch(99))
        assert all(torch.equal(ranges[name], tensor) for name, tensor in manager.state_dict().items())


def test_autocast_does_not_affect_fake_quantized_modules():
    model, _ = quantized_model()
    layer = model.bert.encoder.layer[0].intermediate.dense
    x = torch.randn(2, 3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x.bfloat16())
    assert output.dtype == torch.float32
    rounded = layer.input_quantizer.fake_quantize(x.bfloat16().float())
    expected = F.linear(rounded, layer.weight_quantizer.fake_quantize(layer.weight), layer.bias)
    assert torch.equal(output, expected)


def test_series_for_dashboards():
    model, manager = quantized_model(RECIPE.format(start=0, frozen=1) + "      log_types: __ALL__\n")
    series = manager.metrics(TrainingStep(20, 10))
    assert series["QuantizationModifier/num_fake_quantize_global"] == len(quantizers(model))
    assert series["QuantizationModifier/qat_observers_disabled"] == 1.0
    assert series["QuantizationModifier/qa_outputs/num_bits"] == 8.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("end_epoch: 3", "end_epoch must be -1, got 3: quantization has no end"),
        ("start_epoch: 3\n      disable_quantization_observer_epoch: 2", "observers would see no data"),
        (
            "num_calibration_steps: 0",
            "num_calibration_steps must be at least 1, got 0: the observers would see no data",
        ),
        ("weight_bits: 16", "weight_bits must be 2 to 8, got 16"),
        ("activation_bits: 4", "activation_bits must be 8, got 4"),
        ("scheme: fastest", "scheme must be default, deepsparse, tensorrt or a mapping, got 'fastest'"),
        ("scheme: {weigths: {num_bits: 8}}", "scheme has no key 'weigths'"),
        ("scheme: {weights: {num_bits: 3.5}}", "num_bits must be an integer, got 3.5"),
        ("scheme: {weights: {strategy: row}}", "strategy must be tensor or channel"),
        ("scheme: {input_activations: {strategy: channel}}", "strategy must be tensor for activations, got channel"),
        ("scheme: default\n      submodules: [bert]", "submodules is a legacy key and cannot be combined with scheme"),
    ],
)
def test_impossible_recipes_are_refused_when_they_are_read(keys, message):
    with pytest.raises(RecipeError, match=message):
        ScheduledModifierManager.from_yaml(f"modifiers:\n  - !QuantizationModifier\n      {keys}\n")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("submodules: [bert.encodr]", "no submodule matches 'bert.encodr'; did you mean 'bert.encoder'"),
        ("ignore: [LayerNrm]", "no module or module type matches 'LayerNrm'"),
        ("scheme_overrides: {Conv2d: default}", "scheme_overrides: no module or module type matches 'Conv2d'"),
        ("custom_quantizable_module_types: [GELUActivation]", "modules of type GELUActivation cannot be quantized"),
        ("submodules: [bert.embeddings.dropout]", "the recipe quantizes no Linear, Embedding or attention module"),
    ],
)
def test_recipes_that_do_not_fit_the_model_are_refused_before_training(keys, message):
    manager = ScheduledModifierManager.from_yaml(f"modifiers:\n  - !QuantizationModifier\n      {keys}\n")
    with pytest.raises(ManagerError, match=message):
        manager.initialize(load_model("model_student"))


@pytest.mark.parametrize("nothing", ["null", "None", "'null'"])
def test_sparsemls_spelling_of_a_tensor_that_is_not_quantized_is_read(nothing):
    """``str(manager)`` of 1.8.0 has {'input_activations': None, ...}, which YAML reads as the word."""
    left = f"{{'input_activations': {nothing}, 'weights': {nothing}, 'output_activations': {nothing}, "
    left += f"'target_hardware': {nothing}}}"
    recipe = f"modifiers:\n  - !QuantizationModifier\n      scheme_overrides: {{'Embedding': {left}}}\n"
    model = load_model("model_student")
    ScheduledModifierManager.from_yaml(recipe).initialize(model)
    kinds = {type(module).__name__ for _, module in fake_quantized_modules(model)}
    assert kinds == {"FakeQuantizedLinear", "AttentionQuantizers"}


def test_an_override_of_null_is_the_default_scheme_as_in_sparseml():
    recipe = "modifiers:\n  - !QuantizationModifier\n      scheme: {weights: null, input_activations: null}\n"
    model = load_model("model_student")
    ScheduledModifierManager.from_yaml(recipe + "      scheme_overrides: {qa_outputs: null}\n").initialize(model)
    ((name, module),) = fake_quantized_modules(model)
    assert (name, module.scheme) == ("qa_outputs", SCHEMES["default"])


def test_ignore_need_not_match_if_not_strict():
    recipe = "modifiers:\n  - !QuantizationModifier\n      ignore: [Tanh, QATMatMul]\n      strict: False\n"
    model = load_model("model_student")
    ScheduledModifierManager.from_yaml(recipe).initialize(model)
    assert not any("matmul" in name for name in quantizers(model))


@pytest.mark.parametrize(
    ("keys", "in_encoder", "others"),
    [
        ("submodules: [__ENCODER__]", True, False),
        ("ignore: [__ENCODER__]", False, True),
        ("ignore: [__ENCODER__.0, Embedding, qa_outputs]", False, False),
        ("scheme_overrides: {__ENCODER__.0: {weights: {num_bits: 4, symmetric: true}}}", True, True),
    ],
)
@pytest.mark.parametrize("prefix", ["bert", "roberta"])
def test_encoder_token_stands_for_the_layers_of_any_model(keys, in_encoder, others, prefix):
    config = {"bert": BertConfig, "roberta": RobertaConfig}[prefix](
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = AutoModelForQuestionAnswering.from_config(config)
    text = f"modifiers:\n  - !QuantizationModifier\n      start_epoch: 0.0\n      {keys}\n"
    ScheduledModifierManager.from_yaml(text).initialize(model)
    schemes = {name: module.scheme for name, module in fake_quantized_modules(model)}
    quantized = {name: scheme for name, scheme in schemes.items() if scheme != Scheme()}
    first, second = (any(name.startswith(f"{prefix}.encoder.layer.{index}.") for name in quantized) for index in (0, 1))
    assert first == in_encoder
    assert second == (in_encoder or "__ENCODER__.0" in keys)
    assert ("qa_outputs" in quantized) == others
    if "overrides" in keys:
        bits = [quantized[f"{prefix}.encoder.layer.{index}.output.dense"].weights.bits for index in (0, 1)]
        assert bits == [4, 8]


def test_encoder_token_in_a_model_without_layers_is_refused():
    text = "modifiers:\n  - !QuantizationModifier {start_epoch: 0.0, submodules: [__ENCODER__]}\n"
    with pytest.raises(ManagerError, match="__ENCODER__ matches nothing: the model has no nn.ModuleList of layers"):
        ScheduledModifierManager.from_yaml(text).initialize(torch.nn.Sequential(torch.nn.Linear(2, 2)))
