"""Each recipe of the folder: does it load, and does it do what its name says?"""

import re
from pathlib import Path

import pytest
from transformers import BertConfig, BertForQuestionAnswering

from sparsification.manager import ScheduledModifierManager

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("bert-base*.md"))


def name(path: Path) -> str:
    return path.stem


def test_the_tutorials_recipes_are_there():
    pruned = {f"bert-base-{layers}layers_prune{percent}" for layers in (12, 6) for percent in (80, 90, 95)}
    assert {path.stem for path in RECIPES} == pruned | {"bert-base-12layers"}


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
    promise = re.fullmatch(r"bert-base-(\d+)layers(_prune(\d+))?", path.stem)
    layers, percent = int(promise[1]), int(promise[3] or 0)
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == layers
    if layers == 6:
        assert list(model.bert.encoder.layer) == kept
    for parameter, weight in model.named_parameters():
        if "encoder" in parameter and weight.dim() == 2:
            assert int((weight == 0).sum()) == round(weight.numel() * percent / 100), parameter
        elif weight.dim() == 2 and "word" not in parameter:
            assert int((weight == 0).sum()) == 0, parameter
    assert manager.distills == bool(percent)
    assert manager.max_epochs == (30 if percent else 2)


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
