"""Units of models and their options."""

import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from helpers.exports import make_albert, make_batch, make_bert, make_distilbert
from helpers.tiny_encoders import save_tiny_encoder
from sparsification.plan.units import Option, PlanError, find_units, options, outside_of_units


def test_layers_with_the_same_inputs_are_one_unit_in_the_order_of_their_calls():
    units = find_units(make_bert(layers=1).eval(), make_batch(2, 8))
    layer = "bert.encoder.layer.0"
    assert [unit.label for unit in units] == [
        f"{layer}.attention.self.query, key, value",
        f"{layer}.attention.output.dense",
        f"{layer}.intermediate.dense",
        f"{layer}.output.dense",
    ]
    assert [unit.shape for unit in units] == [(32, 96), (32, 32), (32, 64), (64, 32)]
    assert units[0].weights == tuple(f"{layer}.attention.self.{name}.weight" for name in ("query", "key", "value"))


def test_other_families_have_the_same_units():
    units = find_units(make_distilbert().eval(), make_batch(2, 8, ["input_ids", "attention_mask"]))
    assert [unit.shape for unit in units] == [(32, 96), (32, 32), (32, 64), (64, 32)] * 2


def test_layers_that_run_several_times_are_in_no_unit(tmp_path):
    save_tiny_encoder("DeBERTa v3", tmp_path)  # projects its relative positions by the layers of query and key
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
    units = find_units(model, make_batch(2, 8, ["input_ids", "attention_mask"]))
    layer = "deberta.encoder.layer.0"
    assert [unit.weights for unit in units[:2]] == [
        (f"{layer}.attention.self.value_proj.weight",),
        (f"{layer}.attention.output.dense.weight",),
    ]
    assert len(units) == 8
    projections = [f"attention.self.{name}_proj.weight" for name in ("query", "key")]
    assert outside_of_units(model, units) == [
        f"deberta.encoder.layer.{index}.{name}" for index in range(2) for name in projections
    ]


def test_model_whose_layers_all_run_several_times_is_refused():
    with pytest.raises(PlanError, match=r"runs 3 times in one pass: plans are for layers that run once"):
        find_units(make_albert().eval(), make_batch(2, 8))


def test_model_without_linear_layers_in_an_encoder_is_refused():
    with pytest.raises(PlanError, match="encoder has no linear layer that can be pruned"):
        find_units(torch.nn.ReLU(), {"input": torch.ones(1)})


def test_blocks_are_for_int8_alone():
    assert {option.pattern for option in options("fp32")} == {"dense", "unstructured"}
    assert {option.pattern for option in options("int8")} == {"dense", "unstructured", "1x4"}
    assert str(Option("int8", "1x4", 0.85)) == "int8 1x4 85%"
