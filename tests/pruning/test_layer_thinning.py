"""Rows and columns of zeros, taken out of a model."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, DistilBertConfig

from helpers.recipes import DROP_LATE, PRUNE_ROWS, QUANTIZE, THIN
from helpers.trainers import make_data, make_model, make_trainer
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.quantization.checkpoint import load_quantization
from sparsification.quantization.modules import enable_fake_quant

BATCH = {key: torch.stack([row[key] for row in make_data(4)]) for key in ("input_ids", "attention_mask")}
SEVERAL = PRUNE_ROWS.replace("0.8", "0.5") + THIN


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**BATCH).start_logits


def test_saved_model_is_smaller_and_plain_and_computes_the_same(tmp_path):
    trainer = make_trainer(tmp_path, SEVERAL, save_strategy="epoch")
    seen = []
    finalize = trainer.manager.finalize

    def watch():
        seen.append(logits(trainer.model))
        finalize()

    trainer.manager.finalize = watch
    trainer.train()
    assert trainer.model.config.intermediate_size == 16
    for layer in trainer.model.bert.encoder.layer:
        assert (layer.intermediate.dense.out_features, layer.output.dense.in_features) == (16, 16)
        assert not (layer.intermediate.dense.weight == 0).any()
    torch.testing.assert_close(logits(trainer.model), seen[0], rtol=1e-5, atol=1e-6)
    trainer.save_model(tmp_path / "small")
    loaded, info = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(logits(loaded), logits(trainer.model))
    checkpoint = load_file(tmp_path / "checkpoint-24" / "model.safetensors")
    assert checkpoint["bert.encoder.layer.0.intermediate.dense.weight"].shape == (32, 16)


def test_one_shot_thins_and_exact_names_will_do(tmp_path):
    keys = [f"bert.encoder.layer.{i}.intermediate.dense" for i in range(3)]
    readers = {f"{key}.weight": [f"{key}.bias", key.replace("intermediate", "output") + ".weight"] for key in keys}
    thin = f"  - !LayerThinningModifier\n    param_group_dependency_map: {readers}\n"
    trainer = make_trainer(tmp_path, PRUNE_ROWS.replace("0.8", "0.5") + thin)
    trainer.apply_one_shot()
    assert AutoModelForQuestionAnswering.from_pretrained(tmp_path).config.intermediate_size == 16


def test_columns_that_are_zero_take_their_rows_with_them():
    recipe = PRUNE_ROWS.replace("intermediate", "output").replace("0.8", "0.5") + "    mask_type: channel\n"
    thin = r"""
  - !LayerThinningModifier
    param_group_dependency_map:
      're:(.*\.\d+)\.output\.dense\.weight': ['\1.intermediate.dense.bias', '\1.intermediate.dense.weight']
    structure_type: channel
"""
    model = make_model()
    manager = ScheduledModifierManager.from_yaml(recipe + thin)
    manager.initialize(model)
    manager.apply_one_shot()
    before = logits(model)
    manager.finalize()
    assert model.config.intermediate_size == 16
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)


def test_all_layers_lose_as_many_as_the_one_that_lost_least_and_biases_count():
    model = make_model()
    manager = ScheduledModifierManager.from_yaml("modifiers:" + THIN)
    manager.initialize(model)
    with torch.no_grad():
        for layer, count in zip(model.bert.encoder.layer, (5, 9, 7), strict=True):
            layer.intermediate.dense.weight[:count] = 0
            layer.intermediate.dense.bias[: count - 2] = 0
            layer.intermediate.dense.bias[count - 2 :] = 1
    before = logits(model)
    manager.finalize()
    assert model.config.intermediate_size == 32 - 3
    zeros = [int((layer.intermediate.dense.weight == 0).all(dim=1).sum()) for layer in model.bert.encoder.layer]
    assert zeros == [2, 6, 4]
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-6)


def test_a_model_without_zeros_keeps_its_size(caplog):
    model = make_model()
    manager = ScheduledModifierManager.from_yaml("modifiers:" + THIN)
    manager.initialize(model)
    manager.finalize()
    assert model.config.intermediate_size == 32
    assert "nothing is removed" in caplog.text


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quantized_model_is_thinned_with_its_ranges(tmp_path, per_channel):
    quantize = QUANTIZE
    if per_channel:
        quantize = """
  - !QuantizationModifier
    scheme: {weights: {num_bits: 8, strategy: channel}}
    start_epoch: 0.5
    disable_quantization_observer_epoch: 1.75
"""
    trainer = make_trainer(tmp_path, SEVERAL + quantize)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    plain = logits(loaded)
    assert load_quantization(loaded, tmp_path)
    assert torch.equal(logits(loaded), logits(trainer.model))
    enable_fake_quant(trainer.model, False)
    assert torch.equal(plain, logits(trainer.model))


def test_layers_that_were_dropped_in_training_do_not_count(tmp_path):
    trainer = make_trainer(tmp_path, SEVERAL + DROP_LATE)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert (loaded.config.intermediate_size, loaded.config.num_hidden_layers) == (16, 2)


def test_distilbert_is_thinned_too(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(
        DistilBertConfig(vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=32)
    )
    prune = PRUNE_ROWS.replace(r"re:.*\d\.intermediate\.dense\.weight", "re:.*lin1.weight").replace("0.8", "0.5")
    thin = r"""
  - !LayerThinningModifier
    param_group_dependency_map: {'re:(.*ffn).lin1.weight': ['\1.lin1.bias', '\1.lin2.weight']}
"""
    manager = ScheduledModifierManager.from_yaml(prune + thin)
    manager.initialize(model)
    manager.apply_one_shot()
    manager.finalize()
    model.save_pretrained(tmp_path)
    assert AutoModelForQuestionAnswering.from_pretrained(tmp_path).config.hidden_dim == 16


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        # Layer 2 is left out; heads; a reader is left out; a wrong group of the expression; what is no matrix.
        ("{'re:(.*[01]).intermediate.dense.weight': ['\\1.intermediate.dense.bias', '\\1.output.dense.weight']}",
         "layer.2.intermediate.dense.weight would have shape .32, 16. instead of .31, 16., which intermediate_size"),
        ("{'re:(.*).query.weight': ['\\1.query.bias']}", "must have its 16 units as intermediate_size or hidden_dim"),
        ("{'re:(.*\\d).intermediate.dense.weight': ['\\1.intermediate.dense.bias']}",
         "output.dense.weight would have shape .16, 32. instead of .16, 31., which intermediate_size"),
        ("{'re:(.*\\d).intermediate.dense.weight': ['\\2.bias']}", "its list refers to: invalid group reference 2"),
        ("{'re:.*LayerNorm.weight': []}", "layer thinning needs matrices, got .* of shape .16,."),
        ("{'re:.*interim.*': []}", "no parameter matches 're:.*interim.*'"),
        ("{qa_outputs.weight: ['bert.pooler.bias']}", "no parameter matches 'bert.pooler.bias'"),
        ("{qa_outputs.weight: [bert.embeddings.LayerNorm.bias]}", "got qa_outputs.weight with 2 and bert.embed"),
    ],
)  # fmt: skip
def test_what_could_not_be_loaded_is_refused_before_training(groups, message):
    recipe = f"modifiers:\n  - !LayerThinningModifier\n    param_group_dependency_map: {groups}\n"
    with pytest.raises(ManagerError, match=message):
        ScheduledModifierManager.from_yaml(recipe).initialize(make_model())
