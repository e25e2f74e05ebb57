"""Modules that cannot be fake-quantized: never called, or subclasses with their own forward; and shared modules."""

import logging

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForQuestionAnswering,
    BartConfig,
    BartModel,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForQuestionAnswering,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
    T5ForQuestionAnswering,
)

from helpers.tiny_encoders import FAMILIES, save_tiny_encoder
from sparsification.check.report import check
from sparsification.manager import ScheduledModifierManager
from sparsification.quantization.fake_quantize import QuantizationArgs
from sparsification.quantization.modules import (
    FakeQuantizedLinear,
    enable_fake_quant,
    fake_quantized_modules,
    insert_fake_quantizers,
    uncalled_modules,
)
from sparsification.quantization.scheme import Scheme

RECIPE = "modifiers:\n  - !EpochRangeModifier {end_epoch: 1.0}\n  - !QuantizationModifier {start_epoch: 0.0}\n"
IDS = torch.tensor([[5, 6, 2, 2, 7, 8, 9, 2]])


def quantizable(model):
    manager = ScheduledModifierManager.from_yaml(RECIPE)
    manager.initialize(model)
    return manager


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Give the folder of a family's tiny model."""
    folder = tmp_path_factory.mktemp("tiny")

    def saved(family: str):
        if not (folder / family).exists():
            save_tiny_encoder(family, folder / family)
        return folder / family

    return saved


# Known from the models' code: the table of relative positions is taken by its weight.
BY_WEIGHT = {family: ["deberta.encoder.rel_embeddings"] for family in FAMILIES if family.startswith("DeBERTa")}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"BART"}))
def test_only_debertas_relative_positions_are_never_called(tiny, family):
    model = AutoModelForQuestionAnswering.from_pretrained(tiny(family)).train()
    manager = quantizable(model)
    assert uncalled_modules(model, {"input_ids": IDS}) == BY_WEIGHT.get(family, [])
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    told = [text for text in manager.skipped_modules({"input_ids": IDS}) if "no forward pass calls it" in text]
    assert [text.split()[2] for text in told] == BY_WEIGHT.get(family, [])


def test_check_warns_of_them_and_of_attention_that_stays_in_fp32(tiny, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    _, warnings = check(str(recipe), model_name=str(tiny("DeBERTa v3")))
    assert sum("deberta.encoder.rel_embeddings stays in fp32: no forward pass calls it" in w for w in warnings) == 1
    assert sum("attention's matrix products stay in fp32: DebertaV2" in warning for warning in warnings) == 1
    _, warnings = check(str(recipe), model_name=str(tiny("BERT")))
    assert not [warning for warning in warnings if "stay" in warning]
    _, warnings = check(str(recipe), model_name=str(tiny("Longformer")))  # wants three separators
    assert not [warning for warning in warnings if "no forward pass" in warning]


def test_subclass_with_a_forward_of_its_own_is_left_as_it_is():
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = BartModel(BartConfig(vocab_size=20, scale_embedding=True, **sizes, **heads)).eval()
    expected = model(input_ids=IDS).last_hidden_state
    manager = quantizable(model)
    assert torch.equal(model(input_ids=IDS).last_hidden_state, expected)
    text = next(text for text in manager.skipped_modules(None) if "forward is overridden in" in text)
    assert "BartLearnedPositionalEmbedding, BartScaledWordEmbedding" in text
    names = dict(fake_quantized_modules(model))
    assert "encoder.embed_tokens" not in names and "encoder.layers.0.fc1" in names


def _t5() -> T5ForQuestionAnswering:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = T5ForQuestionAnswering(T5Config(vocab_size=20, decoder_start_token_id=0, **sizes))
    for name, weight in model.named_parameters():
        if "relative_attention_bias" in name:
            nn.init.normal_(weight, std=3.0)
    return model


def _llama() -> LlamaForQuestionAnswering:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "initializer_range": 1.0}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForQuestionAnswering(LlamaConfig(vocab_size=20, pad_token_id=0, **sizes, **heads))


@pytest.mark.parametrize(("make", "stays"), [(_t5, True), (_llama, False)], ids=["T5", "Llama"])
def test_attention_that_takes_more_than_ours_stays_as_it_is(make, stays):
    """T5 adds biases of positions to its scores; Llama has fewer heads in key and value than in the query."""
    torch.manual_seed(0)
    model = make().eval()
    expected = model(input_ids=IDS).start_logits
    manager = quantizable(model)
    said = [text for text in manager.skipped_modules(None) if "attention's matrix products stay in fp32" in text]
    assert bool(said) == stays
    enable_fake_quant(model, True)  # nothing has a range: all numbers pass as they are
    torch.testing.assert_close(model(input_ids=IDS).start_logits, expected)


class Twice(PreTrainedModel):
    """One layer under two names, which runs twice, and one that never runs."""

    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x))


def test_layer_under_two_names_is_quantized_under_both():
    torch.manual_seed(0)
    model = Twice(PreTrainedConfig())
    insert_fake_quantizers(
        model, dict.fromkeys(("first", "unused"), Scheme(QuantizationArgs(symmetric=False), QuantizationArgs()))
    )
    assert isinstance(model.first, FakeQuantizedLinear) and model.second is model.first
    assert uncalled_modules(model, {"x": torch.ones(1, 4)}) == ["unused"]
    enable_fake_quant(model, True)
    weight = model.first.weight_quantizer
    weight.observe(model.first.weight)
    x = torch.randn(3, 4)
    rounded = torch.fake_quantize_per_tensor_affine(model.first.weight, float(weight.scale), 0, -128, 127)
    expected = nn.functional.linear(nn.functional.linear(x, rounded, model.first.bias), rounded, model.first.bias)
    assert torch.equal(model(x), expected)


def test_tied_weights_stay_tied_and_are_saved_once(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForMaskedLM(BertConfig(vocab_size=20, **sizes)).eval()
    expected = model(input_ids=IDS).logits
    manager = quantizable(model)
    assert uncalled_modules(model, {"input_ids": IDS}) == []
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    manager.before_save()
    model.save_pretrained(tmp_path)
    assert torch.equal(BertForMaskedLM.from_pretrained(tmp_path).eval()(input_ids=IDS).logits, expected)


def test_run_says_before_training_what_stays_in_fp32_and_exports_it(tiny, tiny_squad, tmp_path, caplog):
    import onnx

    import run_qa
    from helpers.command_lines import squad_command

    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with caplog.at_level(logging.WARNING):
        metrics = run_qa.main(
            squad_command(
                tiny_squad,
                *("--model_name_or_path", tiny("DeBERTa v2"), "--recipe", tmp_path / "recipe.yaml", "--do_train"),
                *("--do_eval", "--output_dir", tmp_path / "out", "--onnx_export_path", tmp_path / "onnx"),
            )
        )
    said = [record.getMessage() for record in caplog.records]
    assert sum("deberta.encoder.rel_embeddings stays in fp32" in text for text in said) == 1
    assert "eval_onnx_f1" in metrics
    graph = onnx.load(tmp_path / "onnx" / "model.onnx").graph
    large = {tensor.name: tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 2}
    floats = [name for name, kind in large.items() if kind == onnx.TensorProto.FLOAT]
    assert floats == ["model.deberta.encoder.rel_embeddings.weight"]
    assert onnx.TensorProto.INT8 in large.values()


def test_model_that_the_exporter_cannot_follow_is_refused_before_training(tiny, tiny_squad, tmp_path):
    import run_qa
    from helpers.command_lines import squad_command
    from sparsification.export.verify import ExportError

    model = ("--model_name_or_path", tiny("Longformer"), "--do_train", "--output_dir", tmp_path / "out")
    with pytest.raises(ExportError, match="LongformerForQuestionAnswering cannot be exported to ONNX: .* one"):
        run_qa.main(squad_command(tiny_squad, *model, "--onnx_export_path", tmp_path / "onnx"))
    assert not (tmp_path / "out").exists() and not (tmp_path / "onnx").exists()
