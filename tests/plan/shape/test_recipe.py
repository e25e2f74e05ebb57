"""Recipes of shapes load, fit the model, and leave the shape that was planned."""

import pytest
from transformers import AutoModelForQuestionAnswering

from helpers.exports import make_bert
from helpers.trainers import SparseTrainer, arguments, make_data, make_model
from sparsification.manager import ScheduledModifierManager
from sparsification.plan.shape.encoder import Shape, find_encoder
from sparsification.plan.shape.recipe import write_recipe


def names(text: str) -> list[str]:
    return sorted(type(modifier).__name__ for modifier in ScheduledModifierManager.from_yaml(text).modifiers)


@pytest.mark.parametrize("dropped", [(), (1,)])
def test_one_shot_leaves_the_planned_layers_and_neurons(dropped, tmp_path):
    model = make_model()
    encoder = find_encoder(model)
    shape = Shape(dropped, encoder.widths()[2])
    layers = [layer for index, layer in enumerate(model.bert.encoder.layer) if index not in dropped]
    trainer = SparseTrainer(
        model=model,
        args=arguments(tmp_path),
        train_dataset=make_data(),
        manager=ScheduledModifierManager.from_yaml(write_recipe(encoder, shape, int8=False)),
    )
    trainer.apply_one_shot()
    assert list(model.bert.encoder.layer) == layers
    trainer.save_model()
    loaded = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert (loaded.config.num_hidden_layers, loaded.config.intermediate_size) == (len(layers), shape.width)


def test_recipe_has_what_the_shape_needs_and_no_more():
    encoder = find_encoder(make_bert(layers=2))
    whole = Shape((), encoder.width)
    assert names(write_recipe(encoder, whole, int8=False)) == ["EpochRangeModifier"]
    assert names(write_recipe(encoder, whole, int8=True)) == ["EpochRangeModifier", "QuantizationModifier"]
    narrow = ["EpochRangeModifier", "LayerThinningModifier", "ReconstructionPruningModifier"]
    assert names(write_recipe(encoder, Shape((), encoder.widths()[0]), int8=False)) == narrow
    assert "LayerPruningModifier" in names(write_recipe(encoder, Shape((1,), encoder.width), int8=False))


def test_training_distils_the_layers_that_stay():
    encoder = find_encoder(make_bert(layers=2))
    manager = ScheduledModifierManager.from_yaml(
        write_recipe(encoder, Shape((1,), encoder.widths()[3]), True, ["why"], 4)
    )
    found = {type(modifier).__name__: modifier for modifier in manager.modifiers}
    assert found["PerLayerDistillationModifier"].student_layer_names == ["__ENCODER__"]
    assert found["ReconstructionPruningModifier"].end_epoch == pytest.approx(0.9)
    assert found["QuantizationModifier"].start_epoch == 3 and manager.max_epochs == 4
    manager.initialize(make_bert(layers=2))
