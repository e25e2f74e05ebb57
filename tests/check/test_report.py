"""The report of ``check``: schedules, sizes and warnings, and exit codes.

Schedules are compared with closed forms written down here, sizes with files that are really compressed, and what a
model becomes with what the manager makes of it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    ViTConfig,
    ViTForImageClassification,
)

from helpers import GOLDEN as FOLDER
from helpers import ROOT
from helpers.checking import RUN, SAMPLED, SOUND, warnings_of, write
from sparsification.base import Modifier
from sparsification.check.estimate import build_model
from sparsification.check.report import check
from sparsification.cli.main import main
from sparsification.modifiers import MODIFIERS
from sparsification.recipe.loader import load_recipe

RECIPES = [path for path in sorted((ROOT / "recipes").glob("*.md")) if path.name != "README.md"]
RECIPES.append(ROOT / "quickstart" / "recipe.yaml")
GOLDEN = json.loads((FOLDER / "recipes/recipes.json").read_text())
OLD = [name for name in GOLDEN if name.startswith("old/")]


# What is shipped, and what is old


def test_shipped_recipe_has_no_warnings(subtests):
    for path in RECIPES:
        with subtests.test(path.name):
            report, warnings = check(str(path))
            assert warnings == []
            assert "No warnings." in report


def test_recipe_that_training_writes_has_no_warnings(tmp_path, subtests):
    for path in RECIPES:
        with subtests.test(path.name):
            recipe = load_recipe(path)
            assert load_recipe(recipe.to_yaml()).modifiers == recipe.modifiers  # so it raises none either
    (tmp_path / "recipe.yaml").write_text(load_recipe(RECIPES[0]).to_yaml(), encoding="utf-8")
    assert main(["check", "--strict", str(tmp_path / "recipe.yaml")]) == 0


def test_legacy_recipe_has_warnings_about_its_dots_only(subtests, tmp_path):
    for name in OLD:
        with subtests.test(name):
            path = tmp_path / "old.yaml"
            path.write_text(GOLDEN[name]["str"], encoding="utf-8")
            report, warnings = check(str(path))
            assert [text.partition(": ")[2].partition(":")[0] for text in warnings] == ["GMPruningModifier"]
            assert "(in 5 more patterns too); to match dots, write" in warnings[0]
            assert max(map(len, report.split("\n\nwarning")[0].splitlines())) <= 100


def test_sound_recipe_has_no_warnings_with_and_without_a_model(tmp_path, model_dir):
    assert warnings_of(tmp_path, SOUND) == []
    assert warnings_of(tmp_path, SOUND, model_name=model_dir) == []


@pytest.mark.parametrize(
    ("keys", "memory"),
    [
        ("fisher_block_size: 16", 4 * 16),
        ("fisher_block_size: 16\n    damp: auto", 2 * 4 * 16),
        ("global_sparsity: True", 4),
        ("num_grads: {0.0: 3, 0.5: 20}", 4 * 20),
    ],
)
def test_report_has_the_cost_of_sampled_gradients(keys, memory, tmp_path, model_dir):
    recipe = SAMPLED + f"    {keys}\n"
    if "{0.0" in keys:
        recipe = recipe.replace("    num_grads: 256\n", "").replace("OBSPruning", "MFACPruning")
    path = write(tmp_path, recipe)
    text = " ".join(check(path, model_name=model_dir, num_examples=10_240, batch_size=16)[0].split())
    if "{0.0" not in keys:
        assert "gradients of 256 batches of 4 for each of 5 masks: as much as 0.1 epochs each, 0.5 in all" in text
    assert f"2 memory about {memory * 2048 / 1e6:.3g} MB beside the model while it computes a mask" in text


# Doubts


# Exit codes


@dataclass(kw_only=True)
class LoudModifier(Modifier):
    """Warns of a length that it does not like."""

    params: list[str]

    @property
    def parameter_patterns(self) -> list[str]:
        return self.params

    def warnings(self, length: float | None) -> Iterator[str]:
        yield f"{length:g} epochs are many"


def test_a_modifier_of_the_users_own_is_checked_by_its_hooks(tmp_path, model_dir):
    loud = r"  - !LoudModifier {params: ['re:.*0.attention.self.query\.bias']}"
    path = write(tmp_path, RUN + loud)
    own = MODIFIERS | {"LoudModifier": LoudModifier}
    report, warnings = check(path, model_name=model_dir, modifiers=own)
    assert warnings[0] == f"{path}, line 3: LoudModifier: 10 epochs are many"
    assert "match any character" in warnings[1]
    assert len(warnings) == 2
    assert "1 parameters, 16 weights: bert.encoder.layer.0.attention.self.query.bias" in " ".join(report.split())


# Numbers


# A model


# The picture


CLASSIFIER = (
    RUN
    + """
  - !TrainableParamsModifier
    params: [classifier.weight]
    trainable: False
"""
)


@pytest.mark.parametrize("with_weights", [True, False], ids=["weights", "configuration"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (BertForSequenceClassification, BertForSequenceClassification),
        (BertForTokenClassification, BertForTokenClassification),
        (BertForQuestionAnswering, BertForQuestionAnswering),
        (BertForMaskedLM, BertForQuestionAnswering),  # run_qa.py replaces the heads of pretraining
        (BertModel, BertForQuestionAnswering),
    ],
)
def test_model_has_the_head_that_its_configuration_names(kind, expected, with_weights, tmp_path, capsys):
    model = kind(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    model.save_pretrained(tmp_path / "model")
    if not with_weights:
        (tmp_path / "model" / "model.safetensors").unlink()
    built, has_weights = build_model(str(tmp_path / "model"))
    assert type(built) is expected and has_weights is with_weights
    status = main(["check", write(tmp_path, CLASSIFIER), "--model", str(tmp_path / "model")])
    has_classifier = expected is not BertForQuestionAnswering
    assert status == (0 if has_classifier else 1), capsys.readouterr().err


def test_model_without_a_question_answering_head_keeps_its_own(tmp_path):
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    assert type(build_model(str(tmp_path))[0]) is ViTForImageClassification
