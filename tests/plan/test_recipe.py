"""Recipes of plans load, and say what the plan says."""

import pytest

from helpers.plans import LAYERS, UNITS, make_costs, make_losses
from sparsification import cpu
from sparsification.manager import ScheduledModifierManager
from sparsification.plan.planner import MILLISECONDS, Choice, Plan, Target, make_plan
from sparsification.plan.recipe import write_recipe
from sparsification.plan.units import Option


def plan_for(limit: float, precision: str) -> Plan:
    return make_plan(UNITS, make_costs(), make_losses(), Target("", MILLISECONDS, limit), [precision])


def plan_of(*chosen: Option) -> Plan:
    choices = [Choice(unit, option, 1.0, 1.0, 0.1) for unit, option in zip(UNITS, chosen, strict=True)]
    return Plan(Target("", MILLISECONDS, 3.0), chosen[0].precision, choices, {}, {}, {})


def modifiers(text: str) -> dict[str, list]:
    found: dict[str, list] = {}
    for modifier in ScheduledModifierManager.from_yaml(text).modifiers:
        found.setdefault(type(modifier).__name__, []).append(modifier)
    return found


def test_one_shot_recipe_has_a_group_for_each_sparsity():
    plan = plan_for(3.0, "int8")
    found = modifiers(write_recipe(plan, ["why", "# and: how"]))
    assert set(found) == {"EpochRangeModifier", "ReconstructionPruningModifier", "QuantizationModifier"}
    groups = {name: s for one in found["ReconstructionPruningModifier"] for s, names in one.groups() for name in names}
    assert groups == {c.unit.weights[0]: c.option.sparsity for c in plan.choices if c.option.sparsity}
    assert len(groups) > 0


def test_two_patterns_are_two_groups_of_one_modifier():
    plan = plan_of(Option("int8", "1x4", 0.8), Option("int8", "unstructured", 0.9))
    (pruning,) = modifiers(write_recipe(plan, num_samples=512))["ReconstructionPruningModifier"]
    assert pruning.mask_type == {"block4": ["encoder.0.weight"], "unstructured": ["encoder.1.weight"]}
    assert pruning.groups() == [(0.8, ["encoder.0.weight"]), (0.9, ["encoder.1.weight"])]
    assert pruning.reference == "self" and pruning.num_samples == 512


def test_one_pattern_needs_no_groups():
    plan = plan_of(Option("int8", "1x4", 0.8), Option("int8", "1x4", 0.9))
    (pruning,) = modifiers(write_recipe(plan))["ReconstructionPruningModifier"]
    assert pruning.mask_type == "block4"


@pytest.mark.parametrize("vnni", [True, False, None])
def test_weights_have_seven_bits_on_a_processor_whose_sums_of_eight_overflow(vnni, monkeypatch):
    monkeypatch.setattr(cpu, "has_vnni", lambda: vnni)
    (quantizing,) = modifiers(write_recipe(plan_of(Option("int8"), Option("int8"))))["QuantizationModifier"]
    assert quantizing.reduce_range is (vnni is False)


def test_dropped_layers_go_first_and_those_that_stay_are_distilled():
    drops = {(0,): 0.0}
    target = Target("", MILLISECONDS, 2.0)
    plan = make_plan(UNITS, make_costs(), make_losses(), target, ["int8"], LAYERS, drops)
    found = modifiers(write_recipe(plan, epochs=8.0))
    (dropping,), (distilling,) = found["LayerPruningModifier"], found["PerLayerDistillationModifier"]
    assert dropping.layers == ["encoder.0"] and distilling.student_layer_names == ["__ENCODER__"]
    (pruning,) = found["ReconstructionPruningModifier"]
    assert [names for _, names in pruning.groups()] == [["encoder.1.weight"]]


def test_dense_plan_only_quantizes():
    found = modifiers(write_recipe(plan_of(Option("int8"), Option("int8"))))
    assert set(found) == {"EpochRangeModifier", "QuantizationModifier"}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_recipe_of_a_training_prunes_distills_and_ends_with_its_epochs(precision):
    text = write_recipe(plan_for(8.0, precision), epochs=8.0)
    manager, found = ScheduledModifierManager.from_yaml(text), modifiers(text)
    assert manager.max_epochs == 8.0 and manager.distills and manager.sets_learning_rate
    pruned = 6.0 if precision == "int8" else 8.0
    for modifier in found["ReconstructionPruningModifier"]:
        assert modifier.init_sparsity == 0.5 and modifier.end_epoch == pytest.approx(0.3 * pruned)
        assert modifier.reference == "self"
    quantizing = found.get("QuantizationModifier", [])
    assert [modifier.start_epoch for modifier in quantizing] == ([6.0] if precision == "int8" else [])
    ends = [(one.start_epoch, one.end_epoch) for one in found["LearningRateFunctionModifier"]]
    assert ends[0][0] == 0.0 and ends[-1][1] == 8.0
    assert [end for _, end in ends[:-1]] == [start for start, _ in ends[1:]]
