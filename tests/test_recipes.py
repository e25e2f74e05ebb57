"""Each recipe of the folder: does it load, and does it do what its name says?"""

import re
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering

from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import Clock, QuantizationModifier
from sparsification.quantized_modules import is_quantizing, quantized_modules

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("bert-base*.md"))


def name(path: Path) -> str:
    return path.stem


def test_the_tutorials_recipes_are_there():
    kinds = ("prune80", "prune90", "prune95", "prune_quant70", "prune_quant90")
    students = {f"bert-base-{layers}layers_{kind}" for layers in (12, 6) for kind in kinds}
    assert {path.stem for path in RECIPES} == students | {"bert-base-12layers"}


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_keeps_the_promise_of_its_name(path):
    config = BertConfig(
        vocab_size=30, hidden_size=32, num_hidden_layers=12, num_attention_heads=2, intermediate_size=64
    )
    model = BertForQuestionAnswering(config)
    kept = [model.bert.encoder.layer[index] for index in (0, 2, 4, 6, 8, 11)]
    manager = ScheduledModifierManager.from_yaml(path)
    manager.initialize(model)
    manager.apply_once()
    promise = re.fullmatch(r"bert-base-(\d+)layers(_prune(_quant)?(\d+))?", path.stem)
    layers, quantized, percent = int(promise[1]), bool(promise[3]), int(promise[4] or 0)
    group = 4 if quantized else 1  # neighbours in a row that are pruned together
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == layers
    if layers == 6:
        assert list(model.bert.encoder.layer) == kept
    for parameter, weight in model.named_parameters():
        if "encoder" in parameter and weight.dim() == 2:
            assert int((weight == 0).sum()) == group * round(weight.numel() / group * percent / 100), parameter
        elif weight.dim() == 2 and "word" not in parameter:
            assert int((weight == 0).sum()) == 0, parameter
    assert manager.distills == bool(percent)
    assert manager.max_epochs == (40 if quantized else 30 if percent else 2)
    assert is_quantizing(model) == quantized
    if quantized:
        linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        assert linear <= {name for name, _ in quantized_modules(model)}
        modifier = next(modifier for modifier in manager.modifiers if isinstance(modifier, QuantizationModifier))
        assert (modifier.start_epoch, modifier.last_change_epoch) == (30, 35)
        rates = [manager.learning_rate(Clock(epoch, 1), 0, 1.0) for epoch in (0, 15, 30, 35, 40)]
        assert rates == pytest.approx([5e-5, 2.5e-5, 5e-5, 2.5e-5, 0.0])


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_one_variable_scales_the_whole_recipe(path):
    full = ScheduledModifierManager.from_yaml(path)
    scaled = ScheduledModifierManager.from_yaml(path, {"num_epochs": full.max_epochs / 5})
    for modifier, shorter in zip(full.modifiers, scaled.modifiers, strict=True):
        for long, short in zip(modifier.window, shorter.window, strict=True):
            assert short == pytest.approx(long / 5)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_says_how_to_run_it_and_what_it_reaches(path):
    text = path.read_text()
    assert f"--output_dir MODELS_DIR/{path.stem} " in text
    assert "- Published for SQuAD v1.1, EM / F1: " in text
    assert "- Measured by this project" in text
    assert "arXiv:" in text
